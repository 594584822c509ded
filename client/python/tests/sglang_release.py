"""Makes `sglang` importable for the tests of simm.sglang. Import it before simm.sglang.

SIMM_SGLANG_PATH names the folder that `pip install --no-deps --target FOLDER sglang==VERSION` has
filled; without it the tests fail, they do not skip. What pytest runs in one process uses one
release; tests/run.sh runs the lane once for each.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import sglang_stubs  # noqa: E402

PATH = os.environ.get("SIMM_SGLANG_PATH", "")
if not PATH:
    raise RuntimeError(
        "SIMM_SGLANG_PATH is not set: python3 -m pip install --no-deps --target FOLDER "
        "sglang==0.5.20, then SIMM_SGLANG_PATH=FOLDER. tests/run.sh sglang does all that."
    )
sglang_stubs.use(PATH)

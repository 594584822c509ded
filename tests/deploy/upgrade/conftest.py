from pathlib import Path

import pytest
from mixed import programs


@pytest.fixture(scope="session")
def versions() -> dict[str, Path]:
    return {"old": programs("SIMM_PREVIOUS_BIN_DIR"), "new": programs("SIMM_BIN_DIR")}

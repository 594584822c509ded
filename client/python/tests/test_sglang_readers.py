"""Eight ranks that read the same 128 pages take less than eight times as long as one (MLA, TP8)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import bin_dir

ROOT = Path(__file__).resolve().parents[3]
READERS = 8


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_eight_readers(transport, capsys):
    command = [
        sys.executable, str(ROOT / "bench/sglang/hicache_bench.py"), "--json",
        "--build", str(bin_dir().parent), "--transport", transport,
        "--readers", str(READERS), "--rounds", "7", "--model", "MLA fp8",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    with capsys.disabled():
        print(f"\nsglang: {READERS} readers over {transport}: {figures}")
    assert figures["times_one"] <= READERS

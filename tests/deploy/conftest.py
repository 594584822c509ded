"""What the tests of deploy/ share: the chart rendered by helm, and a cluster of real processes.

Lane `deploy` of tests/run.sh sets SIMM_BIN_DIR (the built programs) and SIMM_HELM.
"""

import os
import shutil
from pathlib import Path

import pytest

import live

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bin_dir() -> Path:
    path = Path(os.environ.get("SIMM_BIN_DIR", ROOT / "build/bin"))
    if not (path / "simm-manager").exists():
        pytest.fail(f"{path} has no programs: build them, or set SIMM_BIN_DIR")
    return path


@pytest.fixture(scope="session")
def cluster(bin_dir, tmp_path_factory):
    """A manager and two data servers with traffic, as long as the session."""
    with live.Cluster(bin_dir, tmp_path_factory.mktemp("cluster"), servers=2) as running:
        yield running


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.fail("promtool is missing: deploy/install_packages.sh --deploy")
    return found

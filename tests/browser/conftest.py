"""What the tests of the status page share: the programs, a browser, staged clusters.

Lane `browser` of tests/run.sh sets SIMM_BIN_DIR. Screenshots go to SIMM_SCREENSHOTS, or to a
folder of the run.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/deploy"))  # live.py: real processes

import live  # noqa: E402
from chromium import Chromium  # noqa: E402


@pytest.fixture(scope="session")
def bin_dir() -> Path:
    path = Path(os.environ.get("SIMM_BIN_DIR", ROOT / "build/bin"))
    if not (path / "simm-manager").exists():
        pytest.fail(f"{path} has no programs: build them, or set SIMM_BIN_DIR")
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    folder = os.environ.get("SIMM_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("chromium") / "profile")
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser):
    """The browser, its complaints empty before and after."""
    browser.complaints.clear()
    browser.show(1200, 900)
    yield browser
    assert browser.complaints == []


@pytest.fixture
def staged(bin_dir, browser):
    """staged(SCENE): a context in which that scene is served; its address. The browser leaves the
    page before the end, unless stays=True."""
    program = bin_dir.parent / "tests/staged_page"

    @contextmanager
    def serve(scene: str, stays: bool = False):
        child = subprocess.Popen([program, scene], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            yield json.loads(child.stdout.readline())["http"]
        finally:
            if not stays:
                browser.open("about:blank")
            child.stdin.close()
            child.wait(timeout=20)
            child.stdout.close()

    return serve


@pytest.fixture(scope="session")
def cluster(bin_dir, tmp_path_factory):
    """A manager and three data servers, as long as the session."""
    with live.Cluster(bin_dir, tmp_path_factory.mktemp("cluster"), servers=3) as running:
        yield running

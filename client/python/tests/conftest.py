"""Clusters for the tests of this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster  # noqa: E402

# What simm.sglang is tested with: tests/run.sh sglang fetches SGLang's files and names the folder.
WITH_SGLANG = "SIMM_SGLANG_PATH" in os.environ
collect_ignore_glob = [] if WITH_SGLANG else ["test_sglang_*.py", "test_hicache_simm.py"]


def pytest_report_header() -> str:
    return "" if WITH_SGLANG else "SIMM_SGLANG_PATH is not set: the tests of simm.sglang do not run"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two data servers for all tests of a file; who kills one starts a cluster of his own."""
    with Cluster(servers=2) as running:
        yield running

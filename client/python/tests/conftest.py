"""Clusters for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two data servers for all tests of a file; who kills one starts a cluster of his own."""
    with Cluster(servers=2) as running:
        yield running

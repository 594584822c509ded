"""Each documented way to name the cluster, through SGLang's controller, on real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sglang_pools as pools
from live_cluster import LiveCluster
from sglang_scheduler import Scheduler

SHAPE = pools.Shape(tokens=1024, page_size=16, layers=4, heads=2, head_dim=64)
PAGES = 8
VARIABLES = {
    "environment": "SIMM_CLUSTER_MANAGER",
    "file": "SGLANG_HICACHE_SIMM_CONFIG_PATH",
    "alias": "DEFAULT_SIMM_CONFIG_PATH_ENV",
}


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"])
def cluster(request):
    with LiveCluster(servers=2, memory="64MiB", host=request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("transport", ["tcp", "auto"])
@pytest.mark.parametrize("way", ["extra_config", *VARIABLES])
def test_pages_are_stored_and_found(cluster, tmp_path, monkeypatch, way, transport):
    extra = {"extra_backend_tag": f"{way}-{transport}", "transport": transport}
    if way == "extra_config":
        extra["manager_address"] = cluster.manager
    elif way == "environment":
        monkeypatch.setenv(VARIABLES[way], cluster.manager)
    else:
        path = tmp_path / "simm.json"
        path.write_text(json.dumps({"manager_address": cluster.manager}))
        monkeypatch.setenv(VARIABLES[way], str(path))
    pool = pools.mha(SHAPE)
    rank = Scheduler(pool, extra)
    try:
        assert rank.backend.config.manager_address == (cluster.manager,)
        tokens = [(i * 7919) % 150_000 for i in range(PAGES * SHAPE.page_size)]
        assert rank.store(tokens, pools.indices_of(pool, PAGES)) == len(tokens)
        assert rank.load(tokens)[0] == len(tokens)
    finally:
        rank.close()


def test_the_command_of_the_readme(cluster):
    """SIMM_CLUSTER_MANAGER="127.0.0.1:30001" python3 test_hicache_simm.py"""
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "test_hicache_simm.py"],
        cwd=folder,
        env={
            **os.environ,
            "SIMM_CLUSTER_MANAGER": cluster.manager,
            "SIMM_SGLANG_PATH": str(Path(os.environ["SIMM_SGLANG_PATH"]).resolve()),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"Cluster: {cluster.manager}.")
    assert "  the environment alone: ok" in lines
    assert lines[-1] == "\u2705 All tests passed"

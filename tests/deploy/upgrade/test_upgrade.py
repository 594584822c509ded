"""Versions N and N-1 in one cluster, and the way from one to the other.

Lane `upgrade` of tests/run.sh builds the programs of `previous_commit` and says where they are:
SIMM_PREVIOUS_BIN_DIR, beside SIMM_BIN_DIR.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/deploy"))

import live  # noqa: E402

KEYS = 24


def programs(variable: str) -> Path:
    path = Path(os.environ.get(variable, ""))
    if not (path / "simm-manager").exists():
        pytest.fail(f"{variable} names no folder with the programs: run tests/run.sh upgrade")
    return path


@pytest.fixture(scope="session")
def versions() -> dict[str, Path]:
    return {"old": programs("SIMM_PREVIOUS_BIN_DIR"), "new": programs("SIMM_BIN_DIR")}


class MixedCluster(live.Cluster):
    """Says of each process which version it is of; pools are files, so restarts are warm."""

    def __init__(self, versions, folder: Path, manager: str, servers: str, late: int = 0):
        (folder / "pools").mkdir()
        arguments = ["--memory", "64MiB", "--pool", f"{folder}/pools/{{name}}"]
        super().__init__(versions[servers], folder, 2 + late, arguments)
        # Those that come late are started by the test.
        self.names = self.names[:2]
        self._versions = versions
        self._manager_version = manager

    def start_manager(self, bin_dir: Path | None = None):
        super().start_manager(bin_dir or self._versions[self._manager_version])

    def client(self, version: str, program: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [self._versions[version] / program, "--manager", self.manager, *arguments],
            input=stdin, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{version} {program} {arguments}: {done.stderr}{done.stdout}"
        return done.stdout

    def exchange(self, version: str, program: str):
        """Puts this version's program through the cluster, over each way that is there."""
        for transport in ("tcp", "shm"):
            self.client(
                version, program, "--transport", transport, "--namespace", f"{version}-{transport}",
                "--verify", "--seconds", "0.3", "--warmup-seconds", "0", "--value-size", "64KiB",
                "--keys", "64", "--json", "get",
            )  # fmt: skip

    def upgrade_manager(self, version: str):
        assert self.stop("manager") == 0
        self.start_manager(self._versions[version])
        live.wait_for("the manager is ready", lambda: live.fetch(self.http["manager"], "/readyz"))

    def upgrade_server(self, name: str, version: str):
        assert self.stop(name) == 0
        self.start_server(name, self._versions[version])
        self.wait_ready(name)


def put_keys(cluster: MixedCluster, version: str):
    for i in range(KEYS):
        cluster.client(version, "simmctl", "put", f"{version}-{i}", "-", stdin=value_of(version, i))


def value_of(version: str, i: int) -> str:
    return f"{version} {i} " * 2_000


def missing(cluster: MixedCluster, reader: str, writer: str) -> list[int]:
    """Of what `writer` has put; a wrong byte is a failure, not a miss."""
    names = [f"{writer}-{i}" for i in range(KEYS)]
    lost = []
    for i, name in enumerate(names):
        done = subprocess.run(
            [cluster._versions[reader] / "simmctl", "--manager", cluster.manager, "get", name],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        if done.returncode == 1:
            lost.append(i)
        else:
            assert done.stdout == value_of(writer, i)
    return lost


@pytest.mark.parametrize("manager, servers", [("old", "new"), ("new", "old"), ("new", "new")])
def test_each_version_of_the_clients_works_on_a_mixed_cluster(versions, tmp_path, manager, servers):
    with MixedCluster(versions, tmp_path, manager, servers) as cluster:
        for version in versions:
            cluster.exchange(version, "simm-bench")
            put_keys(cluster, version)
            status = json.loads(cluster.client(version, "simmctl", "--json", "nodes"))
            assert {node["name"] for node in status["nodes"]} == {"server-0", "server-1"}
        for reader, writer in itertools.product(versions, versions):
            assert missing(cluster, reader, writer) == []


@pytest.mark.parametrize("first, second", [("old", "new"), ("new", "old")])
def test_a_server_of_the_other_version_joins(versions, tmp_path, first, second):
    """A third of the shards moves, without their entries where a version cannot send or pull them:
    then those keys are misses, to both clients, and the others are there."""
    with MixedCluster(versions, tmp_path, "new", first, late=1) as cluster:
        put_keys(cluster, "old")
        cluster.start_server("server-2", versions[second])
        cluster.wait_ready("server-2")
        lost = [missing(cluster, reader, "old") for reader in versions]
        assert lost[0] == lost[1] and len(lost[0]) <= KEYS * 2 // 3
        for version in versions:
            cluster.exchange(version, "simm-bench")
        put_keys(cluster, "new")
        for reader in versions:
            assert missing(cluster, reader, "new") == []


def test_a_rolling_upgrade_loses_nothing_and_clients_of_before_work_through_it(versions, tmp_path):
    """Manager first, then one data server after another, as the README says; then back again."""
    with MixedCluster(versions, tmp_path, "old", "old") as cluster:
        put_keys(cluster, "old")
        # Works from before the first step until after the last one; a wrong byte ends it with 1.
        cluster.start(
            "load", versions["old"] / "simm-bench", "--manager", cluster.manager, "--verify",
            "--namespace", "load", "--seconds", "6", "--value-size", "64KiB", "--keys", "64",
            "--threads", "2", "get",
        )  # fmt: skip
        cluster.upgrade_manager("new")
        assert missing(cluster, "old", "old") == []
        for name in cluster.names:
            cluster.upgrade_server(name, "new")
            assert missing(cluster, "new", "old") == []
        put_keys(cluster, "new")
        assert cluster.stop("load", signal_it=False) == 0, cluster.log("load")
        for name in cluster.names:
            cluster.upgrade_server(name, "old")
        for reader, writer in itertools.product(versions, versions):
            assert missing(cluster, reader, writer) == []

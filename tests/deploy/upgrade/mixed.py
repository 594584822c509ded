"""A cluster whose processes are of two versions."""

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

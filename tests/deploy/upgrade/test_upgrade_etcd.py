"""Managers of both versions on one etcd: each reads the state that the other has saved."""

import json
import subprocess
from pathlib import Path

import live
import pytest
from mixed import MixedCluster, missing, put_keys

ETCD = Path("/usr/bin/etcd")
MANAGERS = 3


class ManagersOnEtcd(MixedCluster):
    """Three managers instead of one: manager-0 to manager-2, at first of version `managers`."""

    def __init__(self, versions, folder: Path, managers: str, servers: str):
        super().__init__(versions, folder, managers, servers)
        if not ETCD.exists():
            pytest.fail("no etcd: apt-get install etcd-server")
        self._etcd, self._peers, *ports = (f"127.0.0.1:{p}" for p in live.free_ports(2 + 6))
        self.addresses = ports[:MANAGERS]
        self.manager = ",".join(self.addresses)
        self.http |= {f"manager-{i}": ports[MANAGERS + i] for i in range(MANAGERS)}

    def start_manager(self, bin_dir: Path | None = None):
        self.start(
            "etcd", ETCD, "--data-dir", self.folder / "etcd",
            "--listen-client-urls", f"http://{self._etcd}",
            "--advertise-client-urls", f"http://{self._etcd}",
            "--listen-peer-urls", f"http://{self._peers}",
            "--initial-advertise-peer-urls", f"http://{self._peers}",
            "--initial-cluster", f"default=http://{self._peers}",
        )  # fmt: skip
        for i in range(MANAGERS):
            self.start_one(i, self._manager_version)

    def start_one(self, i: int, version: str):
        self.start(
            f"manager-{i}", self._versions[version] / "simm-manager",
            "--listen", self.addresses[i], "--http", self.http[f"manager-{i}"],
            "--etcd", f"http://{self._etcd}", "--lease-ms", "2000", "--new-cluster",
        )  # fmt: skip

    def status(self, version: str) -> dict:
        done = subprocess.run(
            [self._versions[version] / "simmctl", "--manager", self.manager, "--json", "status"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return json.loads(done.stdout) if done.stdout else {}

    def leader(self, version: str) -> str:
        return live.wait_for("somebody leads", lambda: self.status(version).get("leader"))


def test_managers_are_replaced_one_by_one(versions, tmp_path):
    """The leader last, as the README says; there is no way back for managers."""
    first, second = "old", "new"
    with ManagersOnEtcd(versions, tmp_path, first, first) as cluster:
        put_keys(cluster, first)
        leader = cluster.addresses.index(cluster.leader(first))
        epoch = cluster.status(first)["epoch"]
        for i in [(leader + 1) % MANAGERS, (leader + 2) % MANAGERS, leader]:
            assert cluster.stop(f"manager-{i}") == 0
            cluster.start_one(i, second)
            http = cluster.http[f"manager-{i}"]
            live.wait_for("it is ready", lambda http=http: live.fetch(http, "/readyz"))
            assert missing(cluster, first, first) == []
        assert cluster.leader(second) in cluster.addresses
        assert cluster.status(second)["epoch"] == epoch, "an upgrade of managers moves nothing"
        # The new leader decides, upon what the old one has saved.
        cluster.upgrade_server("server-0", second)
        put_keys(cluster, second)
        for reader in versions:
            assert missing(cluster, reader, first) == []
            assert missing(cluster, reader, second) == []

"""Clusters of real processes for the tests of simm.sglang: chosen sizes, all servers at once."""

import os
import time
from pathlib import Path

from cluster import Cluster, bin_dir

MEAN_VALUE = "64KiB"


def program(name):
    """The path of one of SiMM's programs. FileNotFoundError says how to name them."""
    path = Path(bin_dir(), name)
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(
            f"{path} is missing: build it (cmake --build build --target {name}) or set "
            "SIMM_BIN_DIR to the folder that holds simm-manager and simm-dataserver"
        )
    return str(path)


def wait_until(condition, seconds=10.0, what="it"):
    """Polls, and raises TimeoutError: other processes say nothing when they are ready."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.005)


class LiveCluster(Cluster):
    """A Cluster whose times, memory and mean value are given. Servers go by their number."""

    def __init__(
        self, servers=2, memory="256MiB", dead_ms=1500, mean_value=MEAN_VALUE, host="127.0.0.1"
    ):
        for name in ("simm-manager", "simm-dataserver", "simmctl"):
            program(name)
        self._dead_ms, self._mean_value, self._host = dead_ms, mean_value, host
        self._any_port = f"[{host}]:0" if ":" in host else f"{host}:0"
        self.servers = list(range(servers))
        super().__init__(servers, memory)

    @property
    def manager(self):
        return self.address

    def start_manager(self):
        listen = self._ready.get("manager", {}).get("listen", self._any_port)
        self._start(
            "manager", "simm-manager", "--listen", listen, "--http", "off",
            "--state", str(Path(self._folder.name, "state")), "--new-cluster",
            "--heartbeat-ms", "100", "--suspect-ms", "500", "--dead-ms", str(self._dead_ms),
        )  # fmt: skip

    def start_server(self, index):
        name = f"server-{index}"
        before = self._ready.get(name, {})
        self._start(
            name, "simm-dataserver", "--manager", self.address, "--name", name,
            "--memory", self._memory, "--mean-value", self._mean_value, "--http", "off",
            "--advertise", self._host, "--session-timeout-ms", "2000",
            "--listen", before.get("listen", self._any_port),
            "--data-listen", before.get("data_listen", self._any_port),
        )  # fmt: skip

    def kill_server(self, index):
        self.kill(f"server-{index}")

    def kill_all_servers(self):
        for index in self.servers:
            self.kill_server(index)

    def pause_server(self, index):
        self.pause(f"server-{index}")

    def resume_server(self, index):
        self.resume(f"server-{index}")

"""A SiMM cluster of real processes on loopback, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Callable

REPOSITORY = Path(__file__).resolve().parents[3]


def bin_dir() -> Path:
    """Where simm-manager and simm-dataserver are: SIMM_BIN_DIR, or the repository's build/bin."""
    return Path(os.environ.get("SIMM_BIN_DIR", REPOSITORY / "build" / "bin"))


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Looks every 5 ms; False when the time ran out first."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class Cluster:
    """A manager and data servers "server-0", "server-1", ...; ports are chosen by the kernel.

    A data server that is silent for 1.5 s is dead. Ends all processes on exit.
    """

    def __init__(self, servers: int = 1, memory: str = "256MiB") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="simm-python-")
        self._memory = memory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ready: dict[str, dict[str, str]] = {}
        try:
            self.start_manager()
            for index in range(servers):
                self.start_server(index)
            self.wait_alive(servers)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The manager's "host:port"."""
        return self._ready["manager"]["listen"]

    @property
    def host_and_port(self) -> tuple[str, str]:
        """The same in two parts, as SiMM's flags want it."""
        host, port = self.address.rsplit(":", 1)
        return host, port

    def start_manager(self) -> None:
        """Starts or restarts the manager, on the port that it had."""
        listen = self._ready.get("manager", {}).get("listen", "127.0.0.1:0")
        self._start(
            "manager", "simm-manager", "--listen", listen, "--http", "off",
            "--state", str(Path(self._folder.name, "state")), "--new-cluster",
            "--heartbeat-ms", "100", "--suspect-ms", "500", "--dead-ms", "1500",
        )  # fmt: skip

    def start_server(self, index: int) -> None:
        """Starts or restarts a data server, on the ports that it had."""
        name = f"server-{index}"
        before = self._ready.get(name, {})
        self._start(
            name, "simm-dataserver", "--manager", self.address, "--name", name,
            "--memory", self._memory, "--http", "off", "--advertise", "127.0.0.1",
            "--listen", before.get("listen", "127.0.0.1:0"),
            "--data-listen", before.get("data_listen", "127.0.0.1:0"),
            "--session-timeout-ms", "2000",
        )  # fmt: skip

    def wait_alive(self, servers: int, seconds: float = 60) -> None:
        """Until so many data servers are alive, know the newest map, and no shard is on its way."""

        def alive() -> bool:
            done = subprocess.run(
                [bin_dir() / "simmctl", "--manager", self.address, "--json", "nodes"],
                capture_output=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                return False
            nodes = json.loads(done.stdout)["nodes"]
            epochs = {json.dumps(node.get("map", node.get("epoch"))) for node in nodes}
            states = [node["state"] for node in nodes]
            moving = sum(node["shards_coming"] for node in nodes)
            return states.count("alive") == servers and len(epochs) <= 1 and moving == 0

        if not wait_until(alive, seconds):
            raise RuntimeError(f"{servers} data servers did not come up: {self._logs()}")

    def kill(self, name: str) -> None:
        """kill -9, and waits for the end."""
        self._processes[name].kill()
        self._processes[name].wait()

    def pause(self, name: str) -> None:
        """SIGSTOP, and waits until every thread stands still."""
        process = self._processes[name]
        process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{process.pid}/task")

        def stopped() -> bool:
            stats = [(task / "stat").read_text() for task in tasks.iterdir()]
            return all(stat.rsplit(")", 1)[1].split()[0] == "T" for stat in stats)

        if not wait_until(stopped, 10):
            raise RuntimeError(f"{name} does not stop")

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def resume(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        self._folder.cleanup()

    def _start(self, name: str, program: str, *arguments: str) -> None:
        path = bin_dir() / program
        if not path.exists():
            raise RuntimeError(f"{path} is missing: build it, or set SIMM_BIN_DIR")
        ready = Path(self._folder.name, name + ".ready")
        ready.unlink(missing_ok=True)
        with open(Path(self._folder.name, name + ".log"), "ab") as log:
            process = subprocess.Popen(
                [str(path), *arguments, "--ready-file", str(ready)], stdout=log, stderr=log
            )
        self._processes[name] = process
        if not wait_until(lambda: ready.exists() or process.poll() is not None, 60):
            raise RuntimeError(f"{name} was not ready in time: {self._logs()}")
        if not ready.exists():
            raise RuntimeError(f"{name} ended with {process.returncode}: {self._logs()}")
        self._ready[name] = json.loads(ready.read_text())

    def _logs(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1000:]}"
            for path in sorted(Path(self._folder.name).glob("*.log"))
        )

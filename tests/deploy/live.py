"""Real processes on loopback: a manager and data servers, stopped by their own pids."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path


def wait_for(what: str, check, seconds: float = 60):
    """Polls until check() is true; its last value. `what` is said when it never is."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, ValueError):
            if got := check():
                return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


def fetch(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return answer.read().decode()


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Processes:
    """Named child processes with logs in a folder; ended with the block."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(self, name: str, *command, env: dict[str, str] | None = None):
        with open(self.folder / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                [str(c) for c in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env
            )

    def stop(self, name: str, signal_it: bool = True) -> int | None:
        """Its exit code; None when it had to be killed. signal_it=False: it ends by itself."""
        child = self._running.pop(name)
        if signal_it:
            child.terminate()
        try:
            return child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return None

    def kill(self, name: str):
        child = self._running.pop(name)
        child.kill()
        child.wait()

    def pause(self, name: str):
        self._running[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str):
        self._running[name].send_signal(signal.SIGCONT)

    def proc(self, name: str) -> Path:
        return Path(f"/proc/{self._running[name].pid}")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


class Cluster(Processes):
    """A manager and `servers` data servers, up when the block begins.

    {name} in an argument of the servers is the server's name. Each process can be started from
    other programs than the cluster's, and started again after stop() or kill().
    """

    def __init__(self, bin_dir: Path, folder: Path, servers: int, server_arguments=()):
        super().__init__(folder)
        self.bin_dir = bin_dir
        self.names = [f"server-{i}" for i in range(servers)]
        self._server_arguments = list(server_arguments) or ["--memory", "32MiB"]
        self._in_files = not server_arguments
        ports = free_ports(2 + 3 * servers)
        self.manager = f"127.0.0.1:{ports[0]}"
        own = f"/dev/shm/simm-deploy-{os.getpid()}-{ports[0]}"
        self.pools = {n: Path(f"{own}-{n}.data") for n in self.names}
        self.http = {"manager": f"127.0.0.1:{ports[1]}"}
        self._ports = {n: ports[2 + 3 * i : 5 + 3 * i] for i, n in enumerate(self.names)}
        self.http |= {n: f"127.0.0.1:{p[2]}" for n, p in self._ports.items()}

    def address(self, name: str, port: str) -> str:
        """Of a data server's port: grpc, data or http."""
        return f"127.0.0.1:{self._ports[name][('grpc', 'data', 'http').index(port)]}"

    def __enter__(self):
        self.start_manager()
        for name in self.names:
            self.start_server(name)
        try:
            for name in self.names:
                self.wait_ready(name)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def start_manager(self, bin_dir: Path | None = None):
        self.start(
            "manager", (bin_dir or self.bin_dir) / "simm-manager",
            "--listen", self.manager, "--http", self.http["manager"],
            "--state", self.folder / "state", "--new-cluster",
        )  # fmt: skip

    def start_server(self, name: str, bin_dir: Path | None = None):
        grpc, data, http = self._ports[name]
        arguments = [a.replace("{name}", name) for a in self._server_arguments]
        self.start(
            name, (bin_dir or self.bin_dir) / "simm-dataserver",
            "--manager", self.manager, "--name", name,
            "--advertise", "127.0.0.1", "--listen", f"127.0.0.1:{grpc}",
            "--data-listen", f"127.0.0.1:{data}", "--http", f"127.0.0.1:{http}",
            *self._pool(name), *arguments,
        )  # fmt: skip

    def _pool(self, name: str) -> list[str]:
        """A pool in files, so that a test can look into it; not where arguments are given."""
        if not self._in_files:
            return []
        return ["--pool", str(self.pools[name]).removesuffix(".data")]

    def __exit__(self, *_):
        super().__exit__()
        for data in self.pools.values():
            for path in data.parent.glob(data.stem + ".*"):
                path.unlink()

    def wait_ready(self, name: str):
        wait_for(f"{name} is ready", lambda: fetch(self.http[name], "/readyz"))

    def ctl(self, *arguments: str, stdin: str = "") -> str:
        return subprocess.run(
            [self.bin_dir / "simmctl", "--manager", self.manager, *arguments],
            input=stdin, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip

    def bench(self, *arguments: str) -> dict:
        done = subprocess.run(
            [self.bin_dir / "simm-bench", "--manager", self.manager, "--json", *arguments],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def metrics(self, name: str) -> str:
        return fetch(self.http[name], "/metrics")

    def metric(self, name: str, series: str) -> float:
        for line in self.metrics(name).splitlines():
            if line.startswith(series + " "):
                return float(line.split()[-1])
        raise AssertionError(f"{name} shows no {series}")

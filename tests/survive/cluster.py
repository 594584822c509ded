"""A manager, data servers and load processes, each data server on a host of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from network import HERE, Host, Neighbour

REPOSITORY = Path(__file__).resolve().parents[2]
# All times of a cluster by this, for emulated processors.
PACE = int(os.environ.get("SIMM_SURVIVE_PACE", "1"))
HEARTBEAT_MS, SUSPECT_MS, DEAD_MS = 100 * PACE, 500 * PACE, 2000 * PACE
SESSION_TIMEOUT_MS = 2000 * PACE


def bin_dir() -> Path:
    return Path(os.environ.get("SIMM_BIN_DIR", REPOSITORY / "build" / "bin")).resolve()


def wait_until(condition: Callable[[], bool], seconds: float, step: float = 0.01) -> bool:
    """Looks again and again; False when the time ran out first."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


@dataclass
class Settings:
    folder: Path
    transport: str = "tcp"
    servers: int = 4
    memory: str = "96MiB"
    mean_value: str = "16KiB"
    writers: int = 3
    keys: int = 900
    rate: float = 200.0
    deadline: float = 0.5 * PACE

    @property
    def one_network(self) -> bool:
        """Devices of RDMA made of software lie in the first network namespace only."""
        return self.transport == "verbs"

    @property
    def manager(self) -> str:
        return "127.0.0.1:30001" if self.one_network else f"{HERE}:30001"


class Server:
    """A data server on its own host, with a named pool: a restart finds its entries."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.name = f"server-{number}"
        self.settings = settings
        kind = Neighbour if settings.one_network else Host
        self.host = kind(self.name, number)
        self.process: subprocess.Popen[bytes] | None = None
        self.first_descriptors = 0
        self.started = 0.0
        self.pool = settings.folder / "pools" / self.name

    def start(self, wait: bool = True) -> None:
        transport = ["--transport", self.settings.transport]
        if self.settings.transport == "shm":
            transport += ["--shm-socket", str(self.settings.folder / (self.name + ".sock"))]
        ready = self.settings.folder / (self.name + ".ready")
        ready.unlink(missing_ok=True)
        listen, data, http = (f"{self.host.address}:{self.host.port(n)}" for n in range(3))
        command = [
            str(bin_dir() / "simm-dataserver"), "--manager", self.settings.manager,
            "--name", self.name, "--pool", str(self.pool), "--memory", self.settings.memory,
            "--mean-value", self.settings.mean_value, "--advertise", self.host.address,
            "--listen", listen, "--data-listen", data, "--http", http, "--ready-file", str(ready),
            "--session-timeout-ms", str(SESSION_TIMEOUT_MS), *transport,
        ]  # fmt: skip
        self.started = time.monotonic()
        self.process = _spawn(self.host.wrap(command), self.settings.folder / (self.name + ".log"))
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        ready = self.settings.folder / (self.name + ".ready")
        process = self.process
        assert process is not None
        wait_until(lambda: ready.exists() or process.poll() is not None, 60)
        if not ready.exists():
            raise RuntimeError(f"{self.name} did not start: see its log")
        self.first_descriptors = self.descriptors()

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait_end(self, seconds: float = 30) -> int:
        assert self.process is not None
        return self.process.wait(timeout=seconds)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def descriptors(self) -> int:
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def describe_descriptors(self) -> dict[str, int]:
        """What the descriptors are, and how many of each: for who looks for a leak."""
        assert self.process is not None
        proc = Path(f"/proc/{self.process.pid}")
        sockets: dict[str, str] = {}
        lines = [(proc / "net" / table).read_text().splitlines()[1:] for table in ("tcp", "tcp6")]
        for line in itertools.chain(*lines):
            local, remote, state, inode = (line.split()[i] for i in (1, 2, 3, 9))
            # The last word of the address: of IPv4, or of IPv4 in IPv6.
            host = ".".join(str(byte) for byte in reversed(bytes.fromhex(remote[-13:-5])))
            ports = (int(end[-4:], 16) for end in (local, remote))
            sockets[inode] = f"tcp {next(ports)} of {host}:{next(ports)} state {state}"
        kinds: Counter[str] = Counter()
        for descriptor in (proc / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                kind = os.readlink(descriptor)
                if kind.startswith("socket:["):
                    kind = sockets.get(kind[8:-1], "other socket")
                kinds[kind] += 1
        return dict(kinds)

    def metrics(self) -> dict[str, float]:
        """Name with labels -> value."""
        url = f"http://{self.host.address}:{self.host.port(2)}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        found = re.findall(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)$", text, re.M)
        return {name: float(value) for name, value in found}

    def pool_bytes(self) -> dict[str, int]:
        """The bytes of the data file by state, and "data", what they are to add up to."""
        metrics = self.metrics()
        states = ("free", "granted", "live", "limbo", "pinned")
        found = {state: int(metrics['simm_pool_bytes{state="%s"}' % state]) for state in states}
        return found | {"data": int(metrics["simm_pool_data_bytes"])}


class Cluster:
    """Starts the programs and ends them. Not thread-safe, but `nodes` and `epochs_agree` are."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        (settings.folder / "pools").mkdir(parents=True, exist_ok=True)
        self.manager: subprocess.Popen[bytes] | None = None
        self.servers: list[Server] = []
        self.loads: list[subprocess.Popen[bytes] | None] = [None] * settings.writers
        self._lives = [0] * settings.writers
        self._others: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self.start_manager()
        for _ in range(self.settings.servers):
            self.add_server().start(wait=False)
        for server in self.servers:
            server.wait_ready()
        self.wait_well(self.settings.servers, 60)

    def start_manager(self) -> None:
        folder = self.settings.folder
        ready = folder / "manager.ready"
        ready.unlink(missing_ok=True)
        self.manager = _spawn(
            [
                str(bin_dir() / "simm-manager"), "--listen", self.settings.manager, "--http", "off",
                "--state", str(folder / "manager"), "--new-cluster",
                "--heartbeat-ms", str(HEARTBEAT_MS), "--suspect-ms", str(SUSPECT_MS),
                "--dead-ms", str(DEAD_MS), "--ready-file", str(ready),
            ],
            folder / "manager.log",
        )  # fmt: skip
        if not wait_until(ready.exists, 30):
            raise RuntimeError("the manager did not start: see manager.log")

    def add_server(self) -> Server:
        self.servers.append(Server(self.settings, len(self.servers)))
        return self.servers[-1]

    @property
    def addresses(self) -> str:
        """For clients: the manager and two data servers, which hand out the map without it."""
        some = [f"{server.host.address}:{server.host.port(0)}" for server in self.servers[:2]]
        return ",".join([self.settings.manager, *some])

    def start_load(self, index: int, seed: int) -> None:
        settings = self.settings
        life = self._lives[index]
        self._lives[index] += 1
        history = settings.folder / "history" / f"load-{index}-{life}.history"
        history.parent.mkdir(exist_ok=True)
        self.loads[index] = self._python(
            f"load-{index}", "load.py", "--history", str(history),
            "--seed", str(seed * 1000 + index * 100 + life), "--index", str(index),
            "--writers", str(settings.writers), "--keys", str(settings.keys),
            "--first-version", str(life * 1_000_000), "--rate", str(settings.rate),
            "--deadline", str(settings.deadline),
        )  # fmt: skip

    def fill(self, seed: int, fill_bytes: int) -> subprocess.Popen[bytes]:
        filler = self._python(
            "fill", "load.py", "--seed", str(seed), "--fill-bytes", str(fill_bytes)
        )
        self._others.append(filler)
        return filler

    def _python(self, name: str, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        program = str(Path(__file__).parent / script)
        command = [sys.executable, program, "--addresses", self.addresses]
        command += ["--transport", self.settings.transport, *arguments]
        return _spawn(command, self.settings.folder / (name + ".log"))

    def stop_loads(self) -> None:
        running = [load for load in self.loads if load is not None and load.poll() is None]
        for load in running:
            load.terminate()
        for load in running:
            load.wait(timeout=30)

    def simmctl(self, *arguments: str) -> dict[str, Any] | None:
        """What it says with --json; None if it failed."""
        command = [str(bin_dir() / "simmctl"), "--manager", self.settings.manager]
        command += ["--json", "--timeout-ms", str(1000 * PACE), *arguments]
        done = subprocess.run(command, capture_output=True, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 and done.stdout else None

    def nodes(self) -> list[dict[str, Any]]:
        said = self.simmctl("nodes")
        return list(said["nodes"]) if said is not None else []

    def wait_well(self, alive: int, seconds: float) -> None:
        """Until so many servers are alive, know one map, and nothing moves."""
        if not wait_until(lambda: settled(self.nodes(), alive), seconds, 0.05):
            raise RuntimeError(f"the cluster is not well after {seconds} s: {self.nodes()}")

    def end(self) -> None:
        ours = [self.manager, *self.loads, *self._others]
        ours += [server.process for server in self.servers]
        left = [process for process in ours if process is not None and process.poll() is None]
        for process in left:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        for server in self.servers:
            server.host.remove()
        self.servers.clear()


def settled(nodes: list[dict[str, Any]], alive: int) -> bool:
    """Whether so many servers serve, all by the same map, and no shard is on its way."""
    serving = [node for node in nodes if node["state"] in ("alive", "draining")]
    maps = {(node["term"], node["epoch"]) for node in serving}
    moving = sum(node["shards_coming"] + node["shards_to_pull"] for node in nodes)
    return len(serving) == alive and len(maps) == 1 and moving == 0


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )

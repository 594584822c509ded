"""A cluster of real processes on loopback: one manager and data servers, ended with the object."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

START_SECONDS = 20
MEAN_VALUE = "64KiB"


def program(name):
    """The path of one of SiMM's programs. FileNotFoundError says how to name them."""
    root = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("SIMM_BIN_DIR") or root / "build/bin")
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: build it (cmake --build build --target {name}) or set "
            "SIMM_BIN_DIR to the folder that holds simm-manager and simm-dataserver"
        )
    return str(path)


def wait_until(condition, seconds=10.0, what="it"):
    """Polls: other processes say nothing when they are ready."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.005)


class LiveCluster:
    """Not thread-safe. `memory` of each data server as simm-dataserver takes it."""

    def __init__(self, servers=2, memory="256MiB", dead_ms=1500, mean_value=MEAN_VALUE, flags=()):
        self.folder = Path(tempfile.mkdtemp(prefix="simm-python-"))
        self.memory, self.mean_value, self.flags = memory, mean_value, tuple(flags)
        self.processes = {}
        self.addresses = {}  # of each name, once it was ready: what --listen etc. became
        try:
            self.start_manager(dead_ms)
            for index in range(servers):
                self.start_server(index)
        except BaseException:
            self.stop()
            raise

    @property
    def manager(self):
        return self.addresses["manager"]["listen"]

    def start_manager(self, dead_ms):
        self._start(
            "manager",
            [program("simm-manager"), "--state", str(self.folder / "manager")],
            ("listen", "http"),
            ["--heartbeat-ms=100", "--suspect-ms=500", f"--dead-ms={dead_ms}"],
        )

    def start_server(self, index):
        """Also again, at the same addresses and with the same name, after kill_server."""
        self._start(
            f"server-{index}",
            [program("simm-dataserver"), "--manager", self.manager, "--name", f"server-{index}"],
            ("listen", "data-listen", "http"),
            ["--advertise=127.0.0.1", f"--memory={self.memory}", *self.flags]
            + [f"--mean-value={self.mean_value}", "--session-timeout-ms=2000"],
        )

    def kill_server(self, index):
        self._end(f"server-{index}", signal.SIGKILL)

    def kill_all_servers(self):
        for index in self.servers():
            self.kill_server(index)

    def servers(self):
        return [int(name[7:]) for name in self.processes if name.startswith("server-")]

    def pause_server(self, index):
        self.processes[f"server-{index}"].send_signal(signal.SIGSTOP)

    def resume_server(self, index):
        self.processes[f"server-{index}"].send_signal(signal.SIGCONT)

    def stop(self):
        for name in list(self.processes):
            self._end(name, signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def _start(self, name, command, ports, options):
        ready = self.folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        before = self.addresses.get(name, {})
        for port in ports:
            address = before.get(port.replace("-", "_")) or "127.0.0.1:0"
            command += [f"--{port}", address]
        command += ["--ready-file", str(ready), *options]
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        self.processes[name] = process

        def is_ready():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{_end_of(log)}")
            with contextlib.suppress(OSError, ValueError):
                self.addresses[name] = json.loads(ready.read_text())
                return True
            return False

        wait_until(is_ready, START_SECONDS, f"the start of {name}")

    def _end(self, name, number):
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_of(log):
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])

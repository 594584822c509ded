"""A manager and data servers for the tests of simmctl."""

import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

BIN = Path(sys.argv.pop(1) if len(sys.argv) > 1 else "build/bin")
DONE, NOT_THERE, USAGE, UNREACHABLE, REFUSED, UNWELL = range(6)


def wait_for_json(path, process):
    for _ in range(600):
        if path.exists():
            return json.loads(path.read_text())
        if process.poll() is not None:
            raise RuntimeError(f"{path.stem} ended with {process.returncode}")
        time.sleep(0.05)
    raise RuntimeError(f"{path.stem} was not ready in time")


def wait_until(what, check, seconds=60):
    end = time.monotonic() + seconds
    while not (got := check()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return got


class CliTest(unittest.TestCase):
    """One cluster for all tests of a class; SERVERS are the names of its data servers."""

    SERVERS = ("one",)
    MANAGER_FLAGS: tuple[str, ...] = ()
    SERVER_FLAGS: tuple[str, ...] = ()

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.processes = {}
        cls.addClassCleanup(cls.stop)
        ready = cls.start(
            "manager", BIN / "simm-manager", "--listen", "127.0.0.1:0", "--http", "off",
            "--state", Path(cls.folder.name, "state"), "--new-cluster", *cls.MANAGER_FLAGS,
        )  # fmt: skip
        cls.manager = ready["listen"]
        cls.addresses = {name: cls.start_server(name) for name in cls.SERVERS}
        wait_until("all servers are alive", lambda: cls.status()["servers"]["alive"]
                   == len(cls.SERVERS))  # fmt: skip
        wait_until("all servers have reported", lambda: cls.status()["data_bytes"] > 0)

    @classmethod
    def start_server(cls, name, advertise="127.0.0.1", listen="127.0.0.1:0"):
        return cls.start(
            name, BIN / "simm-dataserver", "--manager", cls.manager, "--name", name,
            "--memory", "64MiB", "--listen", listen, "--data-listen", listen,
            "--http", "off", "--advertise", advertise, *cls.SERVER_FLAGS,
        )  # fmt: skip

    @classmethod
    def start(cls, name, *command):
        ready = Path(cls.folder.name, name + ".ready")
        ready.unlink(missing_ok=True)
        with open(Path(cls.folder.name, name + ".log"), "ab") as log:
            process = subprocess.Popen(
                [*map(str, command), "--ready-file", str(ready)], stdout=log, stderr=log
            )
        cls.processes[name] = process
        return wait_for_json(ready, process)

    @classmethod
    def stop(cls):
        for process in reversed(cls.processes.values()):
            process.terminate()
        for process in cls.processes.values():
            process.wait(timeout=20)
        cls.folder.cleanup()

    @classmethod
    def run_simmctl(cls, *arguments, manager=None, stdin=b"", environment=None):
        command = [str(BIN / "simmctl")]
        if environment is None:
            command += ["--manager", manager or cls.manager]
        return subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, check=False, timeout=60,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip

    @classmethod
    def status(cls):
        done = cls.run_simmctl("--json", "status")
        return json.loads(done.stdout)

    def check(self, code, *arguments, **more):
        done = self.run_simmctl(*arguments, **more)
        if code is not None:  # else any is right
            self.assertEqual(done.returncode, code, (arguments, done.stdout[-900:], done.stderr))
        return done

    def text(self, code, *arguments, **more):
        return self.check(code, *arguments, **more).stdout.decode()

    def json(self, code, *arguments, **more):
        return json.loads(self.check(code, "--json", *arguments, **more).stdout)

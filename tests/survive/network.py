"""Hosts on one machine: a network namespace each, joined by a bridge.

Everything lies in namespaces of the runner's own (``isolate``), so that it goes with it, however
it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Sequence

SUBNET = "10.77.0"
HERE = f"{SUBNET}.1"
_MARK = "SIMM_SURVIVE_ISOLATED"


class Unable(Exception):
    """What this machine lacks, and what to do about it."""


def isolate() -> None:
    """Starts this program again with its own network, mounts and processes; returns inside.

    Raises Unable without root or without the programs.
    """
    if os.environ.get(_MARK) != "1":
        if os.geteuid() != 0:
            raise Unable("network namespaces need root: run it as root")
        for program in ("unshare", "ip", "tc", "nft"):
            if shutil.which(program) is None:
                raise Unable(
                    f"{program} is missing: deploy/install_packages.sh --survive installs it"
                )
        os.environ[_MARK] = "1"
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        os.execvp("unshare", [*command, "--mount-proc", sys.executable, *sys.argv])
    os.makedirs("/run/netns", exist_ok=True)
    run("mount", "-t", "tmpfs", "none", "/run/netns")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "hub", "type", "bridge")
    run("ip", "address", "add", f"{HERE}/24", "dev", "hub")
    run("ip", "link", "set", "hub", "up")


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unable(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")


class Host:
    """A network namespace with one address on the bridge."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{SUBNET}.{10 + number}"
        self._port = f"port-{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", self._port, "master", "hub", "up")
        self._inside("ip", "link", "set", "lo", "up")
        self._inside("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self._inside("ip", "link", "set", "eth0", "up")

    def port(self, which: int) -> int:
        """Port number 0 to 9 of the one data server that runs here."""
        return 30002 + which

    def remove(self) -> None:
        """Nothing may run there any more; the next host may have its name and address."""
        run("ip", "link", "delete", self._port)
        run("ip", "netns", "delete", self.name)

    def wrap(self, command: Sequence[str]) -> list[str]:
        """The command as it runs on this host."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self, direction: str) -> None:
        """Drops what comes in ("in"), what goes out ("out"), or ("both") both."""
        hooks = {"in": ["input"], "out": ["output"], "both": ["input", "output"]}[direction]
        self._inside("nft", "add", "table", "inet", "cut")
        for hook in hooks:
            chain = "{ type filter hook %s priority 0; }" % hook
            self._inside("nft", "add", "chain", "inet", "cut", hook, chain)
            side = "iifname" if hook == "input" else "oifname"
            self._inside("nft", "add", "rule", "inet", "cut", hook, side, "eth0", "drop")

    def join(self) -> None:
        self._inside("nft", "delete", "table", "inet", "cut")

    def slow(self, megabits: int) -> None:
        """Limits what goes either way."""
        limit = ["rate", f"{megabits}mbit", "burst", "32kb", "latency", "100ms"]
        self._inside("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *limit)
        run("tc", "qdisc", "add", "dev", self._port, "root", "tbf", *limit)

    def fast(self) -> None:
        self._inside("tc", "qdisc", "del", "dev", "eth0", "root")
        run("tc", "qdisc", "del", "dev", self._port, "root")

    def _inside(self, *command: str) -> None:
        run(*self.wrap(command))


class Neighbour(Host):
    """In place of a host: ports of loopback, where there can be but one network (RDMA)."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = "127.0.0.1"
        self._first_port = 31000 + 10 * number

    def port(self, which: int) -> int:
        return self._first_port + which

    def remove(self) -> None:
        pass

    def wrap(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def cut(self, direction: str) -> None:
        raise Unable("a neighbour cannot be cut off")

    def slow(self, megabits: int) -> None:
        raise Unable("a neighbour's link cannot be slow")

"""Faults: a schedule that is a function of the seed, and what carries it out."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Callable

from cluster import DEAD_MS, Cluster, Server, wait_until

DEAD = DEAD_MS / 1000
# kind -> how long it lasts, in seconds: one of these
KINDS: dict[str, tuple[float, ...]] = {
    "kill": (0.0, 0.5, DEAD + 2),  # kill -9, then a warm start; the last: others own its shards
    "term": (0.0, DEAD + 2),
    "stop": (1.0, 5.0),  # SIGSTOP; 30 s in long runs
    "cut-both": (1.0, DEAD + 2),
    "cut-in": (1.0, DEAD + 2),
    "cut-out": (1.0, DEAD + 2),
    "slow": (4.0,),
    "full": (5.0,),  # at most
    "join": (3.0,),
    "drain": (6.0,),
    "manager": (0.0, 3.0),
    "client": (0.5,),
}
SERVER_FAULTS = ("kill", "term", "stop", "cut-both", "cut-in", "cut-out", "slow")
LINK_FAULTS = ("cut-both", "cut-in", "cut-out", "slow")
MOST_JOINS = 2


@dataclass
class Fault:
    """One fault as planned, and as it went: times of the monotonic clock, 0 when not yet."""

    kind: str
    target: int  # index of the server or client
    seconds: float
    pause: float  # before it
    start: float = 0.0
    healed: float = 0.0  # what was done to it has been undone
    end: float = 0.0  # the cluster is well again
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """The data server that it hits; "" for the others."""
        return f"server-{self.target}" if self.kind in SERVER_FAULTS else ""

    def planned(self) -> str:
        who = {"manager": "", "full": "", "client": f" client {self.target}"}
        where = who.get(self.kind, f" server-{self.target}")
        return f"{self.kind}{where} for {self.seconds:g} s, after a pause of {self.pause:.1f} s"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(
    seed: int, count: int, servers: int, clients: int, long: bool = False, links: bool = True
) -> list[Fault]:
    """So many faults. Each kind comes once before one comes again; those of links only if asked."""
    dice = random.Random(seed)
    faults: list[Fault] = []
    joins = 0
    while len(faults) < count:
        kinds = [kind for kind in KINDS if kind != "join" or joins < MOST_JOINS]
        kinds = [kind for kind in kinds if links or kind not in LINK_FAULTS]
        dice.shuffle(kinds)
        for kind in kinds[: count - len(faults)]:
            seconds = dice.choice(KINDS[kind] + ((30.0,) if long and kind == "stop" else ()))
            target = dice.randrange(clients if kind == "client" else servers)
            if kind == "join":
                joins += 1
                target = servers + joins - 1
            faults.append(Fault(kind, target, seconds, pause=1 + dice.random()))
    return faults


class Nemesis:
    """Carries faults out, one at a time, and waits after each until the cluster is well."""

    def __init__(self, cluster: Cluster, seed: int, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._seed = seed
        self._say = say

    def strike(self, fault: Fault) -> None:
        time.sleep(fault.pause)
        self._say(fault.planned())
        fault.start = time.monotonic()
        if fault.kind in SERVER_FAULTS:
            self._hit(fault, self._cluster.servers[fault.target])
        else:
            getattr(self, "_" + fault.kind)(fault)
        fault.healed = time.monotonic()
        alive = sum(server.running for server in self._cluster.servers)
        self._cluster.wait_well(alive, 60)
        fault.end = time.monotonic()

    def _hit(self, fault: Fault, server: Server) -> None:
        kind, seconds = fault.kind, fault.seconds
        if kind in ("kill", "term"):
            server.send(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
            code = server.wait_end()
            fault.notes["exit"] = code
            time.sleep(seconds)
            server.start()
            fault.notes["recovered"] = server.metrics().get("simm_pool_recovered_entries")
            fault.notes["warm"] = server.metrics().get("simm_pool_warm_start")
        elif kind == "stop":
            server.send(signal.SIGSTOP)
            time.sleep(seconds)
            server.send(signal.SIGCONT)
        elif kind == "slow":
            server.host.slow(8)
            time.sleep(seconds)
            server.host.fast()
        else:
            server.host.cut(kind.removeprefix("cut-"))
            time.sleep(seconds)
            server.host.join()

    def _full(self, fault: Fault) -> None:
        """More than there is room for: the rest of the load goes on among evictions."""
        pools = sum(server.pool_bytes()["data"] for server in self._cluster.servers)
        filler = self._cluster.fill(self._seed, pools * 5 // 4)
        wait_until(lambda: filler.poll() is not None, 60)
        fault.notes["filled_bytes"] = pools * 5 // 4
        fault.notes["exit"] = filler.poll()

    def _join(self, fault: Fault) -> None:
        self._cluster.add_server().start()
        time.sleep(fault.seconds)

    def _drain(self, fault: Fault) -> None:
        """Until it is empty, or for the time of the fault; then it gets its shards back."""
        name = f"server-{fault.target}"
        fault.notes["said"] = self._cluster.simmctl("node", "drain", name)
        show = lambda: self._cluster.simmctl("node", "show", name) or {}  # noqa: E731

        def empty() -> bool:
            node = show()
            return node.get("shards") == 0 and node.get("shards_leaving") == 0

        fault.notes["empty"] = wait_until(empty, fault.seconds, 0.1)
        fault.notes["entries_given_up"] = show().get("entries_given_up")
        self._cluster.simmctl("node", "undrain", name)

    def _manager(self, fault: Fault) -> None:
        assert self._cluster.manager is not None
        self._cluster.manager.kill()
        self._cluster.manager.wait()
        time.sleep(fault.seconds)
        self._cluster.start_manager()

    def _client(self, fault: Fault) -> None:
        load = self._cluster.loads[fault.target]
        assert load is not None
        load.kill()
        load.wait()
        time.sleep(fault.seconds)
        self._cluster.start_load(fault.target, self._seed)

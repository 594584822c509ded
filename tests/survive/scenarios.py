#!/usr/bin/env python3
"""One fault each, measured, with its bound (DESIGN 10). Needs root. Exit code 0: all bounds hold.

dead: the keys of a killed server are served by others. warm: a killed server that is started again
has its entries. client: what a killed client held is free again. drain: a server with a full pool
is emptied under load.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import network
from cluster import DEAD_MS, SESSION_TIMEOUT_MS, Cluster, Server, Settings, wait_until
from survive import commit

VALUE = 64 * 1024
BATCH = 64
_BLOCK = random.Random(7).randbytes(1 << 20)


def value_of(number: int) -> memoryview:
    """64 KiB that are other ones for nearly every number; no copy."""
    at = number * 4099 % (len(_BLOCK) - VALUE)
    return memoryview(_BLOCK)[at : at + VALUE]


def batches(count: int) -> Iterator[range]:
    for first in range(0, count, BATCH):
        yield range(first, min(first + BATCH, count))


def fill(client: Any, count: int) -> int:
    """Puts so many values; how many were stored."""
    stored = 0
    for some in batches(count):
        stored += sum(client.put_many([(f"value-{n}", value_of(n)) for n in some], deadline=20))
    return stored


def present(client: Any, count: int) -> int:
    """How many of them are there; raises if one has other bytes."""
    found = 0
    buffers = [bytearray(VALUE) for _ in range(BATCH)]
    for some in batches(count):
        keys = [f"value-{n}" for n in some]
        lengths = client.get_many_into(keys, buffers[: len(keys)], deadline=20)
        for number, buffer, length in zip(some, buffers, lengths):
            if length is not None:
                found += 1
                if buffer != value_of(number):
                    raise AssertionError(f"value-{number} has other bytes")
    return found


class Asking(threading.Thread):
    """Gets of random values all the time: how long each took, when each was a hit, what failed."""

    def __init__(self, client: Any, count: int) -> None:
        super().__init__()
        self._client, self._count = client, count
        self._ending = threading.Event()
        self.hits: list[float] = []  # when each ended
        self.took: list[tuple[float, float]] = []  # when it began, how long
        self.misses: list[float] = []
        self.wrong = 0
        self.errors: list[str] = []
        self.start()

    def run(self) -> None:
        import simm

        dice = random.Random(1)
        buffer = bytearray(VALUE)
        while not self._ending.is_set():
            number = dice.randrange(self._count)
            began = time.monotonic()
            try:
                length = self._client.get_into(f"value-{number}", buffer, deadline=0.5)
            except simm.SimmError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                continue
            ended = time.monotonic()
            self.took.append((began, ended - began))
            (self.misses if length is None else self.hits).append(ended)
            self.wrong += length is not None and buffer != value_of(number)
            if length is None:
                time.sleep(0.001)  # a miss while a server is away costs nothing: not all of a core

    def end(self) -> None:
        self._ending.set()
        self.join()

    def p99(self, start: float, end: float) -> float:
        took = sorted(took for began, took in self.took if start <= began < end)
        return took[len(took) * 99 // 100] if took else 0.0


class Scenario:
    """A cluster for one scenario, its figures and what they had to be."""

    def __init__(self, name: str, args: argparse.Namespace, transport: str, **more: Any) -> None:
        self.name = f"{name}, {transport}"
        self.folder = Path(tempfile.mkdtemp(prefix="simm-survive-", dir="/dev/shm"))
        self.settings = Settings(self.folder, transport=transport, **more)
        self.cluster = Cluster(self.settings)
        self.args = args
        self.figures: dict[str, Any] = {}
        self.failures: list[str] = []

    def __enter__(self) -> Scenario:
        try:
            self.cluster.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self) -> Any:
        import simm

        transport = self.settings.transport
        return simm.Client(self.cluster.addresses, transport=transport, connect_timeout=30)

    def figure(self, name: str, value: float, most: float | None = None) -> None:
        self.figures[name] = round(value, 4)
        if most is not None:
            self.figures[name + ", limit"] = round(most, 4)
            if value > most:
                self.failures.append(f"{self.name}: {name} is {value:.4g}, limit {most:.4g}")

    def asked(self, asking: Asking) -> None:
        asking.end()
        self.figure("wrong bytes", asking.wrong, 0)
        self.figure("errors of gets", len(asking.errors), 0)


def kill(server: Server) -> float:
    server.send(signal.SIGKILL)
    at = time.monotonic()
    server.wait_end()
    return at


def dead(args: argparse.Namespace, transport: str) -> Scenario:
    """kill -9, for good: until its keys can be put elsewhere."""
    import simm

    with Scenario("data server dead", args, transport, servers=4) as scenario:
        client = scenario.connect()
        victim = scenario.cluster.servers[1]
        theirs = [k for k in (f"dead-{n}" for n in range(4000)) if _owner(client, k) == victim.name]
        for key in theirs[:20]:
            client.put(key, b"x" * 1000)
        killed = kill(victim)
        first = time.monotonic()
        client.get(theirs[0], deadline=0.5)
        scenario.figure("first call s", time.monotonic() - first, 0.55 + args.slack)

        def stored() -> bool:
            try:
                return bool(client.put(theirs[20], b"y" * 1000, deadline=0.5))
            except simm.SimmError:
                return False

        wait_until(stored, 30, 0.005)
        limit = DEAD_MS / 1000 + 1 + args.slack
        scenario.figure("new owner serves after s", time.monotonic() - killed, limit)
        client.close()
        return scenario


def _owner(client: Any, key: str) -> str:
    return str(client.locate(key)["server"])


def warm(args: argparse.Namespace, transport: str) -> Scenario:
    """kill -9 of a full pool under load, and a start: hits again, entries there."""
    more = {"servers": 1, "memory": args.pool, "mean_value": "64KiB"}
    with Scenario("killed and restarted warm", args, transport, **more) as scenario:
        client = scenario.connect()
        server = scenario.cluster.servers[0]
        count = int(server.pool_bytes()["data"] * 0.9) // (VALUE + 192)
        stored = fill(client, count)
        asking = Asking(client, count)
        wait_until(lambda: len(asking.hits) > 100, 30)
        kill(server)
        server.start(wait=False)
        back = wait_until(lambda: bool(asking.hits) and asking.hits[-1] > server.started, 30, 0.001)
        first = next((at for at in asking.hits if at > server.started), float("inf"))
        scenario.figure("hits again s after its start", first - server.started, 1 + args.slack)
        server.wait_ready()
        scenario.asked(asking)
        scenario.figures["pool"] = args.pool
        scenario.figures["entries committed"] = stored
        if back:
            lost = stored - present(client, count)
            scenario.figure("share of entries lost", lost / stored, 0.001)
        client.close()
        return scenario


def client(args: argparse.Namespace, transport: str) -> Scenario:
    """kill -9 of a client at random times of its writing."""
    dice = random.Random(args.seed)
    with Scenario("client killed", args, transport, servers=2, writers=1) as scenario:
        held = ("granted", "limbo", "pinned")
        worst, most_held = 0.0, 0
        for life in range(args.kills):
            scenario.cluster.start_load(0, args.seed + life)
            load = scenario.cluster.loads[0]
            assert load is not None
            path = scenario.folder / "history" / f"load-0-{life}.history"
            wait_until(lambda: path.exists() and path.stat().st_size > 20_000, 30)
            time.sleep(dice.random() * 0.1)
            load.kill()
            load.wait()
            gone = time.monotonic()

            def held_bytes() -> int:
                pools = [server.pool_bytes() for server in scenario.cluster.servers]
                return sum(pool[state] for pool in pools for state in held)

            most_held = max(most_held, held_bytes())
            wait_until(lambda: held_bytes() == 0, 20, 0.02)
            worst = max(worst, time.monotonic() - gone)
        limit = SESSION_TIMEOUT_MS / 1000 + 2 + args.slack
        scenario.figure("nothing held after s, the worst", worst, limit)
        scenario.figures["kills"] = args.kills
        scenario.figures["bytes held at a kill, the most"] = most_held
        return scenario


def drain(args: argparse.Namespace, transport: str) -> Scenario:
    """Until it is empty, under gets of what it holds; the others have room."""
    more = {"servers": 3, "memory": args.drain_pool, "mean_value": "64KiB"}
    with Scenario("drain", args, transport, **more) as scenario:
        client = scenario.connect()
        server = scenario.cluster.servers[0]
        # Three pools hold what two have room for.
        count = int(server.pool_bytes()["data"] * 3 * 0.55) // (VALUE + 192)
        stored = fill(client, count)
        asking = Asking(client, count)
        quiet = time.monotonic()

        def empty() -> bool:
            node = scenario.cluster.simmctl("node", "show", server.name) or {}
            return node.get("shards") == 0 and node.get("shards_leaving") == 0

        # The same questions as during the drain: they take processor time, too.
        wait_until(lambda: empty() or len(asking.hits) > 10_000, 60, 0.1)
        began = time.monotonic()
        scenario.cluster.simmctl("node", "drain", server.name)
        if not wait_until(empty, 300, 0.1):
            scenario.failures.append("drain: it is not empty after 300 s")
        ended = time.monotonic()
        scenario.asked(asking)
        p99 = asking.p99(quiet, began)
        scenario.figure("p99 of gets before s", p99)
        scenario.figure(
            "p99 of gets while it drains s", asking.p99(began, ended), 2 * p99 + args.slack
        )
        scenario.figure("took s", ended - began)
        given_up = [node["entries_given_up"] for node in scenario.cluster.nodes()]
        scenario.figure("entries given up", sum(given_up), 0)
        scenario.figures["its bytes"] = args.drain_pool
        scenario.figures["misses while it drained"] = len([m for m in asking.misses if m > quiet])
        scenario.figure("keys lost", stored - present(client, count), 0)
        client.close()
        return scenario


SCENARIOS: dict[str, Callable[[argparse.Namespace, str], Scenario]] = {
    "dead": dead, "warm": warm, "client": client, "drain": drain
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help=f"of {','.join(SCENARIOS)}")
    parser.add_argument("--transports", default="tcp,shm")
    parser.add_argument("--pool", default="4GiB", help="of the server that is restarted")
    parser.add_argument("--drain-pool", default="1GiB", help="of each of three servers")
    parser.add_argument("--kills", type=int, default=8, help="of clients")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slack", type=float, default=0.0, help="seconds, on a busy machine")
    parser.add_argument("--report", default="build/survive")
    args = parser.parse_args()
    for name in args.only.split(","):
        if name not in SCENARIOS:
            parser.error(f"--only: no scenario is called '{name}'; of {', '.join(SCENARIOS)}")
    try:
        network.isolate()
    except network.Unable as problem:
        print(f"survive: cannot run here: {problem}", file=sys.stderr)
        return 1
    done: list[dict[str, Any]] = []
    failures: list[str] = []
    for name in args.only.split(","):
        for transport in args.transports.split(","):
            scenario = SCENARIOS[name](args, transport)
            print(f"survive: {scenario.name}: {json.dumps(scenario.figures)}", flush=True)
            done.append({"name": scenario.name, "figures": scenario.figures})
            failures += scenario.failures
    Path(args.report).mkdir(parents=True, exist_ok=True)
    said = {"command": shlex.join(["python3", *sys.argv]), "commit": commit()}
    text = json.dumps(said | {"scenarios": done, "failures": failures}, indent=1)
    Path(args.report, "scenarios.json").write_text(text + "\n")
    for failure in failures:
        print(f"survive: FAILED: {failure}")
    print("survive: scenarios " + ("FAILED" if failures else "passed"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

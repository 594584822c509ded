#!/usr/bin/env python3
"""Faults at random under one seed against real processes, and what they did to clients.

Data servers have a network namespace each, on one machine; it needs root. The same seed gives the
same faults; --plan only prints them. Exit code 0: no promise was broken. See README.md.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import history
import network
import plot
import report
from checker import MapHistory, unaccounted
from cluster import PACE, REPOSITORY, SESSION_TIMEOUT_MS, Cluster, Settings, settled, wait_until
from nemesis import KINDS, Fault, Nemesis, plan

QUIET_SECONDS = 8.0
LOAD_BEHIND_SECONDS = 2  # of load behind the last fault: its gaps end before the load does
ROUND_MINUTES = 5.0  # longer runs are several rounds, each with a cluster and a seed of its own
SECONDS_PER_FAULT = 5.5
MOST_EXTRA_DESCRIPTORS = 2


class Watcher:
    """Looks at the map five times a second, and at how late this machine wakes a sleeper."""

    def __init__(self, cluster: Cluster) -> None:
        import simm

        self.maps = MapHistory()
        self.noise = report.Noise()
        self._cluster = cluster
        self._client = simm.Client(cluster.addresses, transport="tcp", connect_timeout=30)
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch), threading.Thread(target=self._sleep)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def _watch(self) -> None:
        keys = [f"key-{key}" for key in range(self._cluster.settings.keys)]
        while not self._ending.is_set():
            at = time.monotonic()
            owners = tuple(str(self._client.locate(key)["server"]) for key in keys)
            nodes = self._cluster.nodes()
            serving = sum(node["state"] in ("alive", "draining") for node in nodes)
            self.maps.add(at, owners, bool(nodes) and settled(nodes, serving))
            self._ending.wait(0.2)

    def _sleep(self) -> None:
        while not self._ending.is_set():
            before = time.monotonic()
            time.sleep(0.01)
            now = time.monotonic()
            if now - before > 0.02:
                self.noise.late.append((now, now - before - 0.01))

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._client.close()


def final_state(cluster: Cluster, last_client_gone: float) -> dict[str, Any]:
    """Whether everything is as if no client had ever been there; what is not is a failure."""
    failures: list[str] = []
    final: dict[str, Any] = {"failures": failures}
    held = ("granted", "limbo", "pinned")
    seen: dict[str, dict[str, int]] = {}

    def empty() -> bool:
        for server in cluster.servers:
            seen[server.name] = server.pool_bytes()
        return not any(pool[state] for pool in seen.values() for state in held)

    limit = SESSION_TIMEOUT_MS / 1000 + 2 * PACE
    wait_until(empty, limit + 5 * PACE, 0.05)
    took = time.monotonic() - last_client_gone
    if took > limit:
        failures.append(f"GRANTED, LIMBO, PINNED after {took:.2f} s, limit {limit:g}: {seen}")
    final["granted, limbo, pinned 0 after s"] = round(took, 2)
    missing = sum(unaccounted(pool) for pool in seen.values())
    if missing:
        failures.append(f"{missing} bytes of the data files are in no state: {seen}")
    final["bytes unaccounted"] = missing

    def extra() -> dict[str, int]:
        return {s.name: s.descriptors() - s.first_descriptors for s in cluster.servers}

    # Control connections end 30 s after their last call.
    wait_until(lambda: max(extra().values()) <= MOST_EXTRA_DESCRIPTORS, 60, 0.1)
    final["descriptors more than at the start"] = extra()
    if max(extra().values()) > MOST_EXTRA_DESCRIPTORS:
        failures.append(f"descriptors leak: {extra()}")
        final["descriptors"] = {s.name: s.describe_descriptors() for s in cluster.servers}
    dead = [server.name for server in cluster.servers if not server.running]
    if dead:
        failures.append(f"not running at the end: {dead}")
    final["servers alive"] = f"{len(cluster.servers) - len(dead)} of {len(cluster.servers)}"
    return final


def run_round(settings: Settings, seed: int, faults: list[Fault]) -> report.Round:
    cluster = Cluster(settings)
    try:
        cluster.start()
        watcher = Watcher(cluster)
        for index in range(settings.writers):
            cluster.start_load(index, seed)
        written = settings.folder / "history"
        wait_until(lambda: len(list(written.glob("*.history"))) == settings.writers, 30)
        # Long enough that most keys have been put.
        time.sleep(QUIET_SECONDS / 2)
        quiet = (time.monotonic(), time.monotonic() + QUIET_SECONDS)
        time.sleep(QUIET_SECONDS)
        nemesis = Nemesis(cluster, seed, lambda text: print(f"  {text}", flush=True))
        for fault in faults:
            nemesis.strike(fault)
        time.sleep(LOAD_BEHIND_SECONDS)
        for index, load in enumerate(cluster.loads):
            if load is None or load.poll() is not None:
                raise RuntimeError(f"load process {index} has ended by itself: see its log")
        cluster.stop_loads()
        watcher.end()
        final = final_state(cluster, time.monotonic())
        return report.Round(
            seed, settings.transport, history.read(written), watcher.maps, faults, quiet,
            watcher.noise, final, settings.deadline,
        )  # fmt: skip
    finally:
        cluster.end()


def one_round(args: argparse.Namespace, seed: int, faults: list[Fault]) -> dict[str, Any]:
    """Runs it in a folder in memory; keeps logs and history where something went wrong."""
    name = f"{args.transport}-{seed}"
    folder = Path(tempfile.mkdtemp(prefix="simm-survive-", dir="/dev/shm"))
    kept = Path(args.report, f"{name}-failed")
    shutil.rmtree(kept, ignore_errors=True)
    settings = Settings(folder, transport=args.transport, servers=args.servers, rate=args.rate)
    try:
        round_ = run_round(settings, seed, faults)
        result = report.Judge(round_).result()
        end = faults[-1].end + 2 if faults else round_.quiet[1]
        plot.draw(
            Path(args.report, name), f"Seed {seed} over {args.transport}", round_.events, faults,
            end,
        )  # fmt: skip
        if result["failures"]:
            shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("pools", "*.sock"))
        return result
    except BaseException:
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("pools", "*.sock"))
        print(f"survive: logs and history are kept in {kept}", flush=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plans(args: argparse.Namespace) -> list[tuple[int, list[Fault]]]:
    """Seed and faults of each round."""
    rounds = max(1, round(args.minutes / ROUND_MINUTES))
    count = max(1, int((args.minutes * 60 / rounds - 2 * QUIET_SECONDS) / SECONDS_PER_FAULT))
    found = []
    for number in range(rounds):
        seed = args.seed + number
        faults = plan(
            seed, count, args.servers, Settings.writers, args.minutes > ROUND_MINUTES,
            links=args.transport != "verbs",
        )  # fmt: skip
        if args.only:
            faults = [fault for fault in faults if fault.kind in args.only.split(",")]
        found.append((seed, faults))
    return found


def commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.5, help="about; more than 5: in rounds")
    parser.add_argument("--transport", choices=("tcp", "shm", "verbs"), default="tcp")
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=Settings.rate, help="calls a second each")
    parser.add_argument("--only", default="", help=f"kinds of faults, of {','.join(KINDS)}")
    parser.add_argument("--report", default="build/survive", help="folder")
    parser.add_argument("--plan", action="store_true", help="print the faults and end")
    args = parser.parse_args()
    unknown = set(filter(None, args.only.split(","))) - set(KINDS)
    if unknown:
        parser.error(f"--only: no such fault: {', '.join(sorted(unknown))}; of {', '.join(KINDS)}")
    if args.servers < 3:
        parser.error("--servers: at least 3: two that are silent at once freeze the map")
    chosen = plans(args)
    if args.plan:
        for seed, faults in chosen:
            print("\n".join([f"seed {seed}:", *(f"  {fault.planned()}" for fault in faults)]))
        return 0
    try:
        if args.transport != "verbs":  # tests/rdma/vm.sh is a machine of its own
            network.isolate()
    except network.Unable as problem:
        print(f"survive: cannot run here: {problem}", file=sys.stderr)
        return 1
    Path(args.report).mkdir(parents=True, exist_ok=True)
    results = []
    for seed, faults in chosen:
        print(f"survive: seed {seed} over {args.transport}, {len(faults)} faults", flush=True)
        results.append(one_round(args, seed, faults))
        command = shlex.join(["python3", *sys.argv])
        report.write(Path(args.report), results, command, commit())
        for failure in results[-1]["failures"]:
            print(f"survive: FAILED: seed {seed}: {failure}", flush=True)
        print(f"survive: seed {seed}: {results[-1]['calls']} calls", flush=True)
    if args.transport == "verbs":  # what the machine has written is lost with it
        print(Path(args.report, "report.md").read_text())
    failed = [str(result["seed"]) for result in results if result["failures"]]
    if failed:
        print(f"survive: FAILED: seeds {', '.join(failed)}; see {args.report}/report.md")
        return 1
    print(f"survive: passed; {args.report}/report.md and the plots beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())

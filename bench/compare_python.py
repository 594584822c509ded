#!/usr/bin/env python3
"""Measures simm.kv against the C++ client, in turn on one cluster, and prints the ratios.

Each figure is the median of --rounds ratios of median latencies; in a round simm-bench runs just
before and after Python, because the speed of a shared machine drifts. Nothing else should run. Both
use one thread, random keys and an arena of buffers larger than the caches; Python's time includes
making the views, as SGLang does for each call. Run it with the Python in which simm is installed:

    bench/compare_python.py --build build --rounds 5
"""

import argparse
import json
import mmap
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "client" / "python" / "tests"))
from cluster import Cluster  # noqa: E402

PAGE_BYTES = 1_310_720
PAGES = 128
EXISTS_KEYS = 4096
AIM_PAGES, AIM_EXISTS = 1.10, 1.5


class Bench:
    """One cluster, asked by simm-bench and by simm.kv over one transport."""

    def __init__(self, arguments, cluster, transport):
        from simm import kv

        self.arguments = arguments
        self.cluster = cluster
        self.transport = transport
        self.kv = kv
        ip, port = cluster.host_and_port
        kv.set_flag("cm_primary_node_ip", ip)
        kv.set_flag("cm_primary_node_port", port)
        kv.set_flag("clnt_transport", transport)
        kv.set_flag("clnt_deadline_ms", "5000")
        self.store = kv.Store()
        self.random = random.Random(1)
        self.arena = mmap.mmap(-1, arguments.arena_mib << 20)
        self.arena[:] = bytes(len(self.arena))
        block = memoryview(self.arena)
        self.address = kv.BlockView.from_tensor(block).address
        self.next = 0

    def cpp(self, op, value_bytes, batch, keys):
        """The median latency of a call, in seconds, and the commit that simm-bench names."""
        command = [
            Path(self.arguments.build, "bin", "simm-bench"), op, "--json",
            "--manager", self.cluster.address, "--transport", self.transport,
            "--value-size", value_bytes, "--batch", batch, "--keys", keys,
            "--seconds", self.arguments.seconds, "--arena", f"{self.arguments.arena_mib}MiB",
        ]  # fmt: skip
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            sys.exit(f"simm-bench failed ({done.returncode}):\n{done.stderr[-2000:]}")
        result = json.loads(done.stdout.strip().splitlines()[-1])
        if result["hits"] == 0 or result["errors"] > 0:
            sys.exit(f"simm-bench measured nothing: {result}")
        return result["latency_us"]["p50"] * 1e-6, result["commit"]

    def places(self, count, value_bytes):
        slots = len(self.arena) // value_bytes
        first, self.next = self.next, (self.next + count) % slots
        return [self.address + (first + i) % slots * value_bytes for i in range(count)]

    def timed(self, call):
        """The median time of call(), which returns how long it took, over the given seconds."""
        times = []
        for _ in range(3):
            call()
        end = time.perf_counter() + self.arguments.seconds
        while time.perf_counter() < end or len(times) < 5:
            times.append(call())
        return statistics.median(times)

    def python_pages(self, op, value_bytes, batch, keys):
        names = [f"python-{i}" for i in range(keys)]

        def views(places):
            from_buffer = self.kv.BlockView.from_buffer
            return [from_buffer(place, value_bytes, None) for place in places]

        if op == "get":
            for at in range(0, keys, batch):
                some = names[at : at + batch]
                self.store.mput(some, views(self.places(len(some), value_bytes)))
        put = self.store.mput
        get = self.store.mget

        def once():
            chosen = self.random.choices(names, k=batch)
            places = self.places(batch, value_bytes)
            begin = time.perf_counter()
            results = (get if op == "get" else put)(chosen, views(places))
            took = time.perf_counter() - begin
            wanted = value_bytes if op == "get" else 0
            if results != [wanted] * batch:
                sys.exit(f"{op}: {set(results)} instead of {wanted}")
            return took

        return self.timed(once)

    def python_exists(self, batch, keys):
        names = [f"python-{i}" for i in range(keys)]
        self.store.mput(names, [self.kv.BlockView.from_buffer(self.address, 64, None)] * keys)

        def once():
            chosen = self.random.choices(names, k=batch)
            begin = time.perf_counter()
            results = self.store.mexists(chosen)
            took = time.perf_counter() - begin
            if results != [True] * batch:
                sys.exit("exists: a key was not there")
            return took

        return self.timed(once)

    def ratio(self, cpp, python):
        """Medians over the rounds: C++ seconds, Python seconds, their ratio."""
        rounds = []
        for _ in range(self.arguments.rounds):
            before, commit = cpp()
            mine = python()
            after, _ = cpp()
            rounds.append(((before + after) / 2, mine, mine / ((before + after) / 2)))
        return [statistics.median(column) for column in zip(*rounds)], commit


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--arena-mib", type=int, default=512)
    parser.add_argument("--transports", default="tcp,shm")
    parser.add_argument("--json", action="store_true", help="one JSON object in the last line")
    return parser.parse_args()


def main():
    arguments = parse()
    os.environ.setdefault("SIMM_BIN_DIR", str(Path(arguments.build, "bin")))
    figures = {}
    commit = ""
    for transport in arguments.transports.split(","):
        with Cluster(servers=1, memory="1GiB") as cluster:
            bench = Bench(arguments, cluster, transport)
            pages = dict(value_bytes=PAGE_BYTES, batch=PAGES, keys=2 * PAGES)
            exists = dict(batch=EXISTS_KEYS, keys=EXISTS_KEYS)
            (cpp, mine, ratio), commit = bench.ratio(
                lambda: bench.cpp("get", **pages), lambda: bench.python_pages("get", **pages)
            )
            figures[f"get {PAGES} pages, {transport}"] = (cpp, mine, ratio, AIM_PAGES)
            (cpp, mine, ratio), commit = bench.ratio(
                lambda: bench.cpp("exists", value_bytes=64, **exists),
                lambda: bench.python_exists(**exists),
            )
            figures[f"exists {EXISTS_KEYS} keys, {transport}"] = (cpp, mine, ratio, AIM_EXISTS)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs"
    print(f"commit {commit}, {machine}, Python {platform.python_version()}, "
          f"{arguments.rounds} rounds: {' '.join(sys.argv)}")  # fmt: skip
    for name, (cpp, mine, ratio, aim) in figures.items():
        print(f"{name:28} C++ {cpp * 1e3:8.3f} ms  Python {mine * 1e3:8.3f} ms  "
              f"ratio {ratio:.3f} (aim {aim})")  # fmt: skip
    if arguments.json:
        print(json.dumps({name: {"cpp_s": cpp, "python_s": mine, "ratio": ratio, "aim": aim}
                          for name, (cpp, mine, ratio, aim) in figures.items()}))  # fmt: skip


if __name__ == "__main__":
    main()

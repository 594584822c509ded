#!/usr/bin/env python3
"""Runs simm-bench and its baselines in turn and prints the figures as ratios.

Each figure is the median of the ratios of --rounds rounds; in a round the baseline runs directly
before and after what is compared with it, because the speed of a shared machine drifts. Nothing
else should run. Beside them, where they are installed: iperf3 and redis-server.

    bench/compare_tcp.py --build build --rounds 5
"""

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Runner:
    """Starts programs of the build and reads their last line of JSON."""

    def __init__(self, arguments):
        self.bin = Path(arguments.build, "bin")
        self.seconds = arguments.seconds
        self.memory = arguments.memory
        self.verbose = arguments.verbose

    def json(self, *command):
        command = [str(part) for part in command]
        if self.verbose:
            print("  $ " + " ".join(command), file=sys.stderr)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def stream(self, chunk):
        result = self.json(
            self.bin / "stream_baseline", "--buffer", self.memory, "--chunk", chunk,
            "--seconds", self.seconds,
        )  # fmt: skip
        return result["bytes_per_s"]

    def round_trip(self, answer):
        result = self.json(
            self.bin / "round_trip_baseline", "--answer", answer, "--seconds", self.seconds
        )
        return result["latency_us"]["p50"]

    def bench(self, op, value_size, batch, *more, servers=1):
        return self.json(
            self.bin / "simm-bench", op, "--json", "--embedded", servers,
            "--transport", "tcp", "--memory", self.memory, "--value-size", value_size,
            "--batch", batch, "--seconds", self.seconds, "--arena", self.memory, *more,
        )  # fmt: skip


def check(result):
    """Stops on a run whose numbers mean nothing."""
    if result["errors"] or result["corrupt"]:
        sys.exit(f"errors or wrong bytes, the numbers mean nothing: {json.dumps(result)}")
    return result


def bandwidth(runner, op, size, checksum):
    """Ratio of the store's bytes a second to the mean of the baseline before and after."""
    before = runner.stream(size)
    result = check(runner.bench(op, size, 16, "--checksum", checksum))
    after = runner.stream(size)
    return result["bytes_per_s"] / ((before + after) / 2), result["bytes_per_s"] * 1e-9


def small_get(runner):
    before = runner.round_trip(4096)
    result = check(runner.bench("get", 4096, 1))
    after = runner.round_trip(4096)
    return result["latency_us"]["p50"] / ((before + after) / 2), result["latency_us"]["p50"]


def exists(runner):
    result = check(runner.bench("exists", 4096, 256, servers=3))
    if result["round_trips_per_call"] > 3.5:
        print(f"  exists took {result['round_trips_per_call']:.2f} round trips a call on 3 servers")
    return result["ops_per_s"] / 300e3, result["ops_per_s"] * 1e-3


def eviction(runner):
    """p99 of gets while new keys evict, by p99 while as many puts replace."""
    common = ("--put-rate", 200)
    evict = check(runner.bench("mixed", "1MiB", 1, *common, "--replace-fraction", 0))
    replace = check(runner.bench("mixed", "1MiB", 1, *common, "--replace-fraction", 1))
    p99 = evict["latency_us"]["p99"]
    return p99 / replace["latency_us"]["p99"], p99


def fresh(runner):
    result = check(runner.bench("fill", "1MiB", 16))
    return result["fresh_hits"] / result["fresh_puts"], result["efficiency"]


def at_least(bar):
    return f">= {bar}", lambda ratio: ratio >= bar


def at_most(bar):
    return f"<= {bar}", lambda ratio: ratio <= bar


def figures():
    """(name, measure, unit of the value beside the ratio, bar)."""
    yield from (
        (f"get {size}, checksum {checksum}",
         lambda r, s=size, c=checksum: bandwidth(r, "get", s, c), "GB/s", at_least(bar))
        for size, checksum, bar in (
            ("1MiB", "off", 0.9), ("1MiB", "always", 0.75), ("4MiB", "off", 0.9),
            ("4MiB", "always", 0.75), ("64KiB", "always", 0.65))
    )  # fmt: skip
    for size, bar in (("1MiB", 0.75), ("4MiB", 0.75), ("64KiB", 0.65)):
        yield (f"put {size}", lambda r, s=size: bandwidth(r, "put", s, "always"), "GB/s",
               at_least(bar))  # fmt: skip
    yield "get 4 KiB alone, p50 by a bare round trip", small_get, "us", at_most(2)
    yield "exists of 256 keys on 3 servers, by 300 k keys/s", exists, "k keys/s", at_least(1)
    yield "p99 of gets: puts that evict by puts that replace", eviction, "us", at_most(2)
    yield "fresh values there in a full cache", fresh, "efficiency", at_least(1)


def beside_iperf3():
    if shutil.which("iperf3") is None:
        return "iperf3: not installed"
    with subprocess.Popen(["iperf3", "-s", "-1", "-p", "25201"], stdout=subprocess.DEVNULL):
        time.sleep(0.5)
        done = subprocess.run(
            ["iperf3", "-c", "127.0.0.1", "-p", "25201", "-t", "3", "-J"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        return "iperf3: failed"
    rate = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 8
    return f"iperf3, one stream from one hot buffer: {rate * 1e-9:.2f} GB/s"


def redis_call(connection, requests, replies):
    """Sends raw requests and reads that many bytes of answers."""
    connection.sendall(requests)
    buffer = bytearray(1 << 20)
    while replies > 0:
        got = connection.recv_into(buffer)
        if got == 0:
            raise ConnectionError("redis closed the connection")
        replies -= got


def beside_redis(seconds):
    if shutil.which("redis-server") is None:
        return "redis-server: not installed"
    with tempfile.TemporaryDirectory() as folder:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        command = ["redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
        server = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            connection = socket.create_connection(("127.0.0.1", port))
            value = b"x" * (1 << 20)
            keys = [b"k%07d" % i for i in range(256)]
            for key in keys:
                head = b"*3\r\n$3\r\nSET\r\n$8\r\n" + key + b"\r\n$%d\r\n" % len(value)
                redis_call(connection, head + value + b"\r\n", len(b"+OK\r\n"))
            answer = len(b"$%d\r\n" % len(value)) + len(value) + 2
            start, got, at = time.monotonic(), 0, 0
            while time.monotonic() - start < seconds:
                batch = [keys[(at + i) % len(keys)] for i in range(16)]
                at += 16
                asked = b"".join(b"*2\r\n$3\r\nGET\r\n$8\r\n" + key + b"\r\n" for key in batch)
                redis_call(connection, asked, 16 * answer)
                got += 16 * len(value)
            rate = got / (time.monotonic() - start)
            connection.close()
        finally:
            server.terminate()
            server.wait()
    return (
        f"redis-server, get of 1 MiB, pipeline of 16, into one hot buffer: {rate * 1e-9:.2f} GB/s"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", default="build", help="build folder [build]")
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 to be quoted [5]")
    parser.add_argument("--seconds", type=float, default=3, help="of each run [3]")
    parser.add_argument("--memory", default="2GiB", help="of the pool and of each buffer [2GiB]")
    parser.add_argument("--only", default="", help="figures whose name holds this")
    parser.add_argument("--verbose", action="store_true", help="show the commands")
    arguments = parser.parse_args()
    runner = Runner(arguments)
    chosen = [figure for figure in figures() if arguments.only in figure[0]]
    measured = {figure[0]: [] for figure in chosen}
    for number in range(arguments.rounds):
        for name, measure, _, _ in chosen:
            print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr)
            measured[name].append(measure(runner))
    failed = 0
    print(f"{'figure':52} {'ratio':>7}  {'bar':8} {'':4} measured")
    for name, _, unit, (bar, holds) in chosen:
        ratio = statistics.median(pair[0] for pair in measured[name])
        value = statistics.median(pair[1] for pair in measured[name])
        failed += 0 if holds(ratio) else 1
        verdict = "ok" if holds(ratio) else "MISS"
        print(f"{name:52} {ratio:7.2f}  {bar:8} {verdict:4} {value:.2f} {unit}")
    print(f"baseline now: {runner.stream('1MiB') * 1e-9:.2f} GB/s; {beside_iperf3()}")
    print(beside_redis(arguments.seconds))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    print(f"commit {commit.stdout.strip() or 'unknown'}; {' '.join(sys.argv)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

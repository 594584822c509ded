#!/usr/bin/env python3
"""Runs simm-bench over RDMA beside perftest and prints the figures as ratios.

Each figure is the median of the ratios of --rounds rounds; in a round perftest runs directly before
and after what is compared with it. Both use the same device, sizes and depth. Where there is no
RDMA device, run it in the virtual machine:

    tests/rdma/vm.sh --timeout 400 python3 bench/compare_verbs.py --build build --rounds 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

DEPTH = 16  # work requests under way, of perftest and of a batch


def last_json(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def perftest(program, arguments, size, *more):
    """The columns of perftest's result line, client and server on one device."""
    command = [program, "-F", "-s", str(size), *more]
    if arguments.device:
        command += ["-d", arguments.device]
    if arguments.gid_index:
        command += ["-x", arguments.gid_index]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as server:
        for _ in range(50):
            time.sleep(0.1)
            done = subprocess.run(
                [*command, "127.0.0.1"], capture_output=True, text=True, check=False
            )
            lines = [line.split() for line in done.stdout.splitlines()]
            results = [line for line in lines if line and line[0] == str(size) and len(line) > 3]
            if done.returncode == 0 and results:
                server.wait(timeout=30)
                return [float(column) for column in results[-1]]
        server.kill()
    sys.exit(f"{' '.join(command)} gave no result:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def bandwidth(program, arguments, size):
    seconds = str(max(1, round(arguments.seconds)))
    columns = perftest(program, arguments, size, "-t", str(DEPTH), "-D", seconds, "-f", "0")
    return columns[3] * 1048576  # the average, which perftest gives in MiB/s


def latency(program, arguments, size):
    return perftest(program, arguments, size, "-e", "-n", "3000")[4]  # the typical one, us


def simm(arguments, op, size, batch, checksum):
    command = [
        str(Path(arguments.build, "bin", "simm-bench")), op, "--json", "--embedded", "1",
        "--transport", "verbs", "--memory", arguments.memory, "--value-size", str(size),
        "--batch", str(batch), "--seconds", str(arguments.seconds), "--checksum", checksum,
    ]  # fmt: skip
    if arguments.device:
        command += ["--rdma-device", arguments.device]
    if size <= 4096:
        command += ["--keys", "1000"]  # all of them in the location cache
    result = last_json(command)
    if result["errors"] or result["corrupt"] or result["transport"] != "verbs":
        sys.exit(f"the numbers mean nothing: {json.dumps(result)}")
    return result


def xxh3(arguments):
    program = str(Path(arguments.build, "bin", "memory_baseline"))
    return last_json([program])["xxh3_bytes_per_s"]


def get_bandwidth(arguments, size):
    before = bandwidth("ib_read_bw", arguments, size)
    rate = simm(arguments, "get", size, DEPTH, "off")["bytes_per_s"]
    after = bandwidth("ib_read_bw", arguments, size)
    return rate / ((before + after) / 2), rate * 1e-6


def put_bandwidth(arguments, size):
    """By a WRITE and one pass of XXH3 in series."""
    before = bandwidth("ib_write_bw", arguments, size)
    rate = simm(arguments, "put", size, DEPTH, "always")["bytes_per_s"]
    after = bandwidth("ib_write_bw", arguments, size)
    series = 1 / (2 / (before + after) + 1 / xxh3(arguments))
    return rate / series, rate * 1e-6


def get_latency(arguments):
    before = latency("ib_read_lat", arguments, 4096)
    result = simm(arguments, "get", 4096, 1, "off")
    after = latency("ib_read_lat", arguments, 4096)
    return result["latency_us"]["p50"] / ((before + after) / 2), result["latency_us"]["p50"]


def exists_latency(arguments):
    before = latency("ib_read_lat", arguments, 1024)
    result = simm(arguments, "exists", 4096, 1, "off")
    after = latency("ib_read_lat", arguments, 1024)
    return result["latency_us"]["p50"] / ((before + after) / 2), result["latency_us"]["p50"]


def at_least(bar):
    return f">= {bar}", lambda ratio: ratio >= bar


def at_most(bar):
    return f"<= {bar}", lambda ratio: ratio <= bar


MIB = 1 << 20
FIGURES = (
    ("get 1 MiB by ib_read_bw", lambda a: get_bandwidth(a, MIB), "MB/s", at_least(0.9)),
    ("get 4 MiB by ib_read_bw", lambda a: get_bandwidth(a, 4 * MIB), "MB/s", at_least(0.9)),
    ("put 1 MiB by ib_write_bw and XXH3 in series",
     lambda a: put_bandwidth(a, MIB), "MB/s", at_least(0.8)),
    ("cached get 4 KiB, p50 by ib_read_lat -e", get_latency, "us", at_most(2.6)),
    ("exists, p50 by ib_read_lat -e of 1 KiB", exists_latency, "us", at_most(1.8)),
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", default="build", help="build folder [build]")
    parser.add_argument("--rounds", type=int, default=3, help="[3]")
    parser.add_argument("--seconds", type=float, default=2, help="of each run [2]")
    parser.add_argument("--memory", default="256MiB", help="of the pool [256MiB]")
    parser.add_argument("--device", default="rxe0", help="RDMA device; empty: the first [rxe0]")
    parser.add_argument("--gid-index", default="1", help="for perftest [1]")
    parser.add_argument("--only", default="", help="figures whose name holds this")
    parser.add_argument(
        "--smoke", action="store_true", help="shows that all of it runs; a missed bar is no failure"
    )
    arguments = parser.parse_args()
    chosen = [figure for figure in FIGURES if arguments.only in figure[0]]
    measured = {figure[0]: [] for figure in chosen}
    for number in range(arguments.rounds):
        for name, measure, _, _ in chosen:
            print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr)
            measured[name].append(measure(arguments))
    failed = 0
    for name, _, unit, (bar, holds) in chosen:
        ratio = statistics.median(pair[0] for pair in measured[name])
        value = statistics.median(pair[1] for pair in measured[name])
        failed += 0 if holds(ratio) else 1
        verdict = "ok" if holds(ratio) else "MISS"
        print(f"bench: {name:46} {ratio:6.2f}  {bar:7} {verdict:4} {value:.1f} {unit}")
    return 1 if failed and not arguments.smoke else 0


if __name__ == "__main__":
    sys.exit(main())

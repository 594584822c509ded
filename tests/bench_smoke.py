#!/usr/bin/env python3
"""Runs each command of simm-bench briefly and checks what it prints; or checks a trace's result.

    tests/bench_smoke.py --bin build/bin
    tests/bench_smoke.py --trace result.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIELDS = {
    "op", "transport", "value_bytes", "batch", "threads", "seconds", "ops_per_s", "bytes_per_s",
    "latency_us", "hits", "misses", "errors", "corrupt",
}  # fmt: skip
TRACE_FIELDS = {"requests", "blocks", "prefix_hit_rate", "failed_puts"}
FILL_FIELDS = {"live_value_bytes", "data_bytes", "efficiency", "failed_puts"}
QUICK = ("--seconds", "1", "--warmup-seconds", "0.1", "--arena", "16MiB", "--verify")
SMALL = ("--embedded", "2", "--memory", "64MiB", "--value-size", "64KiB")


def fail(message):
    sys.exit(f"bench: FAILED: {message}")


def check_fields(result, more=frozenset()):
    missing = (FIELDS | more) - set(result)
    if missing:
        fail(f"{result.get('op')}: fields missing: {sorted(missing)}")
    if set(result["latency_us"]) != {"p50", "p99", "p999"}:
        fail(f"{result['op']}: latency_us holds {sorted(result['latency_us'])}")
    for name in ("errors", "corrupt"):
        if result[name] != 0:
            fail(f"{result['op']}: {result[name]} {name}: {json.dumps(result)}")
    if result.get("failed_puts", 0) != 0:
        fail(f"{result['op']}: {result['failed_puts']} failed puts")
    if result["ops_per_s"] <= 0:
        fail(f"{result['op']}: nothing was measured")


def check_trace(result):
    check_fields(result, TRACE_FIELDS)
    if result["hits"] == 0:
        fail("trace: not one hit")
    print(
        f"trace: prefix_hit_rate {result['prefix_hit_rate']:.4f} over {result['requests']} "
        f"requests, {result['blocks']} blocks of {result['value_bytes']} B; "
        f"failed_puts 0, corrupt 0"
    )
    if result["requests"] == 12031:
        # LRU gives .278 in simulation, three hashed LRUs .2775; FIFO .248.
        if not 0.265 <= result["prefix_hit_rate"] <= 0.366 or result["blocks"] != 288500:
            fail(f"trace: hit rate {result['prefix_hit_rate']} of {result['blocks']} blocks")
        print("trace: simulated at 10 %: FIFO .248, LRU .278, S3-FIFO .244, Belady (bound) .366")


def run(binary, *arguments):
    command = [str(binary), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        fail(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def refused(binary, *arguments):
    """Wrong flags: exit code 2 and the flag's name, before anything is started."""
    done = subprocess.run(
        [str(binary), *arguments], capture_output=True, text=True, timeout=20, check=False
    )
    if done.returncode != 2 or arguments[-2] not in done.stderr + done.stdout:
        fail(f"{arguments}: exit code {done.returncode}, said {done.stderr[-300:]}")


def beside_a_running_cluster(folder):
    """--manager and --threads: two programs at work on one cluster."""
    with tempfile.TemporaryDirectory() as temporary:
        ready = Path(temporary, "ready")
        common = ("--listen", "127.0.0.1:0", "--http", "off", "--ready-file", str(ready))
        manager = subprocess.Popen(
            [str(Path(folder, "simm-manager")), "--new-cluster", "--state", temporary + "/state",
             *common],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        server = None
        try:
            deadline = time.monotonic() + 20
            while not ready.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            address = json.loads(ready.read_text())["listen"]
            server = subprocess.Popen(
                [str(Path(folder, "simm-dataserver")), "--manager", address, "--memory", "64MiB",
                 "--data-listen", "127.0.0.1:0", "--advertise", "127.0.0.1",
                 *common[:-1], temporary + "/ready2"],
                stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            result = run(
                Path(folder, "simm-bench"), "get", "--manager", address, "--threads", "2",
                "--value-size", "16KiB", *QUICK,
            )  # fmt: skip
            check_fields(result)
            if result["threads"] != 2 or result["hits"] == 0:
                fail(f"--threads 2 --manager: {json.dumps(result)}")
            print(f"bench: get by 2 threads on a running cluster: {result['ops_per_s']:.0f} keys/s")
        finally:
            for process in filter(None, (server, manager)):
                process.terminate()
                process.wait()


def smoke(folder):
    binary = Path(folder, "simm-bench")
    refused(binary, "get", "--embedded", "1", "--value-size", "many")
    refused(binary, "get", "--embedded", "1", "--transport", "pigeon")
    beside_a_running_cluster(folder)
    for op in ("put", "get", "exists", "mixed"):
        result = run(binary, op, *SMALL, *QUICK)
        check_fields(result)
        print(f"bench: {op}: {result['ops_per_s']:.0f} keys/s, {result['hits']} hits")
        if op != "put" and result["misses"] > 0:
            fail(f"{op}: {result['misses']} misses in a cluster that is half full")
    result = run(binary, "fill", *SMALL)
    check_fields(result, FILL_FIELDS)
    print(f"bench: fill: efficiency {result['efficiency']:.3f}")
    with tempfile.TemporaryDirectory() as temporary:
        trace = str(Path(temporary, "trace.jsonl"))
        generator = Path(__file__).resolve().parent.parent / "bench/workloads/multi_turn.py"
        subprocess.run(
            [sys.executable, str(generator), "--sessions", "50", "--output", trace], check=True
        )
        check_trace(run(binary, "trace", "--embedded", "2", "--file", trace))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", help="folder of simm-bench")
    parser.add_argument("--trace", help="file with the output of simm-bench trace --json")
    arguments = parser.parse_args()
    if arguments.trace:
        check_trace(json.loads(Path(arguments.trace).read_text().strip().splitlines()[-1]))
    if arguments.bin:
        smoke(arguments.bin)
    return 0


if __name__ == "__main__":
    sys.exit(main())

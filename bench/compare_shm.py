#!/usr/bin/env python3
"""Runs simm-bench over shared memory beside memcpy between cold buffers; prints ratios.

Each figure is the median of the ratios of --rounds rounds; in a round the copy runs directly before
and after what is compared with it. Nothing else should run.

    bench/compare_shm.py --build build --rounds 5
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def last_json(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def copy_rate(arguments):
    """Of values of 1 MiB between two buffers of 1 GiB."""
    program = str(Path(arguments.build, "bin", "memory_baseline"))
    return last_json([program, "--seconds", "0.3"])["memcpy_bytes_per_s"]


def ratio_to_copy(arguments, op, size, batch, checksum):
    before = copy_rate(arguments)
    result = last_json([
        str(Path(arguments.build, "bin", "simm-bench")), op, "--json", "--embedded", "1",
        "--transport", "shm", "--memory", arguments.memory, "--value-size", size,
        "--batch", str(batch), "--seconds", str(arguments.seconds), "--arena", "1GiB",
        "--checksum", checksum,
    ])  # fmt: skip
    after = copy_rate(arguments)
    if result["errors"] or result["corrupt"] or result["transport"] != "shm":
        sys.exit(f"the numbers mean nothing: {json.dumps(result)}")
    return result["bytes_per_s"] / ((before + after) / 2), result["bytes_per_s"] * 1e-9


# op, value size, batch, checksum, the ratio aimed at
FIGURES = (
    ("get", "1MiB", 16, "off", 0.85),
    ("get", "1MiB", 16, "always", 0.6),
    ("get", "4MiB", 16, "off", 0.85),
    ("get", "4MiB", 16, "always", 0.6),
    ("get", "64KiB", 64, "off", 0.6),
    ("put", "1MiB", 16, "always", 0.6),
    ("put", "4MiB", 16, "always", 0.6),
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", default="build", help="build folder [build]")
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 to be quoted [5]")
    parser.add_argument("--seconds", type=float, default=1, help="of each run [1]")
    parser.add_argument(
        "--memory", default="4GiB", help="of the pool; a process may lease 1 %% of it [4GiB]"
    )
    parser.add_argument("--only", default="", help="figures whose name holds this")
    arguments = parser.parse_args()
    named = {f"{op} {size}, batch {batch}, checksum {checksum}": (op, size, batch, checksum, bar)
             for op, size, batch, checksum, bar in FIGURES}  # fmt: skip
    chosen = {name: figure for name, figure in named.items() if arguments.only in name}
    measured = {name: [] for name in chosen}
    for number in range(arguments.rounds):
        for name, (op, size, batch, checksum, _) in chosen.items():
            print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr)
            measured[name].append(ratio_to_copy(arguments, op, size, batch, checksum))
    failed = 0
    for name, figure in chosen.items():
        ratio = statistics.median(pair[0] for pair in measured[name])
        rate = statistics.median(pair[1] for pair in measured[name])
        verdict = "ok" if ratio >= figure[4] else "MISS"
        failed += verdict == "MISS"
        print(f"{name:36} {ratio:6.2f}  >= {figure[4]:<5} {verdict:4} {rate:.2f} GB/s")
    print(f"memcpy between cold buffers now: {copy_rate(arguments) * 1e-9:.2f} GB/s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""How fast are HiCacheSimm's batch_get_v1 and batch_set_v1, beside the C++ client?

Starts one data server and, for each page of a real model, runs simm-bench and the backend over
SGLang's own host pool in turn: same cluster, same value size, keys a call, memory and checksums.
Each figure is the median over the rounds; the ratio is that of neighbouring runs. Prints the
machine, the commit and the command with the figures.

    SIMM_SGLANG_PATH=FOLDER bench/sglang/hicache_bench.py --build build --rounds 5

FOLDER: pip install --no-deps --target FOLDER sglang==0.5.20. `simm` must be importable.
"""

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client/python/tests"))

GIB = 1 << 30
BATCH_PAGES = 128  # SGLang's STORAGE_BATCH_SIZE
# model: (bytes a value, MLA?), pages of 64 tokens
MODELS = {
    "DeepSeek-R1 MLA bf16": (4_497_408, True),
    "DeepSeek-R1 MLA fp8": (2_248_704, True),
    "Llama-70B TP8 bf16": (1_310_720, False),
    "Llama-70B TP8 fp8": (655_360, False),
    "Llama-8B TP1": (4_194_304, False),
    "Qwen3-32B TP4": (2_097_152, False),
    "Qwen3-32B TP1": (8_388_608, False),
    "Qwen3-235B TP8": (1_540_096, False),
    "Qwen2.5-7B TP1": (1_835_008, False),
    "DeepSeek-R1, page of 1": (70_272, True),
    "Llama-70B TP8, page of 1": (20_480, False),
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", default=str(ROOT / "build"), help="build folder [build]")
    parser.add_argument("--transport", choices=("auto", "shm", "tcp", "verbs"), default="tcp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run [1]")
    parser.add_argument("--pool", type=float, default=1.0, help="host pool, GiB [1]")
    parser.add_argument("--model", action="append", help="part of a model's name [all]")
    parser.add_argument("--readers", type=int, default=0, help="instead: N processes at once, MLA")
    parser.add_argument("--step", type=int, default=128, help="MiB, step_bytes [128]")
    parser.add_argument("--share", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--json", action="store_true", help="one JSON object a figure")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0 or arguments.pool <= 0:
        parser.error("--rounds, --seconds and --pool must be positive")
    return arguments


class Side:
    """The backend over a host pool of one model's pages."""

    def __init__(self, manager, arguments, value_bytes, is_mla, pool_bytes, ranks=1):
        import sglang_pools as pools
        import torch
        from sglang_backend import storage_config

        from simm.sglang import HiCacheSimm

        # One token a page: the value's bytes are all that counts for a transfer.
        shape = pools.Shape(
            tokens=max(2, int(pool_bytes / (value_bytes * (1 if is_mla else 2)))),
            page_size=1,
            layers=1,
            heads=1,
            head_dim=value_bytes,
            kv_lora_rank=value_bytes - 64,
            rope_dim=64,
            dtype=torch.uint8,
        )
        self.pools = pools
        self.pool = pools.mla(shape) if is_mla else pools.mha(shape)
        extra = {"manager_address": manager, "transport": arguments.transport}
        extra |= {"deadline_s": 60.0, "set_deadline_s": 60.0, "share_reads": arguments.share}
        extra["step_bytes"] = arguments.step << 20
        config = storage_config(
            extra, is_mla_model=is_mla, tp_size=ranks, model_name=f"bench-{value_bytes}"
        )
        self.backend = HiCacheSimm(config)
        self.backend.register_mem_pool_host(self.pool)
        self.pages = self.pool.size - 1
        self.batch = min(BATCH_PAGES, self.pages)
        self.page_bytes = value_bytes * (1 if is_mla else 2)
        self.salt = 0

    def names(self, count):
        return [hashlib.sha256(f"{self.salt}.{i}".encode()).hexdigest() for i in range(count)]

    def batches(self, names):
        for first in range(0, len(names) - self.batch + 1, self.batch):
            indices = self.pools.indices_of(self.pool, self.batch, first=first)
            yield names[first : first + self.batch], indices

    def fill(self):
        """Stores the pool's pages under the names that get() asks for."""
        for names, indices in self.batches(self.names(self.pages)):
            check(all(self.backend.batch_set_v1(names, indices)), "a page was not stored")

    def pages_fetched(self):
        """From data servers, since the start: as the native client has counted."""
        return self.backend._link.client.stats()["bytes_read"] // self.page_bytes

    def run(self, call, seconds, fresh):
        """Pages a second of `call` over the pool, for about `seconds`. fresh: new names."""
        pages = spent = 0
        while spent < seconds:
            self.salt += fresh
            for names, indices in self.batches(self.names(self.pages)):
                start = time.perf_counter()
                results = call(names, indices)
                spent += time.perf_counter() - start
                check(all(results), "a page was missing: the numbers mean nothing")
                pages += len(names)
        return pages / spent


def check(good, what):
    if not good:
        sys.exit(what)


def cpp(arguments, manager, operation, value_bytes, keys, batch):
    """Values a second of simm-bench on the same cluster."""
    command = [
        str(Path(arguments.build, "bin/simm-bench")), operation, "--manager", manager, "--json",
        "--transport", arguments.transport, "--value-size", str(value_bytes),
        "--batch", str(batch), "--keys", str(keys), "--seconds", str(arguments.seconds),
        "--warmup-seconds", "0.2", "--arena", str(int(arguments.pool * GIB)),
        "--namespace", f"bench-{value_bytes}", "--deadline-ms", "60000",
    ]  # fmt: skip
    if operation == "put":
        command += ["--replace-fraction", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"{' '.join(command)}\n{(done.stdout + done.stderr)[-1500:]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    check(not result["errors"] and not result["corrupt"], f"errors: {result}")
    return result["bytes_per_s"] / value_bytes


def server(arguments):
    from live_cluster import LiveCluster

    os.environ["SIMM_BIN_DIR"] = str(Path(arguments.build, "bin"))
    # Ours, those of simm-bench and ours again, without an eviction.
    memory = f"{int(GIB if arguments.readers else arguments.pool * 4 * GIB)}"
    return LiveCluster(servers=1, memory=memory, dead_ms=10000, mean_value="16KiB")


def measure(arguments, manager, model):
    value_bytes, is_mla = MODELS[model]
    values = 1 if is_mla else 2
    side = Side(manager, arguments, value_bytes, is_mla, arguments.pool * GIB)
    runs = {"get": [], "set": []}
    try:
        for _ in range(arguments.rounds):
            side.salt += 1
            side.fill()
            keys = side.pages * values
            batch = side.batch * values
            base = cpp(arguments, manager, "get", value_bytes, keys, batch) / values
            side.salt += 1
            side.fill()  # what the C++ run stored may have evicted it
            runs["get"].append((side.run(side.backend.batch_get_v1, arguments.seconds, 0), base))
            base = cpp(arguments, manager, "put", value_bytes, keys, batch) / values
            runs["set"].append((side.run(side.backend.batch_set_v1, arguments.seconds, 1), base))
    finally:
        side.backend.close()
    for what, pairs in runs.items():
        rate = statistics.median(ours for ours, _ in pairs)
        report(
            arguments,
            model=model,
            call=f"batch_{what}_v1",
            value_bytes=value_bytes,
            pages_a_call=side.batch,
            pages_per_s=round(rate, 1),
            gib_per_s=round(rate * side.page_bytes / GIB, 3),
            cpp_gib_per_s=round(statistics.median(b for _, b in pairs) * side.page_bytes / GIB, 3),
            ratio=round(statistics.median(ours / base for ours, base in pairs), 3),
        )


def report(arguments, **figures):
    if arguments.json:
        print(json.dumps(figures), flush=True)
    elif "ratio" in figures:
        print(
            "{model:26} {call:13} {value_bytes:>9} B x{pages_a_call:<4} {pages_per_s:>10} pages/s "
            "{gib_per_s:>7} GiB/s  C++ {cpp_gib_per_s:>7}  ratio {ratio}".format(**figures),
            flush=True,
        )
    else:
        print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


def value_of_readers(arguments):
    """Of the first model chosen that all ranks read alike."""
    for model, (value_bytes, is_mla) in MODELS.items():
        if is_mla and (not arguments.model or any(part in model for part in arguments.model)):
            return value_bytes
    return sys.exit("--readers needs a model with MLA")


def reader(arguments, manager, ready, go, rounds):
    """One rank: its own pool, the pages of rank 0. Puts a round's seconds and pages fetched."""
    value_bytes = value_of_readers(arguments)
    side = Side(manager, arguments, value_bytes, True, BATCH_PAGES * value_bytes, arguments.readers)
    names = side.names(side.batch)
    indices = side.pools.indices_of(side.pool, side.batch)
    check(all(side.backend.batch_get_v1(names, indices)), "a page was missing")  # touches memory
    ready.release()
    for _ in range(arguments.rounds):
        before = side.pages_fetched()
        go.wait()
        seconds = read_once(side, names, indices)
        rounds.put((seconds, side.pages_fetched() - before))
    side.backend.close()


def read_once(side, names, indices):
    start = time.perf_counter()
    check(all(side.backend.batch_get_v1(names, indices)), "a page was missing")
    return time.perf_counter() - start


def measure_readers(arguments, manager):
    """A model whose pages all ranks read: as many processes at once against one, in turn."""
    value_bytes = value_of_readers(arguments)
    one = Side(manager, arguments, value_bytes, True, BATCH_PAGES * value_bytes)
    from simm.sglang.slots import FRESH_S  # Side has made sglang importable

    one.fill()
    names, indices = one.names(one.batch), one.pools.indices_of(one.pool, one.batch)
    context = multiprocessing.get_context("spawn")
    ready, go, answers = (
        context.Semaphore(0),
        context.Barrier(arguments.readers + 1, timeout=120),
        context.Queue(),
    )
    started = [
        context.Process(target=reader, args=(arguments, manager, ready, go, answers))
        for _ in range(arguments.readers)
    ]
    for process in started:
        process.start()
    for _ in started:
        while not ready.acquire(timeout=1):
            check(all(process.is_alive() for process in started), "a reader has ended")
    rounds = []
    for _ in range(arguments.rounds):
        time.sleep(FRESH_S)  # what the round before has shared is of no use to this one
        alone = read_once(one, names, indices)
        go.wait()
        seconds, fetched = zip(*(answers.get(timeout=120) for _ in started), strict=True)
        rounds.append((alone, max(seconds), sum(fetched)))
    for process in started:
        process.join()
    one.backend.close()
    alone, slowest, fetched = zip(*rounds, strict=True)
    report(
        arguments,
        readers=arguments.readers,
        value_bytes=value_bytes,
        one_ms=round(statistics.median(alone) * 1e3, 1),
        slowest_ms=round(statistics.median(slowest) * 1e3, 1),
        times_one=round(statistics.median(s / a for a, s, _ in rounds), 2),
        pages=one.batch,
        pages_fetched=statistics.median(fetched),
    )


def main():
    arguments = parse_arguments()
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    print(
        f"commit {commit}, {os.cpu_count()} cores, {platform.machine()}, transport "
        f"{arguments.transport}, medians of {arguments.rounds}: {' '.join(sys.argv)}",
        file=sys.stderr,
    )
    if arguments.readers:
        with server(arguments) as cluster:
            measure_readers(arguments, cluster.manager)
        return
    for model in MODELS:
        if not arguments.model or any(part in model for part in arguments.model):
            with server(arguments) as cluster:  # a new one: the sizes of another model are gone
                measure(arguments, cluster.manager, model)
            gc.collect()  # the host pool: SGLang wants 10 GiB to stay free


if __name__ == "__main__":
    main()

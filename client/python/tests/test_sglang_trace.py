"""The conversation trace through SGLang's controller and HiCacheSimm: bytes and hit rate.

Prefetches and backups run at once in the controller's threads, 128 pages a call. simm-bench replays
the same trace on a cluster of the same size: the hit rates must agree. Without the trace beside the
checkout (../shared/traces) a generated one is replayed, and the output says so.
"""

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import sglang_pools as pools
import torch
from live_cluster import LiveCluster, program
from sglang_scheduler import Scheduler

ROOT = Path(__file__).resolve().parents[3]
TRACE = ROOT / "../shared/traces/conversation_trace.jsonl"
VALUE_BYTES = 16384
SERVERS = 3
CAPACITY = 0.1  # of the distinct blocks
# Head, key and rounding of an extent, and the index: what a value takes beside its bytes.
EXTENT_BYTES = VALUE_BYTES + 64 + 128
NOISE = 0.01
BACKUPS_UNDER_WAY = 4


def trace_file(tmp_path, capsys):
    given = os.environ.get("SIMM_TRACE")
    path = Path(given) if given else TRACE
    if path.is_file() or given:
        return path
    with capsys.disabled():
        print(f"\nWARNING: no {TRACE}: a generated trace is replayed instead of the real one")
    made = tmp_path / "generated.jsonl"
    subprocess.run(
        [sys.executable, ROOT / "bench/workloads/multi_turn.py", "--sessions", "1500"]
        + ["--output", made],
        check=True,
    )
    return made


def simm_bench(path, memory):
    """The same trace through the C++ client, on a cluster of its own."""
    with LiveCluster(SERVERS, memory=str(memory), mean_value="16KiB", dead_ms=10000) as cluster:
        command = [
            program("simm-bench"), "trace", "--manager", cluster.manager, "--file", str(path),
            "--value-size", str(VALUE_BYTES), "--transport", "tcp", "--json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.strip().splitlines()[-1])


class Replay:
    """One page a block; its bytes are a function of the block, so each page read can be checked."""

    def __init__(self, manager):
        words = VALUE_BYTES // 4
        shape = pools.Shape(
            tokens=8192, page_size=1, layers=1, kv_lora_rank=words - 64, rope_dim=64,
            dtype=torch.int32,
        )  # fmt: skip
        self.pool = pools.mla(shape)
        generator = torch.Generator().manual_seed(1)
        self.base = torch.randint(-(2**31), 2**31 - 1, (words,), generator=generator).int()
        extra = {"manager_address": manager, "transport": "tcp", "negative_ttl_s": 0}
        self.rank = Scheduler(self.pool, extra, mla=True)
        self.backups = collections.deque()
        self.blocks = self.hits = self.wrong = self.lost_backups = 0

    def content(self, blocks):
        return self.base ^ torch.tensor(blocks, dtype=torch.int32)[:, None]

    def rows(self, indices):
        return self.pool.kv_buffer[indices].view(len(indices), -1)

    def request(self, blocks):
        """Prefetches the longest stored prefix, checks it and backs up the rest."""
        while len(self.backups) >= BACKUPS_UNDER_WAY:
            self.end_backup()
        read, places = self.rank.load(blocks)
        self.blocks += len(blocks)
        self.hits += read
        if read:
            good = (self.rows(places) == self.content(blocks[:read])).all(dim=1)
            self.wrong += int((~good).sum())
            self.pool.free(self.rank.allocated)
        rest = blocks[read:]
        if rest:
            indices = self.pool.alloc(len(rest))
            self.pool.kv_buffer[indices] = self.content(rest).view(len(rest), 1, 1, -1)
            names = self.rank.names(blocks)[read:]
            self.rank.controller.write_storage(indices, rest, names)
            self.backups.append((indices, len(rest)))

    def end_backup(self):
        indices, tokens = self.backups.popleft()
        self.lost_backups += self.rank.end_store() != tokens
        self.pool.free(indices)

    def close(self):
        while self.backups:
            self.end_backup()
        self.counters = self.rank.backend.counters()
        self.rank.close()


def test_the_trace(tmp_path, capsys):
    path = trace_file(tmp_path, capsys)
    requests = [json.loads(line)["hash_ids"] for line in path.read_text().splitlines()]
    distinct = len({block for request in requests for block in request})
    memory = int(distinct * CAPACITY * EXTENT_BYTES * 1.03 / SERVERS) + (1 << 20)
    expected = simm_bench(path, memory)
    with LiveCluster(SERVERS, memory=str(memory), mean_value="16KiB", dead_ms=10000) as cluster:
        replay = Replay(cluster.manager)
        try:
            for blocks in requests:
                if blocks:
                    replay.request(blocks)
        finally:
            replay.close()
    rate = replay.hits / replay.blocks
    with capsys.disabled():
        print(
            f"\ntrace: {len(requests)} requests, {replay.blocks} blocks, {distinct} distinct: "
            f"hit rate {rate:.4f}, of simm-bench {expected['prefix_hit_rate']:.4f}"
        )
    assert replay.wrong == 0 and replay.lost_backups == 0
    assert replay.blocks == expected["blocks"]
    assert abs(rate - expected["prefix_hit_rate"]) <= NOISE
    assert replay.counters["calls_failed"] == replay.counters["calls_refused"] == 0

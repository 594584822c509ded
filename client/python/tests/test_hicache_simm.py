#!/usr/bin/env python3
"""Tries SiMM as SGLang's HiCache storage, against your cluster or one of its own.

    SIMM_CLUSTER_MANAGER="127.0.0.1:30001" python3 test_hicache_simm.py

With SIMM_CLUSTER_MANAGER the pages go to that cluster, under a tag of their own, and are dropped at
the end; its servers are left alone. The part that ends a server always runs on a small cluster that
the test starts; so does everything when the variable is not set. SIMM_BIN_DIR names the folder of
simm-manager and simm-dataserver [build/bin]. Needs simm, torch and SGLang; where SGLang cannot be
imported for want of a GPU, SIMM_SGLANG_PATH names a folder filled by `pip install --no-deps
--target FOLDER sglang`. Also runs under pytest.
"""

import hashlib
import os
import sys
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

try:
    if os.environ.get("SIMM_SGLANG_PATH"):
        import sglang_release  # noqa: F401
    import torch
    from sglang.srt.mem_cache.hicache_storage import (
        HiCacheStorageConfig,
        PoolHitPolicy,
        PoolName,
        PoolTransfer,
    )
    from simm.sglang import ConfigError, HiCacheSimm, UnservedPool
except ImportError as error:
    sys.exit(
        f"test_hicache_simm.py: {error}. It needs simm (pip install ./client/python), torch and "
        "SGLang (or SIMM_SGLANG_PATH; see the text at the top of this file)."
    )
from live_cluster import LiveCluster, wait_until  # noqa: E402

PAGE_SIZE, LAYERS, HEADS, WIDTH, PAGES = 4, 3, 2, 64, 160
BATCH = 128
RUN = uuid.uuid4().hex[:12]
MHA_DIMENSIONS = {
    "page_first": (PAGES * PAGE_SIZE, LAYERS, HEADS, WIDTH),
    "page_first_direct": (PAGES, LAYERS, PAGE_SIZE, HEADS, WIDTH),
    "page_head": (PAGES, HEADS, PAGE_SIZE, LAYERS, WIDTH),
}


class HostPool:
    """A host pool with SGLang's memory layout, filled with bytes that depend on `seed`."""

    def __init__(self, layout="page_first", mla=False, seed=0, heads=HEADS):
        self.layout, self.page_size, self.mla, self.heads = layout, PAGE_SIZE, mla, heads
        self.dtype = torch.bfloat16
        self.values = 1 if mla else 2
        self.value_bytes = PAGE_SIZE * LAYERS * heads * WIDTH * 2
        total = self.values * PAGES * self.value_bytes
        generator = torch.Generator().manual_seed(seed)
        self.kv_buffer = torch.randint(0, 256, (total,), dtype=torch.uint8, generator=generator)

    def _value(self, page, value):
        start = (value * PAGES + page) * self.value_bytes
        return self.kv_buffer[start : start + self.value_bytes]

    def get_page_buffer_meta(self, indices):
        pages = [index // PAGE_SIZE for index in indices.tolist()[::PAGE_SIZE]]
        parts = [self._value(page, value) for page in pages for value in range(self.values)]
        return [part.data_ptr() for part in parts], [self.value_bytes] * len(parts)

    def get_split_heads_page_buffer_meta(self, indices, split):
        addresses, sizes = self.get_page_buffer_meta(indices)
        piece = sizes[0] // split
        pieces = [
            addresses[page * 2 + value] + head * piece
            for page in range(len(addresses) // 2)
            for head in range(split)
            for value in range(2)
        ]
        return pieces, [piece] * len(pieces)

    def content(self, page):
        return [bytes(self._value(page, value).tolist()) for value in range(self.values)]

    def empty(self):
        self.kv_buffer.zero_()
        return self


class StatePool:
    """A side pool: one slot a page, three values of different sizes."""

    layout, page_size, dtype = "page_first", 1, torch.float32
    SIZES = (256, 24, 40)

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.buffers = [
            torch.randint(0, 256, (PAGES * size,), dtype=torch.uint8, generator=generator)
            for size in self.SIZES
        ]

    def get_hybrid_pool_buffer(self):
        return self.buffers

    def get_page_buffer_meta(self, indices):
        addresses = [
            buffer.data_ptr() + index * size
            for index in indices.tolist()
            for buffer, size in zip(self.buffers, self.SIZES, strict=True)
        ]
        return addresses, list(self.SIZES) * len(indices)

    def content(self, slot):
        pairs = zip(self.buffers, self.SIZES, strict=True)
        return [bytes(b[slot * n : (slot + 1) * n].tolist()) for b, n in pairs]


def indices_of(pool, pages, first=0):
    return torch.arange(first * pool.page_size, (first + pages) * pool.page_size)


def names_of(pages, salt=""):
    return [hashlib.sha256(f"{RUN}{salt}{i}".encode()).hexdigest() for i in range(pages)]


class Trial:
    """Makes backends for one cluster and cleans up after them. No manager: the environment's."""

    def __init__(self, manager=""):
        self.manager = manager
        self.backends = []

    def backend(self, pool, tag="", more=None, **changes):
        # The same namespaces in each run, since a cluster keeps their names; the keys are new.
        extra = {"extra_backend_tag": f"test-hicache-{tag}"}
        if self.manager:
            extra["manager_address"] = self.manager
        values = dict(
            tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
            is_mla_model=getattr(pool, "mla", False), enable_storage_metrics=False,
            is_page_first_layout=pool.layout == "page_first", model_name="test/model",
            extra_config={**extra, **(more or {})},
        )  # fmt: skip
        backend = HiCacheSimm(HiCacheStorageConfig(**{**values, **changes}), {})
        self.backends.append(backend)
        backend.register_mem_pool_host(pool)
        return backend

    def close(self):
        for backend in self.backends:
            cleared = backend.clear() or not backend.namespace
            backend.close()
            assert cleared, f"namespace {backend.namespace} was not cleared"


def check_single_values(trial):
    backend = trial.backend(HostPool(), "single")
    value, target = torch.arange(1024), torch.zeros(1024, dtype=torch.int64)
    one, two = f"{RUN}one", f"{RUN}two"
    assert backend.exists(one) is False
    assert backend.get(one, target) is None
    assert backend.set(one, value) is True
    assert backend.exists(one) is True
    assert backend.get(one, target) is target and torch.equal(target, value)
    address, size = target.data_ptr(), 1024 * 8
    assert backend.set(two, target_location=address, target_sizes=size) is True
    target.zero_()
    assert backend.get(two, target_location=address, target_sizes=size) is True
    assert torch.equal(target, value)


def check_batches(trial):
    for layout, mla in [
        *((layout, False) for layout in MHA_DIMENSIONS),
        ("page_first", True),
        ("page_first_direct", True),
    ]:
        source, target = HostPool(layout, mla, 1), HostPool(layout, mla).empty()
        tag = f"{layout}{mla}"
        writer, reader = trial.backend(source, tag), trial.backend(target, tag)
        names = names_of(BATCH)
        assert reader.batch_exists(names) == 0
        assert writer.batch_set_v1(names, indices_of(source, BATCH)) == [True] * BATCH
        assert writer.batch_set_v1(names, indices_of(source, BATCH)) == [True] * BATCH
        assert reader.batch_exists(names) == BATCH
        assert reader.batch_exists(names_of(3) + names_of(1, "other") + names[3:]) == 3
        assert reader.batch_get_v1(names, indices_of(target, BATCH, 20)) == [True] * BATCH
        for page in range(BATCH):
            assert target.content(20 + page) == source.content(page), (layout, mla, page)
        assert target.content(3) == HostPool(layout, mla).empty().content(3)


def check_tp_ranks(trial):
    names = names_of(16)
    source = HostPool(mla=True, seed=2)
    writer = trial.backend(source, "mla", tp_rank=0, tp_size=8)
    assert all(writer.batch_set_v1(names, indices_of(source, 16)))
    for rank in (1, 7):
        target = HostPool(mla=True)
        reader = trial.backend(target, "mla", tp_rank=rank, tp_size=8)
        assert all(reader.batch_get_v1(names, indices_of(target, 16)))
        assert target.content(15) == source.content(15)
    parts = [HostPool(seed=3), HostPool(seed=4)]
    for rank, pool in enumerate(parts):
        backend = trial.backend(pool, "mha", tp_rank=rank, tp_size=2)
        assert backend.batch_exists(names) == 0, "a rank sees another's part of a page"
        assert all(backend.batch_set_v1(names, indices_of(pool, 16)))
    for rank, pool in enumerate(parts):
        target = HostPool()
        reader = trial.backend(target, "mha", tp_rank=rank, tp_size=2)
        assert all(reader.batch_get_v1(names, indices_of(target, 16)))
        assert target.content(9) == pool.content(9)
    wide = HostPool("page_head", seed=5)
    split = dict(tp_lcm_size=4, should_split_heads=True)
    writer = trial.backend(wide, "heads", tp_rank=0, tp_size=2, **split)
    assert all(writer.batch_set_v1(names, indices_of(wide, 16)))
    narrow = HostPool("page_head", heads=1).empty()
    reader = trial.backend(narrow, "heads", tp_rank=1, tp_size=4, tp_lcm_size=4)
    assert all(reader.batch_get_v1(names, indices_of(narrow, 16)))
    half = len(wide.content(0)[0]) // 2
    assert narrow.content(7) == [value[half:] for value in wide.content(7)]


def check_layouts_and_settings(trial):
    for layout in ("layer_first", "layer_page_first"):
        try:
            trial.backend(HostPool(layout), "refused")
        except UnservedPool as error:
            assert "--hicache-mem-layout page_first" in str(error)
        else:
            raise AssertionError(f"layout {layout} was accepted")
    try:
        trial.backend(HostPool(), "refused", {"deadline_s": "soon"})
    except ConfigError as error:
        assert "deadline_s='soon'" in str(error)
    else:
        raise AssertionError("deadline_s='soon' was accepted")


def check_side_pools(trial):
    kv, states = HostPool(seed=6), StatePool(seed=7)
    backend = trial.backend(kv, "v2")
    backend.register_mem_host_pool_v2(states, PoolName.MAMBA)
    names = names_of(12)

    def part(keys, first, policy=PoolHitPolicy.ALL_PAGES):
        indices = indices_of(states, len(keys), first)
        return PoolTransfer(name=PoolName.MAMBA, host_indices=indices, keys=keys, hit_policy=policy)

    assert all(backend.batch_set_v1(names, indices_of(kv, 12)))
    assert backend.batch_exists_v2(names, [part(names, 0)]).kv_hit_pages == 0
    stored = backend.batch_set_v2([part(names[:4], 0)])
    assert stored == {PoolName.MAMBA: [True] * 4}
    result = backend.batch_exists_v2(names, [part(names, 0)])
    assert result.kv_hit_pages == 4 and result.extra_pool_hit_pages[PoolName.MAMBA] == 4
    assert backend.batch_set_v2([part(names[8:9], 8)]) == {PoolName.MAMBA: [True]}
    trailing = part(names[11:], 0, PoolHitPolicy.TRAILING_PAGES)
    result = backend.batch_exists_v2(names, [trailing])
    assert result.kv_hit_pages == 9 and result.extra_pool_hit_pages[PoolName.KV] == 12
    assert backend.batch_get_v2([part(names[:4], 50)]) == {PoolName.MAMBA: [True] * 4}
    assert [states.content(50 + i) for i in range(4)] == [states.content(i) for i in range(4)]


def check_wrong_lengths(trial):
    long, short = torch.zeros(100, dtype=torch.uint8), torch.zeros(60, dtype=torch.uint8)
    backend = trial.backend(HostPool(seed=8), "lengths")
    name = f"{RUN}value"
    assert backend.set(name, long.fill_(7)) is True
    assert backend.get(name, short) is None, "a longer value was taken"
    assert backend.get(name, torch.zeros(160, dtype=torch.uint8)) is None, "a shorter one"
    assert backend.get(name, torch.zeros(100, dtype=torch.uint8)) is not None
    names, pool = names_of(4), backend.mem_pool_host
    assert backend.batch_set_v1(names, indices_of(pool, 3)) == [False] * 4
    assert backend.batch_get_v1(names, indices_of(pool, 5)) == [False] * 4


def check_the_environment_alone(trial):
    """No setting at all but SIMM_CLUSTER_MANAGER."""
    source, target = HostPool(seed=11), HostPool().empty()
    names, indices = names_of(3, "alone"), indices_of(source, 3)
    alone = dict(extra_config={}, model_name="test/hicache-alone")
    assert trial.backend(source, **alone).batch_set_v1(names, indices) == [True] * 3
    reader = trial.backend(target, **alone)
    assert reader.config.manager_address == (os.environ["SIMM_CLUSTER_MANAGER"],)
    assert reader.batch_get_v1(names, indices) == [True] * 3
    assert target.content(2) == source.content(2)


def check_a_server_killed_in_between(cluster):
    trial = Trial(cluster.manager)
    try:
        source = HostPool(seed=9)
        backend = trial.backend(source, "killed")
        names, indices = names_of(BATCH), indices_of(source, BATCH)
        assert all(backend.batch_set_v1(names, indices))
        for index in cluster.servers:
            cluster.kill_server(index)
        for call in (backend.batch_get_v1, backend.batch_set_v1):
            start = time.monotonic()
            assert not any(call(names, indices))
            assert time.monotonic() - start <= backend.config.set_deadline_s + 5, "no deadline"
        wait_until(lambda: backend.counters()["breaker_opened"] > 0, 30, "the breaker")
        refused = backend.counters()["calls_refused"]
        assert backend.batch_exists(names) == 0
        assert not any(backend.batch_get_v1(names, indices))
        assert not any(backend.batch_set_v1(names, indices))
        refused = backend.counters()["calls_refused"] - refused
        assert refused == 3, "calls ask although nobody answers"
        for index in range(2):
            cluster.start_server(index)
        wait_until(lambda: all(backend.batch_set_v1(names, indices)), 60, "the recovery")
        target = HostPool().empty()
        reader = trial.backend(target, "killed")
        assert all(reader.batch_get_v1(names, indices))
        assert target.content(100) == source.content(100)
    finally:
        trial.close()


ON_THE_CLUSTER = (
    check_single_values,
    check_batches,
    check_tp_ranks,
    check_layouts_and_settings,
    check_side_pools,
    check_wrong_lengths,
)


def run(say=print):
    manager = os.environ.get("SIMM_CLUSTER_MANAGER", "")
    with LiveCluster(servers=2, memory="64MiB") as own:
        if manager:
            say(
                f"Cluster: {manager}. A second, small one is started for the server that is killed."
            )
        else:
            say("SIMM_CLUSTER_MANAGER is not set: a small cluster was started.")
        trial = Trial("" if manager else own.manager)
        checks = (*ON_THE_CLUSTER, check_the_environment_alone) if manager else ON_THE_CLUSTER
        try:
            for check in checks:
                check(trial)
                say(f"  {check.__name__[6:].replace('_', ' ')}: ok")
        finally:
            trial.close()
        check_a_server_killed_in_between(own)
        say("  a server killed in between: ok")
    say("✅ All tests passed")


def test_hicache_simm():
    run()


if __name__ == "__main__":
    try:
        run()
    except FileNotFoundError as error:
        sys.exit(f"test_hicache_simm.py: {error}")

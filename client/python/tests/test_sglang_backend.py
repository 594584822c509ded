"""HiCacheSimm over SGLang's own host pools on a fake cluster: bytes, keys, layouts, pools."""

import fake_native
import pytest
import sglang_pools as pools
import sglang_stubs
import torch
from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName, PoolTransfer
from sglang_backend import backend_of, cluster, hashes, storage_config  # noqa: F401
from simm.sglang import ConfigError, HiCacheSimm, UnservedPool

MHA_LAYOUTS = ("page_first", "page_first_direct", "page_head")
MLA_LAYOUTS = ("page_first", "page_first_direct")
KINDS = [(pools.mha, layout) for layout in MHA_LAYOUTS]
KINDS += [(pools.mla, layout) for layout in MLA_LAYOUTS]


def is_mla(make):
    return make is pools.mla


@pytest.mark.parametrize("make,layout", KINDS)
def test_pages_come_back_at_other_places_with_their_bytes(backend_of, make, layout):
    source, target = make(layout=layout), make(layout=layout)
    pools.fill(source, 1)
    pools.fill(target, 2)
    writer = backend_of(source, is_mla_model=is_mla(make))
    reader = backend_of(target, is_mla_model=is_mla(make))
    names = hashes(16)
    untouched = pools.page_bytes(target, 5)
    assert writer.batch_exists(names) == 0
    assert writer.batch_set_v1(names, pools.indices_of(source, 16)) == [True] * 16
    assert reader.batch_exists(names) == 16
    assert reader.batch_get_v1(names, pools.indices_of(target, 16, first=20)) == [True] * 16
    for page in range(16):
        assert pools.page_bytes(target, 20 + page) == pools.page_bytes(source, page)
    assert pools.page_bytes(target, 5) == untouched


def test_a_batch_is_one_call_of_each_kind(backend_of, cluster):
    pool = pools.mha(pools.Shape(tokens=1024))
    backend = backend_of(pool)
    names = hashes(128)
    backend.batch_set_v1(names, pools.indices_of(pool, 128))
    backend.batch_exists(names)
    backend.batch_get_v1(names, pools.indices_of(pool, 128))
    assert [(name, keys) for name, keys, _ in cluster.calls] == [
        ("put", 256),
        ("exists", 256),
        ("get", 256),
    ]


def test_a_whole_chain_is_asked_for_in_one_call(backend_of, cluster):
    backend = backend_of(pools.mha())
    assert backend.batch_exists(hashes(2048)) == 0
    assert [(name, keys) for name, keys, _ in cluster.calls] == [("exists", 4096)]


def test_results_are_per_page_and_reading_stops_behind_the_first_miss(backend_of, cluster):
    pool = pools.mha(pools.Shape(tokens=512))
    backend = backend_of(pool, {"step_bytes": 1 << 20, "negative_ttl_s": 0})
    names = hashes(64)
    assert all(backend.batch_set_v1(names, pools.indices_of(pool, 64)))
    # The value part of page 10 alone is gone: the page is.
    lost = [key for key in cluster.keys(backend.namespace) if names[10] in key and key[-1] == "1"]
    assert len(lost) == 1
    del cluster.entries[backend.namespace, lost[0]]
    assert backend.batch_exists(names) == 10
    results = backend.batch_get_v1(names, pools.indices_of(pool, 64))
    assert results[:11] == [True] * 10 + [False]


def test_steps_keep_the_start_of_the_prefix(backend_of, cluster):
    shape = pools.Shape(tokens=256, layers=8, heads=8, head_dim=512)  # 256 KiB a value
    pool = pools.mha(shape)
    backend = backend_of(pool, {"step_bytes": 1 << 20})
    names = hashes(8)
    backend.batch_set_v1(names, pools.indices_of(pool, 8))
    assert [keys for name, keys, _ in cluster.calls if name == "put"] == [4, 4, 4, 4]
    cluster.calls.clear()
    gone = [key for key in cluster.keys(backend.namespace) if names[3] in key]
    for key in gone:
        del cluster.entries[backend.namespace, key]
    results = backend.batch_get_v1(names, pools.indices_of(pool, 8))
    assert results == [True] * 3 + [False] * 5
    assert [keys for name, keys, _ in cluster.calls if name == "get"] == [4, 4]


def test_storing_again_moves_nothing_and_succeeds(backend_of, cluster):
    pool = pools.mla()
    backend = backend_of(pool, is_mla_model=True, enable_storage_metrics=True)
    names = hashes(4)
    assert all(backend.batch_set_v1(names, pools.indices_of(pool, 4)))
    before = dict(cluster.entries)
    pools.fill(pool, 7)
    assert all(backend.batch_set_v1(names, pools.indices_of(pool, 4)))
    assert cluster.entries == before
    assert [name for name, _, _ in cluster.calls] == ["put", "put"]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_value_of_another_length_is_a_miss(backend_of, cluster, change):
    pool = pools.mla()
    backend = backend_of(pool, {"negative_ttl_s": 0}, is_mla_model=True)
    names = hashes(3)
    backend.batch_set_v1(names, pools.indices_of(pool, 3))
    key = next(key for key in cluster.keys(backend.namespace) if names[1] in key)
    value = cluster.entries[backend.namespace, key]
    longer = value + b"x" if change > 0 else value[:-1]
    cluster.entries[backend.namespace, key] = longer
    neighbour = pools.page_bytes(pool, 2)
    assert backend.batch_get_v1(names, pools.indices_of(pool, 3))[:2] == [True, False]
    assert pools.page_bytes(pool, 2) == neighbour


def identities():
    """Changes of which each one must lead to other entries than `base`."""
    return {
        "tag": ({"extra_backend_tag": "blue"}, {}, {}),
        "model": ({}, {"model_name": "org/other"}, {}),
        "model_id": ({"model_id": "same weights"}, {}, {}),
        "format": ({"kv_dtype": "fp8_e5m2"}, {}, {}),
        "page size": ({}, {}, {"page_size": 8}),
        "layers": ({}, {}, {"layers": 4}),
        "dtype": ({}, {}, {"dtype": torch.float16}),
        "tp rank": ({}, {"tp_rank": 1, "tp_size": 2}, {}),
        "tp size": ({}, {"tp_size": 2}, {}),
        "pp": ({}, {"pp_rank": 1, "pp_size": 2}, {}),
        "cp": ({}, {"attn_cp_rank": 1, "attn_cp_size": 2}, {}),
    }


@pytest.mark.parametrize("what", identities())
def test_what_decides_the_bytes_is_in_the_key(backend_of, what):
    extra, config, shape = identities()[what]
    pool, other_pool = pools.mha(), pools.mha(pools.Shape(**shape))
    names = hashes(4)
    assert all(backend_of(pool).batch_set_v1(names, pools.indices_of(pool, 4)))
    other = backend_of(other_pool, extra, **config)
    assert other.batch_exists(names) == 0
    assert other.batch_get_v1(names, pools.indices_of(other_pool, 4)) == [False] * 4


def test_formats_that_are_stored_alike_do_not_meet(backend_of, monkeypatch):
    """Both fp8 formats are bytes in the host pool; the server's arguments tell them apart."""
    pool = pools.mla(pools.Shape(dtype=torch.uint8))
    names = hashes(4)
    namespaces = set()
    for given in ("fp8_e4m3", "fp8_e5m2"):
        monkeypatch.setattr(sglang_stubs.SERVER_ARGUMENTS, "kv_cache_dtype", given)
        backend = backend_of(pool, is_mla_model=True)
        namespaces.add(backend.namespace)
        assert backend.batch_exists(names) == 0
        assert all(backend.batch_set_v1(names, pools.indices_of(pool, 4)))
    assert len(namespaces) == 2


def test_layouts_of_the_same_size_do_not_meet(backend_of):
    first, direct = pools.mha(layout="page_first"), pools.mha(layout="page_first_direct")
    names = hashes(4)
    backend_of(first).batch_set_v1(names, pools.indices_of(first, 4))
    assert backend_of(direct).batch_exists(names) == 0


def test_mla_ranks_share_what_one_of_them_wrote(backend_of):
    names = hashes(8)
    source = pools.mla()
    pools.fill(source, 3)
    writer = backend_of(source, is_mla_model=True, tp_rank=0, tp_size=8)
    assert all(writer.batch_set_v1(names, pools.indices_of(source, 8)))
    for tp_size, rank in ((8, 7), (4, 3)):
        target = pools.mla()
        reader = backend_of(target, is_mla_model=True, tp_rank=rank, tp_size=tp_size)
        assert reader.batch_exists(names) == 8
        assert all(reader.batch_get_v1(names, pools.indices_of(target, 8)))
        assert pools.page_bytes(target, 7) == pools.page_bytes(source, 7)


def test_mha_ranks_keep_their_own_part(backend_of):
    names = hashes(8)
    sources = [pools.mha(), pools.mha()]
    for rank, pool in enumerate(sources):
        pools.fill(pool, rank)
        backend = backend_of(pool, tp_rank=rank, tp_size=2)
        assert backend.batch_exists(names) == 0
        assert all(backend.batch_set_v1(names, pools.indices_of(pool, 8)))
    for rank, pool in enumerate(sources):
        target = pools.mha()
        reader = backend_of(target, tp_rank=rank, tp_size=2)
        assert all(reader.batch_get_v1(names, pools.indices_of(target, 8)))
        assert pools.page_bytes(target, 3) == pools.page_bytes(pool, 3)


def test_servers_of_different_tp_size_share_heads(backend_of):
    """Two ranks with two heads each write; one of four ranks, with one head, reads its quarter."""
    names = hashes(4)
    wide = pools.mha(pools.Shape(heads=2), layout="page_head")
    pools.fill(wide, 1)
    writer = backend_of(wide, tp_rank=1, tp_size=2, tp_lcm_size=4, should_split_heads=True)
    assert all(writer.batch_set_v1(names, pools.indices_of(wide, 4)))
    for rank, head in ((2, 0), (3, 1)):
        narrow = pools.mha(pools.Shape(heads=1), layout="page_head")
        reader = backend_of(narrow, tp_rank=rank, tp_size=4, tp_lcm_size=4)
        assert reader.batch_exists(names) == 4
        assert all(reader.batch_get_v1(names, pools.indices_of(narrow, 4)))
        # kv_buffer: (K and V, page, head, token, layer, width)
        assert torch.equal(
            narrow.kv_buffer[:, 2, 0].view(torch.int16),
            wide.kv_buffer[:, 2, head].view(torch.int16),
        )
    stranger = pools.mha(pools.Shape(heads=1), layout="page_head")
    assert backend_of(stranger, tp_rank=0, tp_size=4, tp_lcm_size=4).batch_exists(names) == 0


@pytest.mark.parametrize("make", [pools.mha, pools.mla])
def test_layer_first_is_refused_with_the_flag_to_set(backend_of, make):
    with pytest.raises(UnservedPool, match="--hicache-mem-layout page_first"):
        backend_of(make(layout="layer_first"), is_mla_model=is_mla(make))


def test_memory_of_all_pools_is_registered_once_and_given_back(backend_of, cluster):
    pool, state = pools.mha(), pools.mamba()
    backend = backend_of(pool)
    backend.register_mem_host_pool_v2(pool, PoolName.KV)
    backend.register_mem_host_pool_v2(state, PoolName.MAMBA)
    client = cluster.clients[0]
    registered = sum(size for _, size in client.memory.values())
    expected = pool.kv_buffer.numel() * pool.kv_buffer.element_size()
    expected += sum(t.numel() * t.element_size() for t in pools.tensors_of(state))
    assert registered == expected
    backend.close()
    assert client.memory == {} and client.closed
    backend.close()


def test_memory_that_cannot_be_registered_ends_the_start(cluster):
    cluster.refuse_memory = True
    backend = HiCacheSimm(storage_config())
    with pytest.raises(RuntimeError, match="ulimit -l"):
        backend.register_mem_pool_host(pools.mha())
    backend.close()


def transfer(name, pool, keys, policy=PoolHitPolicy.ALL_PAGES, first=0):
    return PoolTransfer(
        name=name,
        host_indices=pools.indices_of(pool, len(keys), first),
        keys=keys,
        hit_policy=policy,
    )


def test_side_pools_are_moved_with_their_bytes(backend_of):
    kv, state = pools.mha(), pools.mamba()
    pools.fill(state, 4)
    backend = backend_of(kv)
    backend.register_mem_host_pool_v2(state, PoolName.MAMBA)
    names = hashes(6)
    stored = backend.batch_set_v2([transfer(PoolName.MAMBA, state, names)])
    assert stored == {PoolName.MAMBA: [True] * 6}
    target = pools.mamba()
    reader = backend_of(kv)
    reader.register_mem_host_pool_v2(target, PoolName.MAMBA)
    read = reader.batch_get_v2([transfer(PoolName.MAMBA, target, names, first=30)])
    assert read == {PoolName.MAMBA: [True] * 6}
    for slot in range(6):
        assert pools.page_bytes(target, 30 + slot) == pools.page_bytes(state, slot)


def test_a_pool_of_another_name_has_entries_of_its_own(backend_of):
    kv, draft = pools.mha(), pools.mha()
    backend = backend_of(kv)
    backend.register_mem_host_pool_v2(draft, PoolName.DRAFT)
    names = hashes(4)
    backend.batch_set_v1(names, pools.indices_of(kv, 4))
    result = backend.batch_exists_v2(names, [transfer(PoolName.DRAFT, draft, names)])
    assert result.kv_hit_pages == 0


def test_all_pages_policy_takes_the_shorter_pool(backend_of):
    kv, draft = pools.mha(), pools.mha()
    backend = backend_of(kv)
    backend.register_mem_host_pool_v2(draft, PoolName.DRAFT)
    names = hashes(8)
    backend.batch_set_v1(names, pools.indices_of(kv, 8))
    backend.batch_set_v2([transfer(PoolName.DRAFT, draft, names[:5])])
    result = backend.batch_exists_v2(names, [transfer(PoolName.DRAFT, draft, names)])
    assert result.kv_hit_pages == 5
    assert result.extra_pool_hit_pages == {PoolName.KV: 8, PoolName.DRAFT: 5}
    if hasattr(result, "restorable_prefix_pages"):
        assert result.restorable_prefix_pages == [1, 2, 3, 4, 5]


def test_trailing_pages_policy_allows_holes(backend_of):
    kv, state = pools.mha(), pools.mamba()
    backend = backend_of(kv)
    backend.register_mem_host_pool_v2(state, PoolName.MAMBA)
    names = hashes(10)
    backend.batch_set_v1(names[:9], pools.indices_of(kv, 9))
    # States were kept after pages 4 and 8; one that lies behind the stored prefix is of no use.
    backend.batch_set_v2([transfer(PoolName.MAMBA, state, [names[3], names[7], names[9]])])
    asked = transfer(PoolName.MAMBA, state, names[9:], PoolHitPolicy.TRAILING_PAGES)
    result = backend.batch_exists_v2(names, [asked])
    assert result.kv_hit_pages == 8
    assert result.extra_pool_hit_pages == {PoolName.KV: 9, PoolName.MAMBA: 8}
    if hasattr(result, "restorable_prefix_pages"):
        assert result.restorable_prefix_pages == [4, 8]


def test_a_window_of_trailing_pages_must_be_complete(backend_of):
    kv, window = pools.mha(), pools.mha(pools.Shape(layers=1))
    backend = backend_of(kv)
    backend.register_mem_host_pool_v2(window, PoolName.SWA)
    names = hashes(8)
    backend.batch_set_v1(names, pools.indices_of(kv, 8))
    backend.batch_set_v2([transfer(PoolName.SWA, window, [names[0], *names[2:6], names[7]])])
    asked = transfer(PoolName.SWA, window, names[5:], PoolHitPolicy.TRAILING_PAGES)
    result = backend.batch_exists_v2(names, [asked])
    # Three pages up to the end, or all of a shorter prefix: 1, 5 (pages 2 to 4), 6.
    assert result.kv_hit_pages == 6
    if hasattr(result, "restorable_prefix_pages"):
        assert result.restorable_prefix_pages == [1, 5, 6]


if hasattr(PoolHitPolicy, "BLOCK_GROUPS"):  # newer releases

    def test_block_groups_report_their_own_reach(backend_of):
        kv, blocks = pools.mha(), pools.mha(pools.Shape(layers=1))
        backend = backend_of(kv)
        backend.register_mem_host_pool_v2(blocks, PoolName.SWA)
        names, groups = hashes(16), hashes(4, "group")
        backend.batch_set_v1(names[:6], pools.indices_of(kv, 6))
        backend.batch_set_v2([transfer(PoolName.SWA, blocks, groups[:3])])
        asked = transfer(PoolName.SWA, blocks, groups, PoolHitPolicy.BLOCK_GROUPS)
        asked.block_pages, asked.group_pages = 8, 2
        result = backend.batch_exists_v2(names, [asked])
        assert result.kv_hit_pages == 6
        assert result.extra_pool_hit_pages == {PoolName.KV: 6, PoolName.SWA: 8}


def test_a_logical_anchor_leaves_the_answer_to_its_side_pools(backend_of, cluster):
    anchor, side = pools.logical(), pools.mla(pools.Shape(layers=1))
    pools.fill(side, 5)
    backend = backend_of(anchor, is_mla_model=True, tp_rank=0, tp_size=2)
    backend.register_mem_host_pool_v2(anchor, PoolName.KV)
    backend.register_mem_host_pool_v2(side, PoolName.DEEPSEEK_V4_C4)
    names = hashes(6)
    assert backend.batch_exists(names) == 6
    assert backend.batch_set_v1(names, pools.indices_of(anchor, 6)) == [True] * 6
    assert not any(name in key for key in cluster.keys(backend.namespace) for name in names)
    side_pages = transfer(PoolName.DEEPSEEK_V4_C4, side, names)
    assert backend.batch_exists_v2(names, [side_pages]).kv_hit_pages == 0
    backend.batch_set_v2([transfer(PoolName.DEEPSEEK_V4_C4, side, names[:4])])
    other = backend_of(anchor, is_mla_model=True, tp_rank=1, tp_size=2)
    target = pools.mla(pools.Shape(layers=1))
    other.register_mem_host_pool_v2(target, PoolName.DEEPSEEK_V4_C4)
    assert other.batch_exists_v2(names, [side_pages]).kv_hit_pages == 4
    read = other.batch_get_v2([transfer(PoolName.DEEPSEEK_V4_C4, target, names[:4])])
    assert read == {PoolName.DEEPSEEK_V4_C4: [True] * 4}
    assert pools.page_bytes(target, 3) == pools.page_bytes(side, 3)


@pytest.mark.parametrize("name", [PoolName.DRAFT, PoolName.SWA])
def test_an_mha_pool_beside_an_mla_model_is_not_shared(backend_of, caplog, name):
    kv, side = pools.mla(), pools.mha()
    names = hashes(4)
    writer = backend_of(kv, is_mla_model=True, tp_rank=0, tp_size=2)
    writer.register_mem_host_pool_v2(side, name)
    assert "rank 0 only" in caplog.text
    writer.batch_set_v1(names, pools.indices_of(kv, 4))
    writer.batch_set_v2([transfer(name, side, names)])
    reader = backend_of(kv, is_mla_model=True, tp_rank=1, tp_size=2)
    reader.register_mem_host_pool_v2(side, name)
    assert reader.batch_exists(names) == 4
    assert reader.batch_exists_v2(names, [transfer(name, side, names)]).kv_hit_pages == 0


@pytest.mark.parametrize("name", [PoolName.DRAFT, PoolName.INDEXER])
def test_a_replicated_pool_beside_an_mla_model_is_shared(backend_of, caplog, name):
    kv, side = pools.mla(), pools.mla(pools.Shape(layers=1))
    names = hashes(4)
    for rank in range(2):
        backend = backend_of(kv, is_mla_model=True, tp_rank=rank, tp_size=2)
        backend.register_mem_host_pool_v2(side, name)
        if rank == 0:
            backend.batch_set_v1(names, pools.indices_of(kv, 4))
            backend.batch_set_v2([transfer(name, side, names)])
        assert backend.batch_exists_v2(names, [transfer(name, side, names)]).kv_hit_pages == 4
    assert "rank 0 only" not in caplog.text


def test_single_values_and_the_older_calls(backend_of):
    backend = backend_of(pools.mha())
    value = torch.arange(100, dtype=torch.int32)
    assert backend.exists("a") is False
    assert backend.get("a", torch.zeros(100, dtype=torch.int32)) is None
    assert backend.set("a", value) is True
    assert backend.exists("a") is True
    target = torch.zeros(100, dtype=torch.int32)
    assert backend.get("a", target) is target and torch.equal(target, value)
    assert backend.get("a", torch.zeros(99, dtype=torch.int32)) is None
    address, size = target.data_ptr(), target.numel() * 4
    assert backend.set("b", target_location=address, target_sizes=size) is True
    assert backend.get("b", target_location=address, target_sizes=size) is True
    assert backend.get("c", target_location=address, target_sizes=size) is False
    assert backend.batch_get(["a", "b", "c"], [address] * 3, [size] * 3) == 2
    assert backend.batch_set(["d", "e"], [value, value]) is True
    found = backend.batch_get(["d", "missing"], [target, target])
    assert found[0] is target and found[1] is None
    assert backend.batch_set(["f"], [torch.zeros(4, 4).t()[1:]]) is False  # not contiguous


def test_clear_drops_the_pages_of_all_ranks_and_of_nobody_else(backend_of, cluster):
    pool = pools.mha()
    names = hashes(4)
    ranks = [backend_of(pool, tp_rank=rank, tp_size=2) for rank in range(2)]
    stranger = backend_of(pool, model_name="org/other")
    for backend in (*ranks, stranger):
        assert all(backend.batch_set_v1(names, pools.indices_of(pool, 4)))
    assert ranks[0].clear() is True
    assert [backend.batch_exists(names) for backend in (*ranks, stranger)] == [0, 0, 4]
    cluster.error = RuntimeError("broken")
    assert ranks[0].clear() is False


def test_wrong_shapes_are_failures_not_exceptions(backend_of):
    pool = pools.mha()
    backend = backend_of(pool)
    names = hashes(4)
    short = pools.indices_of(pool, 3)
    assert backend.batch_set_v1(names, short) == [False] * 4
    assert backend.batch_get_v1(names, None) == [False] * 4
    unknown = PoolTransfer(name=PoolName.SWA, host_indices=short, keys=names)
    assert backend.batch_get_v2([unknown]) == {PoolName.SWA: [False] * 4}
    assert backend.batch_exists_v2(names, [unknown]).kv_hit_pages == 0
    assert backend.batch_get_v1([], pools.indices_of(pool, 0)) == []
    assert backend.batch_exists([]) == 0
    assert backend.counters()["calls_failed"] == 4


def test_a_dynamic_backend_needs_interface_v1():
    with pytest.raises(ConfigError, match="interface_v1"):
        HiCacheSimm(storage_config({"class_name": "HiCacheSimm"}))


def test_stats_are_sglangs_own_and_ask_nobody(backend_of, cluster):
    from sglang.srt.observability.metrics_collector import StorageMetrics

    pool = pools.mla()
    backend = backend_of(pool, is_mla_model=True, enable_storage_metrics=True)
    names = hashes(8)
    backend.batch_set_v1(names, pools.indices_of(pool, 8))
    backend.batch_set_v1(names, pools.indices_of(pool, 8))
    backend.batch_get_v1(names, pools.indices_of(pool, 8))
    stats = backend.get_stats()
    assert type(stats) is StorageMetrics
    assert stats.prefetch_pgs == [8] and stats.backup_pgs == [8, 8]
    # What was there already moved nothing and has no bandwidth.
    assert len(stats.prefetch_bandwidth) == 1 and len(stats.backup_bandwidth) == 1
    assert 0 < stats.prefetch_bandwidth[0] < 1000
    assert backend.get_stats() == StorageMetrics()
    asked = len(cluster.calls)
    for _ in range(1000):
        backend.get_stats()
    assert len(cluster.calls) == asked, "the scheduler would wait for the cluster in each round"
    assert backend_of(pool, is_mla_model=True).get_stats() is None


def test_the_client_is_made_as_configured(backend_of, cluster):
    extra = {
        "manager_address": "[::1]:30001,10.0.0.2:30001",
        "transport": "tcp",
        "verify": "sampled",
        "connect_timeout_s": 2.5,
        "max_lanes_per_server": 3,
    }
    backend_of(pools.mha(), extra)
    client = cluster.clients[-1]
    assert client.addresses == ["[::1]:30001", "10.0.0.2:30001"]
    assert client.options == {
        "transport": "tcp",
        "verify": "sampled",
        "connect_timeout_ms": 2500,
        "max_lanes_per_server": 3,
    }
    assert client.namespace.startswith("sglang/model-8b/") and len(client.namespace) <= 128
    assert fake_native.CODES["OK"] == 0

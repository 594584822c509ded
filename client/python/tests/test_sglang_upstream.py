"""SGLang's own, unmodified storage/simm/hicache_simm.py on simm.kv and a cluster of real processes.

Its NIC lookup crashes where there is no RDMA device (it calls .get on a list); here it is answered
with "none", as on a host whose devices are elsewhere. Nothing else is touched.
"""

import json
import zlib

import pytest
import sglang_pools as pools
from live_cluster import LiveCluster, wait_until
from sglang.srt.mem_cache.storage.simm import hicache_simm
from sglang_scheduler import Scheduler, page_at

SHAPE = pools.Shape(tokens=4096, page_size=16, layers=4, heads=2, head_dim=64)
PAGES = 140


@pytest.fixture(scope="module")
def cluster():
    with LiveCluster(servers=2) as made:
        yield made


@pytest.fixture(autouse=True)
def without_rdma(monkeypatch):
    monkeypatch.setattr(hicache_simm, "get_numa_nic_mapping", dict)


def tokens_of(pages, salt=0):
    return [(salt * 1_000_003 + i) % 150_000 for i in range(pages * SHAPE.page_size)]


@pytest.mark.parametrize("layout", ["page_first", "page_first_direct"])
@pytest.mark.parametrize("make", [pools.mha, pools.mla])
def test_pages_through_sglangs_own_backend(cluster, make, layout):
    salt = zlib.crc32(f"{make.__name__} {layout}".encode()) % 1000
    source, target = make(SHAPE, layout), make(SHAPE, layout)
    pools.fill(source, salt)
    extra = {"manager_address": cluster.manager}
    tokens = tokens_of(PAGES, salt)
    indices = pools.indices_of(source, PAGES)
    writer = Scheduler(source, extra, backend="simm", mla=make is pools.mla)
    try:
        assert type(writer.backend) is hicache_simm.HiCacheSiMM
        assert writer.load(tokens)[0] == 0
        assert writer.store(tokens, indices) == len(tokens)
        assert writer.store(tokens, indices) == len(tokens)
        reader = Scheduler(target, extra, backend="simm", mla=make is pools.mla)
        read, places = reader.load(tokens)
        assert read == len(tokens)
        for page in range(PAGES):
            assert page_at(target, places, page) == page_at(source, indices, page)
        reader.close()
    finally:
        writer.close()


def test_the_json_file_names_the_cluster(cluster, tmp_path, monkeypatch):
    path = tmp_path / "simm.json"
    path.write_text(json.dumps({"manager_address": cluster.manager}))
    monkeypatch.setenv("SGLANG_HICACHE_SIMM_CONFIG_PATH", str(path))
    pool = pools.mha(SHAPE)
    rank = Scheduler(pool, {}, backend="simm")
    try:
        tokens = tokens_of(8, salt=5)
        assert rank.store(tokens, pools.indices_of(pool, 8)) == len(tokens)
        assert rank.load(tokens)[0] == len(tokens)
    finally:
        rank.close()


def test_servers_killed_in_between_cost_pages_not_threads():
    with LiveCluster(servers=2) as cluster:
        pool = pools.mha(SHAPE)
        rank = Scheduler(pool, {"manager_address": cluster.manager}, backend="simm")
        try:
            tokens = tokens_of(32)
            indices = pool.alloc(32 * SHAPE.page_size)
            assert rank.store(tokens, indices) == len(tokens)
            cluster.kill_all_servers()
            assert rank.load(tokens)[0] == 0
            assert rank.store(tokens_of(4, salt=1), pool.alloc(4 * SHAPE.page_size)) == 0
            for index in range(2):
                cluster.start_server(index)
            wait_until(lambda: rank.store(tokens, indices) == len(tokens), 20, "the recovery")
            assert rank.load(tokens)[0] == len(tokens)
            assert all(thread.is_alive() for thread in rank.threads())
        finally:
            rank.close()

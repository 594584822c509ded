"""SGLang's own controllers, factory and host pools with HiCacheSimm on real processes."""

import signal
import time

import pytest
import sglang_pools as pools
import torch
from live_cluster import LiveCluster, wait_until
from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName, PoolTransfer
from sglang_scheduler import Scheduler, page_at
from simm.sglang import ConfigError, HiCacheSimm, UnservedPool

SHAPE = pools.Shape(tokens=4096, page_size=16, layers=4, heads=2, head_dim=64)
PAGES = 128


@pytest.fixture(scope="module")
def cluster():
    with LiveCluster(servers=3) as made:
        yield made


@pytest.fixture
def own_cluster():
    """For tests that end servers."""
    with LiveCluster(servers=2) as made:
        yield made


def extra(cluster, transport="tcp", **more):
    return {"manager_address": cluster.manager, "transport": transport, **more}


def tokens_of(pages, salt=0):
    return [(salt * 1_000_003 + i) % 150_000 for i in range(pages * SHAPE.page_size)]


@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize(
    "make,layout",
    [
        (pools.mha, "page_first"),
        (pools.mha, "page_first_direct"),
        (pools.mha, "page_head"),
        (pools.mla, "page_first"),
        (pools.mla, "page_first_direct"),
    ],
)
def test_pages_through_the_controllers_threads(cluster, transport, make, layout):
    tag = f"{make.__name__}-{layout}-{transport}"
    options = {"mla": make is pools.mla}
    source, target = make(SHAPE, layout), make(SHAPE, layout)
    pools.fill(source, 1)
    writer = Scheduler(source, extra(cluster, transport, extra_backend_tag=tag), **options)
    reader = Scheduler(target, extra(cluster, transport, extra_backend_tag=tag), **options)
    try:
        assert type(reader.backend) is HiCacheSimm
        tokens = tokens_of(PAGES + 20)  # more than one of the controller's batches
        indices = pools.indices_of(source, PAGES + 20)
        assert reader.load(tokens)[0] == 0
        assert writer.store(tokens, indices) == len(tokens)
        read, places = reader.load(tokens)
        assert read == len(tokens)
        for page in range(PAGES + 20):
            assert page_at(target, places, page) == page_at(source, indices, page)
        # Another continuation shares the prefix only.
        other = tokens[: 40 * SHAPE.page_size] + tokens_of(5, salt=7)
        assert reader.load(other)[0] == 40 * SHAPE.page_size
        assert writer.backend.counters()["pages_written"] == PAGES + 20
    finally:
        writer.close()
        reader.close()


def test_prefetch_and_backup_at_once(cluster):
    pool = pools.mha(pools.Shape(tokens=32768, page_size=16))
    pools.fill(pool, 2)
    rank = Scheduler(pool, extra(cluster, extra_backend_tag="at once"))
    try:
        chains = [tokens_of(30, salt=s) for s in range(1, 21)]
        places = [pool.alloc(30 * 16) for _ in chains]
        for chain, indices in zip(chains, places, strict=True):
            rank.start_store(chain, indices)
        pending = list(range(len(chains)))
        end = time.monotonic() + 30
        while pending:  # asks while the backups run, until all are there
            assert time.monotonic() < end
            index = pending.pop(0)
            read, where = rank.load(chains[index])
            assert read % 16 == 0
            for page in range(read // 16):
                assert page_at(pool, where, page) == page_at(pool, places[index], page)
            pool.free(where)
            if read < 30 * 16:
                pending.append(index)
        assert [rank.end_store() for _ in chains] == [30 * 16] * len(chains)
        assert all(thread.is_alive() for thread in rank.threads())
    finally:
        rank.close()


def test_attach_detach_and_attach_again(cluster):
    pool = pools.mha(SHAPE)
    rank = Scheduler(pool, extra(cluster, extra_backend_tag="attach"))
    tokens = tokens_of(8)
    assert rank.store(tokens, pools.indices_of(pool, 8)) == len(tokens)
    first = rank.backend
    rank.close()
    assert rank.backend is None and first._link is None
    rank = Scheduler(pool, extra(cluster, extra_backend_tag="attach"))
    try:
        assert rank.load(tokens)[0] == len(tokens)
    finally:
        rank.close()


def test_a_start_that_cannot_work_says_why(cluster):
    pool = pools.mha(SHAPE)
    with pytest.raises((ConfigError, ValueError), match="deadline_s=0"):
        Scheduler(pool, extra(cluster, deadline_s=0))
    with pytest.raises((UnservedPool, ValueError), match="--hicache-mem-layout page_first"):
        Scheduler(pools.mha(SHAPE, "layer_first"), extra(cluster))
    with pytest.raises((ConfigError, ValueError), match="interface_v1"):
        Scheduler(pool, extra(cluster, interface_v1=0))
    nobody = {"manager_address": "127.0.0.1:1", "connect_timeout_s": 0.3}
    with pytest.raises(Exception, match="127.0.0.1:1"):
        Scheduler(pool, nobody)


def timed(call):
    start = time.perf_counter()
    return call(), time.perf_counter() - start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_all_servers_gone_and_back(own_cluster, number, capsys):
    """The first call ends by its deadline, later ones ask nobody; no thread is lost."""
    pool = pools.mha(SHAPE)
    pools.fill(pool, 3)
    rank = Scheduler(pool, extra(own_cluster))
    try:
        backend = rank.backend
        tokens = tokens_of(PAGES)
        names, indices = rank.names(tokens), pools.indices_of(pool, PAGES)
        pool.alloc(PAGES * SHAPE.page_size)
        assert rank.store(tokens, indices) == len(tokens)
        assert backend.batch_exists(names) == PAGES
        calls = [
            (lambda: backend.batch_exists(names), 0),
            (lambda: backend.batch_get_v1(names, indices), [False] * PAGES),
            (lambda: backend.batch_set_v1(names, indices), [False] * PAGES),
        ]
        for index in own_cluster.servers:
            if number == signal.SIGKILL:
                own_cluster.kill_server(index)
            else:
                own_cluster.pause_server(index)
        for call, nothing in calls:
            found, seconds = timed(call)
            assert found == nothing
            assert seconds <= backend.config.deadline_s + 5
        wait_until(lambda: backend.counters()["breaker_opened"] > 0, 30, "the breaker")
        refused, longest = backend.counters()["calls_refused"], 0.0
        for _ in range(5):
            for call, nothing in calls:
                found, seconds = timed(call)
                assert found == nothing
                longest = max(longest, seconds)
        assert backend.counters()["calls_refused"] == refused + 15  # nobody was asked
        # The controller goes on: a backup fails, a prefetch finds nothing.
        assert rank.store(tokens_of(4, salt=9), pools.indices_of(pool, 4)) == 0
        assert rank.load(tokens)[0] == 0
        for index in range(2):
            if number == signal.SIGKILL:
                own_cluster.start_server(index)
            else:
                own_cluster.resume_server(index)
        back = time.monotonic()
        wait_until(lambda: all(backend.batch_set_v1(names, indices)), 60, "the recovery")
        with capsys.disabled():
            print(
                f"\nsglang: {number.name}: calls took {longest * 1e3:.2f} ms at most with the "
                f"breaker open, back after {time.monotonic() - back:.2f} s"
            )
        assert rank.load(tokens)[0] == len(tokens)
        assert all(thread.is_alive() for thread in rank.threads())
        assert backend.counters()["calls_failed"] == 0
    finally:
        rank.close()


def test_one_server_gone_costs_its_pages_only(own_cluster):
    pool = pools.mla(SHAPE)
    rank = Scheduler(pool, extra(own_cluster), mla=True)
    try:
        names, indices = rank.names(tokens_of(PAGES)), pools.indices_of(pool, PAGES)
        assert all(rank.backend.batch_set_v1(names, indices))
        own_cluster.kill_server(0)

        def settled():
            return 0 < rank.backend.batch_set_v1(names, indices).count(True) < PAGES

        wait_until(settled, 30, "what is left")
        assert rank.backend.counters()["breaker_opened"] == 0
        # Its shards get a new owner, and everything can be stored again.
        wait_until(lambda: all(rank.backend.batch_set_v1(names, indices)), 60, "the new owner")
        assert rank.load(tokens_of(PAGES))[0] == PAGES * SHAPE.page_size
    finally:
        rank.close()


def test_clear_drops_everything_of_the_namespace(cluster):
    sources = [pools.mha(SHAPE), pools.mha(SHAPE)]
    rank = Scheduler(sources[0], extra(cluster, extra_backend_tag="clear"))
    other = Scheduler(sources[1], extra(cluster, extra_backend_tag="kept"))
    try:
        tokens = tokens_of(PAGES)
        for each in (rank, other):
            assert each.store(tokens, pools.indices_of(each.pool, PAGES)) == len(tokens)
        assert rank.backend.clear() is True
        assert rank.load(tokens)[0] == 0
        assert other.load(tokens)[0] == len(tokens)
    finally:
        rank.close()
        other.close()


def test_a_hybrid_model_keeps_its_states_beside_its_pages(cluster):
    """SGLang's hybrid controller: KV of every page, a recurrent state at the end of a stretch."""
    kv, states = pools.mha(SHAPE), pools.mamba()
    pools.fill(kv, 4)
    pools.fill(states, 5)
    rank = Scheduler(kv, extra(cluster, extra_backend_tag="hybrid"), more={PoolName.MAMBA: states})

    def state_of(names, slot):
        return PoolTransfer(
            name=PoolName.MAMBA,
            host_indices=states.alloc(1) if slot is None else torch.tensor([slot]),
            keys=[names[-1]],
            hit_policy=PoolHitPolicy.TRAILING_PAGES,
        )

    try:
        tokens = tokens_of(10)
        names = rank.names(tokens)
        indices = kv.alloc(10 * SHAPE.page_size)
        # Pages without a state cannot be used at all.
        assert rank.store(tokens, indices) == len(tokens)
        assert rank.load(tokens, [state_of(names, None)])[0] == 0
        kept = states.alloc(1)
        assert rank.store(tokens, indices, [state_of(names, int(kept))]) == len(tokens)
        target = state_of(names, None)
        read, places = rank.load(tokens, [target])
        assert read == len(tokens)
        assert rank.pool_hits[PoolName.MAMBA] == 1
        assert page_at(kv, places, 9) == page_at(kv, indices, 9)
        found = pools.page_bytes(states, int(target.host_indices))
        assert found == pools.page_bytes(states, int(kept))
        # A longer request is served up to the page that has a state.
        longer = tokens + tokens_of(3, salt=3)
        assert rank.store(longer, kv.alloc(13 * SHAPE.page_size)) == len(longer)
        assert rank.load(longer, [state_of(rank.names(longer), None)])[0] == len(tokens)
        assert all(thread.is_alive() for thread in rank.threads())
    finally:
        rank.close()

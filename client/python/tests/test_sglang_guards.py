"""What happens while the cluster is away (a fake one): times, breaker, negative cache, threads."""

import logging
import os
import threading
import time

import fake_native
import pytest
import sglang_pools as pools
from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer
from sglang_backend import Hands, backend_of, cluster, hashes, storage_config  # noqa: F401
from simm.sglang import HiCacheSimm, nic
from simm.sglang.guards import NegativeCache, QuietLog
from simm.sglang.hits import usable_trailing
from simm.sglang.link import PROBE_KEYS

PAGES = 128


def wait_until(condition, seconds=60.0):
    """Polls: the moment at which another thread is done cannot be waited for otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def timed(call):
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def calls_of(backend, pool):
    """Each data call for PAGES pages, with what it answers when nothing can be had."""
    names = hashes(PAGES)
    indices = pools.indices_of(pool, PAGES)
    transfers = [PoolTransfer(name=PoolName.KV, host_indices=indices, keys=names)]
    nothing = [False] * PAGES
    return [
        (lambda: backend.batch_exists(names), 0),
        (lambda: backend.batch_get_v1(names, indices), nothing),
        (lambda: backend.batch_set_v1(names, indices), nothing),
        (lambda: backend.batch_exists_v2(names, []).kv_hit_pages, 0),
        (lambda: backend.batch_get_v2(transfers), {PoolName.KV: nothing}),
        (lambda: backend.batch_set_v2(transfers), {PoolName.KV: nothing}),
        (lambda: backend.exists("x"), False),
        (lambda: backend.get("x", pool.kv_buffer), None),
        (lambda: backend.set("x", pool.kv_buffer), False),
        (lambda: backend.batch_get(["x"], [pool.kv_buffer]), [None]),
        (lambda: backend.batch_set(["x"], [pool.kv_buffer]), False),
    ]


@pytest.fixture
def pool():
    return pools.mha(pools.Shape(tokens=PAGES * 4))


def test_a_silent_cluster_costs_one_deadline_and_then_nothing(backend_of, cluster, pool):
    backend = backend_of(pool, {"deadline_s": 0.3, "set_deadline_s": 0.3})
    cluster.silent = True
    calls = calls_of(backend, pool)
    found, seconds = timed(calls[0][0])
    assert found == 0 and seconds < 0.3 + 5
    assert [(name, ms <= 300) for name, _, ms in cluster.calls[:1]] == [("exists", True)]
    wait_until(lambda: backend.counters()["breaker_opened"] == 1)
    cluster.calls.clear()
    for call, nothing in calls:
        assert call() == nothing
    # The breaker's own tries aside, nobody was asked.
    assert {(name, count) for name, count, _ in cluster.calls} <= {("put", PROBE_KEYS)}
    assert backend.counters()["calls_refused"] == len(calls)
    cluster.silent = False
    wait_until(lambda: backend.batch_set_v1(hashes(4), pools.indices_of(pool, 4)) == [True] * 4)
    assert backend.batch_exists(hashes(4)) == 4


def test_dead_servers_open_the_breaker_with_the_first_set(backend_of, cluster, pool):
    backend = backend_of(pool)
    names, indices = hashes(PAGES), pools.indices_of(pool, PAGES)
    cluster.dead = True
    assert backend.batch_set_v1(names, indices) == [False] * PAGES
    assert backend.counters()["breaker_opened"] == 1
    made = [name for name, _, _ in cluster.calls]
    assert backend.batch_get_v1(names, indices) == [False] * PAGES
    assert [name for name, _, _ in cluster.calls if name == "get"] == []
    assert made.count("put") == 1
    cluster.dead = False
    wait_until(lambda: all(backend.batch_set_v1(names, indices)))


def test_servers_that_come_after_the_start_are_used(backend_of, cluster, pool):
    cluster.dead = True
    backend = backend_of(pool)
    assert backend.counters()["breaker_opened"] == 1
    cluster.dead = False
    names = hashes(4)
    wait_until(lambda: all(backend.batch_set_v1(names, pools.indices_of(pool, 4))))


def test_one_page_that_cannot_be_stored_does_not_open_the_breaker(backend_of, cluster, pool):
    backend = backend_of(pool)
    real = cluster.clients[-1].put

    def put(keys, addresses, sizes, deadline_ms):
        codes = real(keys, addresses, sizes, deadline_ms)
        return [fake_native.CODES["UNAVAILABLE"], *codes[1:]]

    cluster.clients[-1].put = put
    results = backend.batch_set_v1(hashes(8), pools.indices_of(pool, 8))
    assert results == [False] + [True] * 7
    assert backend.counters()["breaker_opened"] == 0


def test_no_exception_leaves_a_data_call(backend_of, cluster, pool):
    backend = backend_of(pool)
    cluster.error = RuntimeError("broken")
    for call, nothing in calls_of(backend, pool):
        assert call() == nothing
    assert backend.counters()["calls_failed"] >= 8


def test_nothing_given_is_no_exception_either(backend_of, cluster, pool):
    backend = backend_of(pool)
    broken = PoolTransfer(name=PoolName.KV, host_indices=None, keys=None)
    assert backend.batch_exists(None) == 0
    assert backend.batch_get_v1(None, None) == backend.batch_set_v1(None, None) == []
    assert backend.batch_exists_v2(None, None).kv_hit_pages == 0
    assert backend.batch_get_v2(None) == backend.batch_set_v2(None) == {}
    assert backend.batch_get_v2([None]) == {}
    assert backend.batch_set_v2([broken]) == {PoolName.KV: []}
    assert backend.batch_get(None) == []
    assert backend.batch_set(None) is False and backend.set(None) is False
    assert backend.get(None) is None and backend.exists(None) is False
    assert cluster.calls == []


@pytest.mark.parametrize("step", ["first pool", "second pool", "description", "probe"])
def test_a_start_that_fails_leaves_nothing_open(cluster, pool, monkeypatch, step):
    before = threading.active_count()
    backend = HiCacheSimm(storage_config())
    if step == "first pool":
        cluster.refuse_memory = True
    elif step == "probe":
        monkeypatch.setattr(HiCacheSimm, "_probe", lambda self: 1 / 0)
    if step in ("first pool", "probe"):
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            backend.register_mem_pool_host(pool)
    else:
        backend.register_mem_pool_host(pool)
        cluster.refuse_memory = step == "second pool"
        side = pools.mha() if step == "second pool" else object()
        with pytest.raises((RuntimeError, ValueError)):
            backend.register_mem_host_pool_v2(side, PoolName.SWA)
    (client,) = cluster.clients
    assert client.closed and client.memory == {}
    assert threading.active_count() == before
    for call, nothing in calls_of(backend, pool):
        assert call() == nothing
    backend.close()


def test_calls_before_registration_and_after_close_are_misses(backend_of, cluster, pool):
    early = HiCacheSimm(storage_config())
    for call, nothing in calls_of(early, pool):
        assert call() == nothing
    assert early.clear() is False
    early.close()
    late = backend_of(pool)
    late.close()
    for call, nothing in calls_of(late, pool):
        assert call() == nothing


def test_the_deadline_is_handed_down_and_shrinks(backend_of, cluster):
    shape = pools.Shape(tokens=64, layers=8, heads=8, head_dim=512)
    pool = pools.mha(shape)
    backend = backend_of(pool, {"deadline_s": 0.4, "set_deadline_s": 2.0, "step_bytes": 1 << 20})
    names, indices = hashes(8), pools.indices_of(pool, 8)
    assert all(backend.batch_set_v1(names, indices))
    assert all(0 < ms <= 2000 for name, _, ms in cluster.calls if name == "put")
    hands = Hands(backend, cluster)
    hands.seconds_a_call = 0.15
    results = backend.batch_get_v1(names, indices)
    deadlines = [ms for name, _, ms in cluster.calls if name == "get"]
    assert deadlines == [400, 250, 100]
    # What was read by then counts; the rest does not, and is not taken as missing.
    assert results == [True] * 6 + [False] * 2
    hands.seconds_a_call = 0
    assert backend.batch_get_v1(names, indices) == [True] * 8


def test_several_pools_share_one_deadline(backend_of, cluster, pool):
    side = pools.mha(pools.Shape(tokens=64))
    backend = backend_of(pool, {"deadline_s": 0.5, "set_deadline_s": 0.5})
    for name in (PoolName.MAMBA, PoolName.SWA):
        backend.register_mem_host_pool_v2(side, name)
    names = hashes(4)
    transfers = [
        PoolTransfer(name=name, host_indices=pools.indices_of(side, 4), keys=names)
        for name in (PoolName.MAMBA, PoolName.SWA)
    ]
    Hands(backend, cluster).seconds_a_call = 0.3
    for call in (backend.batch_set_v2, backend.batch_get_v2):
        cluster.calls.clear()
        call(transfers)
        assert [ms for _, _, ms in cluster.calls] == [500, 200]


def test_a_page_that_could_not_be_got_is_missing_for_a_while(backend_of, cluster, pool):
    backend = backend_of(pool, {"negative_ttl_s": 2})
    names, indices = hashes(8), pools.indices_of(pool, 8)
    assert all(backend.batch_set_v1(names, indices))
    key = next(key for key in cluster.keys(backend.namespace) if names[3] in key)
    value = cluster.entries[backend.namespace, key]
    cluster.entries[backend.namespace, key] = value[:-1]  # there, and of no use
    assert backend.batch_exists(names) == 8
    assert backend.batch_get_v1(names, indices)[:4] == [True, True, True, False]
    assert backend.batch_exists(names) == 3
    cluster.calls.clear()
    assert backend.batch_get_v1(names, indices)[:4] == [True, True, True, False]
    assert [keys for name, keys, _ in cluster.calls if name == "get"] == [6]
    cluster.entries[backend.namespace, key] = value
    wait_until(lambda: backend.batch_exists(names) == 8)


def test_what_the_deadline_cut_off_is_not_taken_as_missing(backend_of, cluster, pool):
    backend = backend_of(pool, {"negative_ttl_s": 60, "deadline_s": 0.2})
    names, indices = hashes(4), pools.indices_of(pool, 4)
    assert all(backend.batch_set_v1(names, indices))
    real = cluster.clients[-1].get

    def late(keys, addresses, sizes, deadline_ms):
        codes, lengths = real(keys, addresses, sizes, deadline_ms)
        time.sleep(deadline_ms / 1000)
        return [*codes[:4], *[fake_native.CODES["MISS"]] * 4], lengths

    cluster.clients[-1].get = late
    assert backend.batch_get_v1(names, indices) == [True, True, False, False]
    assert backend.batch_exists(names) == 4
    assert backend.counters()["breaker_opened"] == 0


def test_a_page_stored_again_is_there_at_once(backend_of, cluster, pool):
    backend = backend_of(pool, {"negative_ttl_s": 60})
    names, indices = hashes(4), pools.indices_of(pool, 4)
    assert backend.batch_get_v1(names, indices) == [False] * 4
    assert backend.batch_set_v1(names, indices) == [True] * 4
    assert backend.batch_exists(names) == 4


def test_recovery_forgets_what_was_missing(backend_of, cluster, pool):
    backend = backend_of(pool, {"negative_ttl_s": 60})
    names, indices = hashes(4), pools.indices_of(pool, 4)
    assert all(backend.batch_set_v1(names, indices))
    cluster.dead = True
    assert backend.batch_get_v1(names, indices) == [False] * 4
    assert backend.batch_set_v1(hashes(4, "new"), indices) == [False] * 4
    cluster.dead = False
    wait_until(lambda: backend.batch_exists(names) == 4)


def test_no_thread_stays_behind(backend_of, cluster, pool):
    before = threading.active_count()
    backend = backend_of(pool)
    assert threading.active_count() == before
    cluster.dead = True
    backend.batch_set_v1(hashes(1), pools.indices_of(pool, 1))
    assert threading.active_count() == before + 1
    backend.close()
    assert threading.active_count() == before


def test_three_threads_at_once_get_right_bytes(backend_of, cluster):
    pool = pools.mha(pools.Shape(tokens=1024))
    pools.fill(pool, 9)
    backend = backend_of(pool, {"negative_ttl_s": 0})
    names = hashes(64)
    wrong = []
    written = threading.Event()

    def reader():
        while not written.is_set():
            found = backend.batch_exists(names)
            target = pools.indices_of(pool, found, first=128)
            for index, good in enumerate(backend.batch_get_v1(names[:found], target)):
                if good and pools.page_bytes(pool, 128 + index) != pools.page_bytes(pool, index):
                    wrong.append(index)

    def writer():
        end = time.monotonic() + 60
        read = lambda: backend.counters()["pages_read"]  # noqa: E731
        while read() < 500 and time.monotonic() < end:
            before = read()
            for first in range(0, 64, 8):
                indices = pools.indices_of(pool, 8, first=first)
                backend.batch_set_v1(names[first : first + 8], indices)
            while read() == before and time.monotonic() < end:
                time.sleep(0.001)  # a busy machine: the reader gets its turn
            backend.clear()
        written.set()

    threads = [threading.Thread(target=work) for work in (reader, writer)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        backend.get_stats()
        backend.counters()
        time.sleep(0.001)
    assert wrong == [] and backend.counters()["calls_failed"] == 0
    assert backend.counters()["pages_read"] >= 500


def test_negative_cache_is_bounded_and_expires_in_order():
    now = [0.0]
    cache = NegativeCache(1.0, clock=lambda: now[0], capacity=3)
    cache.add(["a", "b"])
    now[0] = 0.5
    cache.add(["a", "c", "d"])  # a is as young as c and d; b, the oldest, goes
    assert cache.leading_unknown(["b", "x", "a"]) == 2
    now[0] = 1.2
    assert cache.leading_unknown(["b", "c"]) == 1
    now[0] = 1.6
    assert cache.leading_unknown(["a", "c", "d"]) == 3
    off = NegativeCache(0)
    off.add(["a"])
    assert off.leading_unknown(["a"]) == 1


def test_quiet_log_counts_what_it_leaves_out(caplog):
    now = [0.0]
    quiet = QuietLog(logging.getLogger("simm.sglang"), 10.0, clock=lambda: now[0])
    for _ in range(5):
        quiet.warning("kind", "said %d", 1)
    now[0] = 11.0
    quiet.warning("kind", "said %d", 2)
    assert [record.getMessage() for record in caplog.records] == [
        "said 1",
        "said 2 (4 more since the last such line)",
    ]


def test_trailing_windows():
    there = [True, False, True, True, False]
    assert usable_trailing(there, 5, 1) == {1, 3, 4}
    assert usable_trailing(there, 5, 2) == {1, 4}
    assert usable_trailing(there, 3, 2) == {1}
    assert usable_trailing([True] * 4, 4, 9) == {1, 2, 3, 4}
    assert usable_trailing([], 0, 1) == set()


def sysfs(root, nodes, cpus):
    for name, node in nodes.items():
        folder = root / "class/infiniband" / name / "device"
        folder.mkdir(parents=True)
        if node is not None:
            (folder / "numa_node").write_text(f"{node}\n")
    for node, text in cpus.items():
        folder = root / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(text + "\n")


def test_devices_near_the_pool(tmp_path):
    sysfs(tmp_path, {"mlx5_0": 0, "mlx5_1": 1, "mlx5_2": 1, "rxe0": None}, {0: "0-1,4", 1: "2"})
    found = nic.devices(tmp_path)
    assert found == {"mlx5_0": 0, "mlx5_1": 1, "mlx5_2": 1, "rxe0": -1}
    assert nic.near(1, found) == ("mlx5_1", "mlx5_2")
    assert nic.near(3, found) == nic.near(None, found) == ()
    assert nic.processors_of(0, tmp_path) == {0, 1, 4}
    assert nic.processors_of(9, tmp_path) == set()
    assert nic.devices(tmp_path / "nothing") == {}


def test_the_kernel_names_the_node_of_a_pool(pool):
    node = nic.node_of_memory(pool.kv_buffer.data_ptr())
    assert node is None or 0 <= node < 1024
    assert nic.node_of_memory(0) is None


def test_the_client_is_made_near_the_pool_and_elsewhere_nothing_changes(tmp_path):
    allowed = os.sched_getaffinity(0)
    one = min(allowed)
    sysfs(tmp_path, {}, {0: str(one)})
    seen = nic.run_near(0, lambda: os.sched_getaffinity(0), tmp_path)
    assert seen == {one}
    assert os.sched_getaffinity(0) == allowed
    assert nic.run_near(None, lambda: os.sched_getaffinity(0), tmp_path) == allowed

    def broken():
        raise OSError("cannot connect")

    with pytest.raises(OSError, match="cannot connect"):
        nic.run_near(0, broken, tmp_path)


@pytest.mark.parametrize(
    "extra,environ,devices",
    [
        ({"devices": "mlx5_3"}, "mlx5_1", ["mlx5_3"]),
        ({}, "mlx5_1,mlx5_2", ["mlx5_1", "mlx5_2"]),
        ({}, "", None),
    ],
)
def test_devices_are_those_of_the_user(
    backend_of, cluster, pool, monkeypatch, extra, environ, devices
):
    monkeypatch.setenv("SICL_NET_DEVICES", environ)
    monkeypatch.setattr(nic, "devices", lambda: {})
    backend_of(pool, extra)
    assert cluster.clients[-1].options.get("rdma_devices") == devices


def test_devices_near_the_pool_are_chosen(backend_of, cluster, pool, monkeypatch):
    monkeypatch.setattr(nic, "devices", lambda: {"far": 1, "near": 0})
    monkeypatch.setattr(nic, "node_of_memory", lambda address: 0)
    backend_of(pool)
    assert cluster.clients[-1].options["rdma_devices"] == ["near"]
    assert cluster.clients[-1].options["numa_node"] == 0

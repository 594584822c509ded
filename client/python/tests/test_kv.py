"""simm.kv: what SGLang's hicache_simm.py and SiMM's other users call."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from cluster import Cluster, wait_until

from simm import kv
from simm.errors import InvalidArgument, Unavailable

MISS, WRONG_SIZE = -4003, -1000


def flags_of(cluster: Cluster) -> None:
    ip, port = cluster.host_and_port
    kv.set_flag("cm_primary_node_ip", ip)
    kv.set_flag("cm_primary_node_port", port)


@pytest.fixture(autouse=True)
def fresh_flags():
    for name, value in kv._flags.__class__()._values.items():
        kv.set_flag(name, value)
    yield


@pytest.fixture()
def store(cluster):
    flags_of(cluster)
    kv.set_flag("clnt_namespace", "kv")
    return kv.Store()


def block_of(store, data: bytes):
    block = store.allocate(len(data))
    block.as_ref().copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return block


def test_one_key(store):
    block = block_of(store, b"x" * 5000)
    assert store.exists("one") is False
    assert store.put("one", block.view()) == 0
    assert store.exists("one") is True
    back = store.allocate(5000)
    assert store.get("one", back.view()) == 5000
    assert bytes(back.as_ref().numpy().tobytes()) == b"x" * 5000
    assert store.delete("one") == 0
    assert store.delete("one") == MISS
    assert store.get("one", back.view()) == MISS


def test_a_block_is_a_writable_uint8_tensor_that_keeps_its_memory(store):
    tensor = store.allocate(4096).as_ref()  # the block itself is gone
    assert tensor.dtype == torch.uint8 and tensor.shape == (4096,) and not tensor.any()
    tensor.fill_(7)
    others = [store.allocate(4096) for _ in range(50)]
    assert int(tensor.sum()) == 7 * 4096
    assert all(block.view().address % 4096 == 0 for block in others)
    assert len(others[0]) == len(others[0].view()) == 4096
    for size in (0, -1):
        with pytest.raises(InvalidArgument):
            store.allocate(size)


def test_batches_give_plain_lists_of_ints_and_bools(store):
    keys = [f"b{i}" for i in range(20)]
    memory = torch.arange(20 * 1000, dtype=torch.int32)
    views = [kv.BlockView.from_tensor(memory[i * 1000 : (i + 1) * 1000]) for i in range(20)]
    results = store.mput(keys, views)
    assert results == [0] * 20 and all(type(r) is int for r in results)
    there = store.mexists(keys + ["no"])
    assert there == [True] * 20 + [False]
    assert all(flag is True for flag in there[:20]) and there[20] is False
    there[0] = False  # SGLang writes into it
    back = torch.zeros_like(memory)
    into = [kv.BlockView.from_buffer(back.data_ptr() + i * 4000, 4000, None) for i in range(20)]
    got = store.mget(keys + ["no"], into + [into[0]])
    assert got == [4000] * 20 + [MISS] and all(type(r) is int for r in got)
    assert torch.equal(memory, back)
    assert store.mdelete(keys + ["no"]) == [0] * 20 + [MISS]
    assert store.mexists([]) == [] == store.mput([], []) == store.mget([], [])


def test_a_wrong_length_is_an_error_in_both_directions(store):
    block = block_of(store, b"y" * 1000)
    assert store.put("length", block.view()) == 0
    for size in (7, 999, 1001, 4096):
        other = store.allocate(size)
        assert store.get("length", other.view()) == WRONG_SIZE
    assert store.mget(["length", "length"], [block.view(), store.allocate(5).view()]) == [
        1000, WRONG_SIZE,
    ]  # fmt: skip
    store.delete("length")


def test_what_a_put_of_a_key_that_is_there_does(cluster, store):
    one, two = block_of(store, b"1" * 10), block_of(store, b"2" * 10)
    assert store.put("twice", one.view()) == 0
    back = store.allocate(10)
    for policy, want, content in (("ok", 0, b"1"), ("error", -4005, b"1"), ("replace", 0, b"2")):
        kv.set_flag("clnt_put_existing", policy)
        other = kv.Store()
        assert other.put("twice", two.view()) == want
        assert other.get("twice", back.view()) == 10
        assert back.as_ref().numpy().tobytes() == content * 10
    store.delete("twice")


def test_a_value_with_a_time_to_live_goes(store):
    block = block_of(store, b"t" * 10)
    assert store.mput(["goes", "goes too"], [block.view()] * 2, ttl=0.3) == [0, 0]
    assert store.put("stays", block.view()) == 0
    assert store.put("later", block.view(), ttl=3600) == 0
    assert asyncio.run(store.put_async("goes as well", block.view(), ttl=0.2)) == 0
    gone = ["goes", "goes too", "goes as well"]
    assert wait_until(lambda: not any(store.mexists(gone)), 20)
    assert store.mexists(["stays", "later"]) == [True, True]
    for wrong in (0, -1, float("nan"), 50 * 24 * 3600):
        assert store.put("wrong", block.view(), ttl=wrong) == -1000
    assert asyncio.run(store.put_async("wrong", block.view(), ttl="soon")) == -1000


def test_more_copies_than_there_are_replicas_are_refused(cluster, store):
    kv.set_flag("clnt_write_quorum", "2")
    block = block_of(store, b"q")
    assert kv.Store().put("quorum", block.view()) == -1000
    kv.set_flag("clnt_write_quorum", "4")
    with pytest.raises(InvalidArgument, match="clnt_write_quorum"):
        kv.Store()


def test_nothing_raises_from_a_data_call(store):
    view = store.allocate(10).view()
    assert store.mput(["a", "b"], [view]) == [-1000, -1000]
    assert store.mget(["a"], [None]) == [-1000]
    assert store.put("", view) == -1000
    assert store.put("k" * 257, view) == -4007
    assert store.put("huge", kv.BlockView(view.address, 2 << 30)) == -4006
    assert store.put(5, view) == -1000
    assert store.put("a", "no view") == -1000
    assert store.mexists([None]) == [False]
    assert store.exists(7) is False
    assert store.mdelete(None) == [-1000]
    assert store.mexists("text") == [False] * 4
    assert store.get("\ud800", view) == -1000


def test_asyncio(store):
    async def work():
        block = block_of(store, b"z" * 3000)
        assert await store.put_async("async", block.view()) == 0
        back = store.allocate(3000)
        assert await store.get_async("async", back.view()) == 3000
        assert torch.equal(back.as_ref(), block.as_ref())
        assert await store.exists_async("async") is True
        assert await store.mexists_async(["async", "no"]) == [True, False]
        assert await store.mput_async(["async", "q"], [block.view()] * 2) == [0, 0]
        assert await store.mget_async(["q", "no"], [back.view()] * 2) == [3000, MISS]
        assert await store.get_async("q", store.allocate(5).view()) == WRONG_SIZE
        assert await store.mput_async(["a"], []) == [-1000]
        many = [store.exists_async(f"n{i}") for i in range(500)]
        assert await asyncio.gather(*many) == [False] * 500
        assert await store.delete_async("async") == 0
        assert await store.mdelete_async(["q", "no"]) == [0, MISS]

    asyncio.run(work())


def test_memory_regions(store):
    tensor = torch.zeros(1 << 16, dtype=torch.float32)
    region = kv.register_mr(tensor)
    assert region is not None and region.size == 4 << 16
    view = kv.BlockView.from_buffer(tensor.data_ptr(), 4096, region)
    assert store.put("mr", view) == 0
    assert kv.register_mr(tensor[5:]) is None, "overlaps"
    assert kv.register_mr(tensor) is region, "a backend that is attached again"
    assert kv.deregister_mr(region) == 0
    assert kv.register_mr(tensor[5:]) is None, "still registered"
    assert kv.deregister_mr(region) == 0
    part = kv.register_mr(tensor[5:])
    assert part is not None and kv.deregister_mr(part) == 0
    array = np.zeros(4096, np.uint8)
    by_address = kv.register_mr(array.ctypes.data, array.nbytes)
    assert by_address is not None and kv.deregister_mr(by_address) == 0
    assert kv.deregister_mr(None) == 0
    assert kv.register_mr(tensor.view(256, 256).t()) is None, "not contiguous"
    for wrong in (lambda: kv.register_mr("text"), lambda: kv.register_mr(5)):
        with pytest.raises(TypeError):
            wrong()
    # Before any store: registered with those that come.
    early = kv.register_mr(torch.zeros(100))
    other = kv.Store()
    assert early is not None and other.exists("x") is False
    assert kv.deregister_mr(early) == 0


def test_views():
    tensor = torch.arange(100, dtype=torch.int64)
    view = kv.BlockView.from_tensor(tensor)
    assert (view.address, view.size) == (tensor.data_ptr(), 800)
    assert torch.equal(view.as_ref().view(torch.int64), tensor)
    assert kv.BlockView.from_tensor(np.zeros((3, 4))).size == 96
    assert kv.BlockView.from_tensor(bytearray(5)).size == 5
    assert kv.BlockView.from_tensor(torch.zeros(3, dtype=torch.bfloat16)).size == 6
    with pytest.raises(ValueError, match="contiguous"):
        kv.BlockView.from_tensor(torch.zeros(4, 4).t())
    with pytest.raises(ValueError, match="ascontiguousarray"):
        kv.BlockView.from_tensor(np.zeros((4, 4))[:, 1])
    with pytest.raises(TypeError):
        kv.BlockView.from_tensor(object())


def test_flags(cluster, monkeypatch, tmp_path, caplog):
    ip, port = cluster.host_and_port
    for wrong, what in (
        ({}, "no manager"),
        ({"cm_primary_node_ip": ip, "cm_primary_node_port": ""}, "cm_primary_node_port"),
        ({"cm_primary_node_ip": ip, "cm_primary_node_port": "http"}, "cm_primary_node_port"),
        ({"cm_primary_node_ip": "[", "cm_primary_node_port": port}, "cm_primary_node_ip"),
        ({"cm_primary_node_ip": "", "cm_primary_node_port": port}, "cm_primary_node_ip"),
        ({"cm_primary_node_ip": ip, "cm_primary_node_port": port,
          "clnt_thread_pool_size": "none"}, "clnt_thread_pool_size"),
        ({"cm_primary_node_ip": ip, "cm_primary_node_port": port,
          "clnt_transport": "pigeon"}, "transport"),
    ):  # fmt: skip
        for name, value in kv._flags.__class__()._values.items():
            kv.set_flag(name, value)
        monkeypatch.delenv("SIMM_CLUSTER_MANAGER", raising=False)
        for name, value in wrong.items():
            kv.set_flag(name, value)
        with pytest.raises(InvalidArgument, match=what):
            kv.Store()
    with caplog.at_level(logging.WARNING, logger="simm"):
        kv.set_flag("clnt_wings", "2")
    assert "clnt_wings" in caplog.text
    for name, value in kv._flags.__class__()._values.items():
        kv.set_flag(name, value)
    kv.set_flag("clnt_connect_timeout_ms", "200")
    kv.set_flag("cm_primary_node_ip", "::1")
    kv.set_flag("cm_primary_node_port", "1")
    with pytest.raises(Unavailable, match=r"\[::1\]:1"):
        kv.Store()
    kv.set_flag("cm_primary_node_ip", "")
    kv.set_flag("cm_primary_node_port", "")
    monkeypatch.setenv("SIMM_CLUSTER_MANAGER", cluster.address)
    assert kv.Store().exists("x") is False


def test_the_log_file_is_made_or_done_without(cluster, tmp_path, caplog):
    flags_of(cluster)
    path = tmp_path / "new" / "folder" / "simm_clnt.log"
    kv.set_flag("clnt_log_file", str(path))
    store = kv.Store()
    logging.getLogger("simm.kv").warning("a line for the file")
    assert "a line for the file" in path.read_text()
    (tmp_path / "file").write_text("in the way")
    kv.set_flag("clnt_log_file", str(tmp_path / "file" / "simm_clnt.log"))
    with caplog.at_level(logging.WARNING, logger="simm"):
        assert kv.Store().exists("x") is False
    assert "no log file" in caplog.text
    kv.set_flag("clnt_log_file", "")
    kv.Store()
    assert store.exists("x") is False


def test_other_threads_run_on():
    with Cluster(servers=1) as cluster:
        flags_of(cluster)
        kv.set_flag("clnt_transport", "tcp")
        kv.set_flag("clnt_deadline_ms", "700")
        store = kv.Store()
        block = store.allocate(1000)
        store.mexists(["warm"])
        cluster.pause("server-0")
        thread = threading.Thread(target=lambda: store.mput(["a"] * 5, [block.view()] * 5))
        begin = time.monotonic()
        thread.start()
        counted = 0
        while thread.is_alive():
            counted += 1
            time.sleep(0.001)
        cluster.resume("server-0")
        assert time.monotonic() - begin > 0.5, "the call was not slow: the test shows nothing"
        assert counted > 10  # 0 or 1 if the call kept the GIL


def test_a_server_that_dies_costs_misses_and_nothing_raises(caplog):
    with Cluster(servers=2) as cluster:
        flags_of(cluster)
        store = kv.Store()
        keys = [f"k{i}" for i in range(128)]
        memory = torch.randint(0, 255, (128, 4096), dtype=torch.uint8)
        views = [kv.BlockView.from_tensor(memory[i]) for i in range(128)]
        assert store.mput(keys, views) == [0] * 128
        back = torch.zeros_like(memory)
        into = [kv.BlockView.from_tensor(back[i]) for i in range(128)]
        cluster.kill("server-1")
        begin = time.monotonic()
        first = store.mget(keys, into)
        assert time.monotonic() - begin < 1.5 + 5
        assert set(first) == {4096, MISS}
        for i, result in enumerate(first):
            assert result == MISS or torch.equal(back[i], memory[i])
        begin = time.monotonic()
        for _ in range(20):
            store.mexists(keys)
            store.mget(keys, into)
            puts = store.mput(keys, into)
            assert set(puts) <= {0, -1901}
        assert time.monotonic() - begin < 20, "calls wait for the server that is gone"
        cluster.start_server(1)
        assert wait_until(lambda: store.mput(keys, views) == [0] * 128, 60)
        assert store.mget(keys, into) == [4096] * 128
        assert torch.equal(back, memory)


def test_no_torch_at_import():
    code = "import sys, simm, simm.kv; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

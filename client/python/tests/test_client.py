"""simm.Client and simm.AsyncClient."""

from __future__ import annotations

import array
import asyncio
import mmap
import time

import numpy as np
import pytest
import torch
from cluster import Cluster, wait_until

import simm
from simm import errors


@pytest.fixture()
def client(cluster):
    with simm.Client(cluster.address, namespace="client") as made:
        yield made


def test_values_of_every_kind_come_back(client):
    values = {
        "bytes": b"some bytes",
        "bytearray": bytearray(b"\x00\xff"),
        "memoryview": memoryview(b"abcdef")[2:5],
        "array": array.array("d", [1.0, 2.0]),
        "numpy": np.arange(12, dtype=np.int16).reshape(3, 4),
        "torch": torch.arange(6, dtype=torch.float32),
        "bfloat16": torch.ones(5, dtype=torch.bfloat16),
        "empty": b"",
    }
    assert client.put_many(values) == [True] * len(values)
    assert client.put_many(values) == [False] * len(values)
    for key, value in values.items():
        want = value.view(torch.uint8).numpy() if key == "bfloat16" else value
        want = want.numpy() if isinstance(want, torch.Tensor) else want
        assert client.get(key) == bytes(memoryview(want).cast("B") if len(want) else b""), key
    assert client.exists_many([*values, "no"]) == [True] * len(values) + [False]
    for into in (bytearray(24), np.zeros(24, np.uint8), torch.zeros(24, dtype=torch.uint8),
                 mmap.mmap(-1, 24)):  # fmt: skip
        assert client.get_into("numpy", into) == 24
        assert bytes(memoryview(into.numpy() if hasattr(into, "numpy") else into)) == (
            values["numpy"].tobytes()
        )
    assert client.delete_many([*values, "no"]) == [True] * len(values) + [False]
    assert client.get("bytes") is None and client.get_into("bytes", bytearray(3)) is None


def test_a_value_with_a_time_to_live_goes(cluster, client):
    assert client.put("goes", b"1", ttl=0.2) is True
    assert client.put("stays", b"1") is True
    assert client.put("stays", b"2", ttl=0.2) is False  # it keeps its own time

    async def of_many():
        async with await simm.AsyncClient.connect(cluster.address, namespace="client") as other:
            return await other.put_many({"a": b"1", "b": b"2"}, ttl=0.3)

    assert asyncio.run(of_many()) == [True, True]
    assert wait_until(lambda: not any(client.exists_many(["goes", "a", "b"])), 20)
    assert client.get("stays") == b"1"
    for wrong in (0, -1, 5e6, float("nan")):
        with pytest.raises(errors.InvalidArgument, match="ttl"):
            client.put("wrong", b"1", ttl=wrong)


def test_a_write_quorum_beyond_the_replicas_is_refused(cluster):
    with pytest.raises(errors.InvalidArgument, match="1 to 3"):
        simm.Client(cluster.address, write_quorum=0)
    with simm.Client(cluster.address, namespace="client", write_quorum=2) as strict:
        with pytest.raises(errors.InvalidArgument):
            strict.put("quorum", b"1")


def test_replace_and_keys_of_any_bytes(client):
    assert client.put(b"\x00\xff", b"1") is True
    assert client.put(b"\x00\xff", b"2") is False
    assert client.get(b"\x00\xff") == b"1"
    assert client.put(b"\x00\xff", b"333", replace=True) is True
    assert client.get(b"\x00\xff") == b"333"
    assert client.delete(b"\x00\xff") is True and client.delete(b"\x00\xff") is False


def test_values_longer_than_the_first_guess(client):
    big = np.random.default_rng(1).integers(0, 255, 3_000_000, np.uint8).tobytes()
    client.put_many([("big", big), ("small", b"s")])
    assert client.get_many(["big", "no", "small"]) == [big, None, b"s"]
    client.delete_many(["big", "small"])


def test_lengths(client):
    client.put("ten", b"0123456789")
    with pytest.raises(errors.LengthMismatch, match="10 bytes") as caught:
        client.get_into("ten", bytearray(11))
    assert caught.value.value_bytes == 10
    longer = bytearray(11)
    assert client.get_into("ten", longer, allow_shorter=True) == 10
    assert longer[:10] == b"0123456789"
    with pytest.raises(errors.LengthMismatch):
        client.get_into("ten", bytearray(9), allow_shorter=True)
    with pytest.raises(errors.BatchError) as batch:
        client.get_many_into(["ten", "no", "ten"], [bytearray(10), bytearray(5), bytearray(5)])
    assert batch.value.results[:2] == [10, None]
    assert isinstance(batch.value.results[2], errors.LengthMismatch)
    client.delete("ten")


def test_memory_that_will_not_do_is_refused_with_the_mend(client):
    for value, what in (
        (np.zeros((4, 4))[:, 1], "ascontiguousarray"),
        (torch.zeros(4, 4).t(), r"\.contiguous\(\)"),
        (memoryview(b"abcdef")[::2], "ascontiguousarray"),
    ):
        with pytest.raises(errors.InvalidArgument, match=what):
            client.put("k", value)
        with pytest.raises(errors.InvalidArgument, match=what):
            client.get_into("k", value)
    with pytest.raises(errors.InvalidArgument, match="read-only"):
        client.get_into("k", b"abc")
    frozen = np.zeros(4)
    frozen.flags.writeable = False
    with pytest.raises(errors.InvalidArgument, match="read-only"):
        client.get_into("k", frozen)
    assert client.put("frozen", frozen) is True
    with pytest.raises(TypeError, match="not int"):
        client.put("k", 5)
    with pytest.raises(errors.InvalidArgument, match="1 buffers for 2 keys"):
        client.get_many_into(["a", "b"], [bytearray(1)])


def test_wrong_keys_and_options(client, cluster, monkeypatch):
    with pytest.raises(errors.InvalidArgument):
        client.put("", b"1")
    with pytest.raises(errors.TooLarge):
        client.exists("k" * 257)
    with pytest.raises(errors.BatchError) as batch:
        client.put_many([("good", b"1"), ("", b"1")])
    assert batch.value.results[0] is True
    monkeypatch.delenv("SIMM_CLUSTER_MANAGER", raising=False)
    with pytest.raises(errors.InvalidArgument, match="SIMM_CLUSTER_MANAGER"):
        simm.Client()
    monkeypatch.setenv("SIMM_CLUSTER_MANAGER", f" {cluster.address} , {cluster.address}")
    with simm.Client() as from_environment:
        assert from_environment.exists("x") is False
    with pytest.raises(errors.Unavailable):
        simm.Client("127.0.0.1:1", connect_timeout=0.2)
    with pytest.raises(errors.InvalidArgument, match="namespace"):
        simm.Client(cluster.address, namespace="a b")


def test_namespaces_registration_and_what_it_tells(client, cluster):
    client.put_many({f"k{i}": b"1" for i in range(50)})
    with simm.Client(cluster.address, namespace="elsewhere") as other:
        assert other.exists("k1") is False
    assert client.clear() >= 50
    assert client.exists("k1") is False
    memory = np.zeros(1 << 16, np.uint8)
    with client.register(memory) as registered:
        with pytest.raises(errors.InvalidArgument, match="overlaps"):
            client.register(memory)
    registered.close()
    with client.register(memory):
        pass
    assert {server["name"] for server in client.servers()} == {"server-0", "server-1"}
    assert client.stats()["puts"] >= 50
    assert client.locate("k1")["server"].startswith("server-")
    assert client.touch_many(["k1"]) == [False]


def test_closed_is_closed(cluster):
    client = simm.Client(cluster.address)
    client.close()
    client.close()
    with pytest.raises(errors.ClosedError):
        client.exists("x")


def test_deadlines_and_a_server_that_is_away():
    with (
        Cluster(servers=1) as cluster,
        simm.Client(cluster.address, transport="tcp", deadline=0.3) as client,
    ):
        client.put("k", b"1")
        cluster.pause("server-0")
        begin = time.monotonic()
        with pytest.raises((errors.DeadlineExceeded, errors.Unavailable)):
            client.put("l", b"1")
        assert client.get("k") is None
        assert time.monotonic() - begin < 4, "the default deadline of 5 s was taken"
        cluster.resume("server-0")
        assert wait_until(lambda: client.get("k") == b"1", 60)
        cluster.kill("server-0")
        assert client.get("k") is None and client.exists("k") is False
        with pytest.raises(errors.Unavailable):
            client.delete("k")


def test_asyncio_with_hundreds_of_calls(cluster):
    async def work():
        async with await simm.AsyncClient.connect(cluster.address, namespace="aio") as client:
            values = {f"k{i}": bytes([i % 256]) * (100 + i) for i in range(400)}
            stored = await asyncio.gather(*(client.put(k, v) for k, v in values.items()))
            assert stored == [True] * 400
            back = await asyncio.gather(*(client.get(k) for k in values))
            assert back == list(values.values())
            assert await client.get_many(["k1", "no"]) == [values["k1"], None]
            buffers = [bytearray(len(v)) for v in values.values()]
            sizes = await client.get_many_into(list(values), buffers)
            assert sizes == [len(v) for v in values.values()]
            assert buffers == list(values.values())
            assert await client.put("k1", b"") is False
            assert await client.put_many({"k1": b"", "n": b""}) == [False, True]
            assert await client.exists("k1") is True
            assert await client.exists_many(["n", "no"]) == [True, False]
            with pytest.raises(errors.LengthMismatch):
                await client.get_into("k1", bytearray(5))
            with pytest.raises(errors.InvalidArgument):
                await client.exists("")
            assert await client.delete("k1") is True
            assert await client.delete_many(["k1", "k2"]) == [False, True]
            assert await client.clear() == 399
        with pytest.raises(errors.ClosedError):
            await client.exists("x")

    asyncio.run(work())


def test_a_cancelled_coroutine_and_a_loop_that_has_gone():
    with Cluster(servers=1) as cluster:
        client = simm.Client(cluster.address, transport="tcp", deadline=60.0)
        client.put("k", b"1")
        cluster.pause("server-0")

        async def cancel():
            waiting = simm.AsyncClient(client)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(waiting.put("l", bytes(1000)), 0.1)
            asyncio.ensure_future(waiting.put("m", bytes(1000)))
            await asyncio.sleep(0.05)

        begin = time.monotonic()
        asyncio.run(cancel())
        client.close()
        assert time.monotonic() - begin < 30, "a cancelled call was waited for"
        cluster.resume("server-0")

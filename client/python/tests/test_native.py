"""simm._native: the batch calls as other parts of the package use them."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading
import time

import numpy as np
import pytest
from cluster import Cluster, wait_until

import simm
from simm import _native, errors
from simm._native import CODES, NativeClient


@pytest.fixture()
def client(cluster):
    made = NativeClient([cluster.address], namespace="native")
    yield made
    made.close()


def at(*arrays):
    return [array.ctypes.data for array in arrays], [array.nbytes for array in arrays]


def test_codes_are_those_of_the_library_and_of_the_exceptions():
    assert CODES["OK"] == 0 and CODES["MISS"] == 1 and CODES["LENGTH_MISMATCH"] == 5
    names = {
        "INVALID_ARGUMENT": errors.InvalidArgument,
        "TOO_LARGE": errors.TooLarge,
        "LENGTH_MISMATCH": errors.LengthMismatch,
        "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
        "UNAVAILABLE": errors.Unavailable,
        "BUSY": errors.Busy,
        "WRONG_CLUSTER": errors.WrongCluster,
        "FAILED_PRECONDITION": errors.FailedPrecondition,
        "PROTOCOL_ERROR": errors.InternalError,
    }
    for name, kind in names.items():
        error = errors.error_of(CODES[name], "why")
        assert type(error) is kind and error.code == CODES[name] and str(error) == "why"


def test_the_package_and_the_library_have_one_version():
    assert importlib.metadata.version("simm") == simm.__version__ == _native.VERSION


def test_batches_of_every_kind(client):
    value = np.arange(5000, dtype=np.uint8)
    back, short = np.zeros(5000, np.uint8), np.zeros(10, np.uint8)
    assert client.put(["a", b"b", "c\x00\xe9"], *at(value, value, value), 2000) == [0, 0, 0]
    assert client.put(["a"], *at(value), 2000) == [CODES["EXISTS"]]
    assert client.put(["a"], *at(value), 2000, replace=True) == [0]
    codes, sizes = client.get(["a", "b", "none"], *at(back, short, back), 2000)
    assert codes == [0, CODES["LENGTH_MISMATCH"], CODES["MISS"]]
    assert sizes[:2] == [5000, 5000]
    assert (back == value).all()
    long = np.zeros(6000, np.uint8)
    assert client.get(["a"], *at(long), 2000, allow_shorter=True) == ([0], [5000])
    assert client.exists(["a", "none", "c\x00\xe9".encode()], 2000) == [0, CODES["MISS"], 0]
    assert client.exists_flags(["a", "none"], 2000) == [True, False]
    assert client.touch(["a", "none"], 2000) == [0, CODES["MISS"]]
    assert client.remove(["a", "none"], 2000) == [0, CODES["MISS"]]
    assert client.exists(["a", "", "k" * 257], 2000) == [
        CODES["MISS"], CODES["INVALID_ARGUMENT"], CODES["TOO_LARGE"],
    ]  # fmt: skip
    assert client.exists([], 2000) == [] and client.get([], [], [], 2000) == ([], [])
    assert client.exists(("b",), 2000) == [0]


def test_what_is_no_batch_raises(client):
    for wrong in (
        lambda: client.exists("a", 1000),
        lambda: client.exists([5], 1000),
        lambda: client.exists(None, 1000),
        lambda: client.put(["a"], ["x"], [1], 1000),
        lambda: client.get_async(["a"], [1], [1], 1000, callback=5),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="2 addresses for 1 keys"):
        client.put(["a"], [1, 2], [1], 1000)
    with pytest.raises(OverflowError):
        client.put(["a"], [-1], [1], 1000)
    with pytest.raises(UnicodeEncodeError):
        client.exists(["\ud800"], 1000)
    with pytest.raises(errors.InvalidArgument, match="transport 'pigeon'"):
        NativeClient(["127.0.0.1:1"], transport="pigeon")
    with pytest.raises(errors.InvalidArgument, match="verify"):
        NativeClient(["127.0.0.1:1"], verify="perhaps")
    with pytest.raises(errors.Unavailable, match="127.0.0.1:1"):
        NativeClient(["127.0.0.1:1"], connect_timeout_ms=200)


def test_asynchronous_calls_answer_once_on_a_thread_that_is_not_the_callers(client):
    value = np.arange(3000, dtype=np.uint8)
    back = np.zeros(3000, np.uint8)
    seen: list = []
    done = threading.Event()

    def then(*results):
        seen.append((results, threading.get_ident()))
        done.set()

    for begin, want in (
        (lambda: client.put_async(["as"], *at(value), 2000, callback=then), ([0],)),
        (lambda: client.get_async(["as"], *at(back), 2000, False, then), ([0], [3000])),
        (lambda: client.exists_async(["as", "no"], 2000, then), ([0, CODES["MISS"]],)),
        (lambda: client.remove_async(["as"], 2000, then), ([0],)),
    ):
        done.clear()
        seen.clear()
        begin()
        assert done.wait(5)
        assert [results for results, _ in seen] == [want]
        assert seen[0][1] != threading.get_ident()
    assert (back == value).all()


def test_thousands_of_callbacks_and_one_that_raises(client, monkeypatch):
    told: list = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_value))
    left = threading.Semaphore(0)

    def then(codes):
        left.release()
        if len(codes) == 2:
            raise RuntimeError("a callback that fails")

    for i in range(3000):
        client.exists_async(["x"] if i != 1500 else ["x", "y"], 10_000, then)
    for _ in range(3000):
        assert left.acquire(timeout=10)
    assert wait_until(lambda: len(told) == 1, 5)
    assert "a callback that fails" in str(told[0])


def test_a_closed_client_says_so_and_its_calls_have_ended(cluster):
    client = NativeClient([cluster.address])
    answers: list = []
    for _ in range(200):
        client.exists_async(["x"], 5000, answers.append)
    client.close()
    client.close()
    assert wait_until(lambda: len(answers) == 200, 5)
    for call in (
        lambda: client.exists(["a"], 1000),
        lambda: client.exists_async(["a"], 1000, print),
        client.stats,
        client.servers,
    ):
        with pytest.raises(errors.ClosedError):
            call()


def test_a_callback_may_drop_the_last_reference(cluster):
    held = [NativeClient([cluster.address])]
    done = threading.Event()

    def then(_):
        held.clear()
        done.set()

    held[0].exists_async(["x"], 5000, then)
    assert done.wait(10)


def test_other_threads_run_while_a_call_waits():
    with Cluster(servers=1) as cluster:
        client = NativeClient([cluster.address], transport="tcp")
        assert client.exists(["x"], 2000) == [CODES["MISS"]]
        cluster.pause("server-0")
        counted = 0
        ended = threading.Event()

        def wait():
            client.exists(["x"], 600)
            ended.set()

        thread = threading.Thread(target=wait)
        begin = time.monotonic()
        thread.start()
        while not ended.is_set():
            counted += 1
            time.sleep(0.001)
        took = time.monotonic() - begin
        thread.join()
        cluster.resume("server-0")
        assert took > 0.4, "the call was not slow: the test shows nothing"
        assert counted > 10  # 0 or 1 if the call kept the GIL
        client.close()


def threads():
    return len(os.listdir("/proc/self/task"))


def test_a_thousand_calls_wait_at_once_without_a_thread_each():
    with Cluster(servers=1) as cluster:
        client = NativeClient([cluster.address], transport="tcp")
        assert client.exists(["x"], 5000) == [CODES["MISS"]]
        before, answers = threads(), []
        cluster.pause("server-0")  # none of them can end: all are under way at once
        for _ in range(1000):
            client.exists_async(["x", "y"], 60_000, answers.append)
        under_way, answered = threads(), len(answers)
        cluster.resume("server-0")
        assert answered == 0 and under_way - before <= 32
        assert wait_until(lambda: len(answers) >= 1000, 60)
        assert answers == [[CODES["MISS"]] * 2] * 1000
        client.close()


def test_a_batch_is_a_few_round_trips_and_not_one_a_key():
    with Cluster(servers=1) as cluster:
        client = NativeClient([cluster.address], transport="tcp")
        value = np.ones(64, np.uint8)
        keys = [f"k{index}" for index in range(4096)]
        assert client.put(keys, *at(*[value] * 4096), 60_000) == [0] * 4096
        for call in (
            lambda: client.exists(keys, 60_000),
            lambda: client.get(keys, *at(*[value] * 4096), 60_000),
        ):
            before = client.stats()["round_trips"]
            call()
            trips = client.stats()["round_trips"] - before
            assert 0 < trips <= 64, trips
        client.close()


def test_a_namespace_is_cleared(cluster):
    value = np.ones(100, np.uint8)
    one = NativeClient([cluster.address], namespace="one")
    two = NativeClient([cluster.address], namespace="two")
    keys = [f"k{i}" for i in range(300)]
    for client in (one, two):
        assert not any(client.put(keys, *at(*[value] * 300), 5000))
    assert one.clear_namespace(5000) == 300
    assert one.exists_flags(keys, 5000) == [False] * 300
    assert two.exists_flags(keys, 5000) == [True] * 300
    one.close()
    two.close()


def test_memory_is_registered_once(client):
    memory = np.zeros(1 << 20, np.uint8)
    handle = client.register_memory(memory.ctypes.data, memory.nbytes)
    with pytest.raises(errors.InvalidArgument, match="overlaps"):
        client.register_memory(memory.ctypes.data + 4096, 100)
    client.deregister_memory(handle)
    with pytest.raises(errors.InvalidArgument):
        client.deregister_memory(handle)
    with pytest.raises(errors.InvalidArgument):
        client.register_memory(0, 0)


def test_what_it_says_about_itself(client):
    client.exists([f"k{i}" for i in range(100)], 2000)
    servers = {server["name"]: server for server in client.servers()}
    assert set(servers) == {"server-0", "server-1"}
    assert servers["server-0"]["breaker"] == "closed"
    assert servers["server-0"]["transport"] in ("shm", "tcp")
    assert client.stats()["exists"] >= 100
    location = client.locate("k")
    assert location["server"] in servers and len(location["hash"]) == 32


def test_the_librarys_log_arrives_in_logging(caplog):
    with Cluster(servers=1) as cluster, caplog.at_level("INFO", logger="simm"):
        client = NativeClient([cluster.address], transport="tcp")
        client.exists(["x"], 1000)
        cluster.kill("server-0")
        client.exists(["x"], 1000)
        assert wait_until(lambda: any("is away" in r.getMessage() for r in caplog.records), 5)
        record = next(r for r in caplog.records if "is away" in r.getMessage())
        assert record.name == "simm.native" and record.levelname == "WARNING"
        client.close()
    with pytest.raises(errors.InvalidArgument):
        _native.set_log_level("loud")

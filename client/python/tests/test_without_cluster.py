"""simm.kv and simm.Client on a fake native client: what goes over the wire, and for how long."""

from __future__ import annotations

import asyncio
import ctypes
import time
import types

import pytest

import simm
from simm import _native, errors, kv

LIMIT = 65_536  # keys of one native call
COUNT = 2 * LIMIT + 10


class Native:
    """Answers each key with its own number, which is the key, and notes the calls."""

    def __init__(self):
        self.calls = []

    def _answer(self, name, keys, at=None):
        if len(keys) > LIMIT:
            raise ValueError(f"{len(keys)} keys are too many")
        self.calls.append((name, len(keys)))
        assert at is None or at == [1000 + int(key) for key in keys]
        return [0] * len(keys)

    def put_async(self, keys, at, sizes, deadline_ms, replace, done, **options):
        done(self._answer("put", keys, at))

    def get_async(self, keys, at, sizes, deadline_ms, allow_shorter, done):
        done(self._answer("get", keys, at), sizes)

    def exists_async(self, keys, deadline_ms, done):
        done(self._answer("exists", keys))

    def remove_async(self, keys, deadline_ms, done):
        done(self._answer("remove", keys))


@pytest.fixture()
def store():
    made = kv.Store.__new__(kv.Store)
    made._connection = types.SimpleNamespace(put_existing="ok", write_quorum=1)
    made._native, made._deadline_ms = Native(), 1500
    return made


@pytest.mark.parametrize("name", ["put", "get", "exists", "delete"])
def test_large_asynchronous_batches_go_in_pieces(store, name):
    keys = [str(i) for i in range(COUNT)]
    views = [kv.BlockView(1000 + i, i + 1) for i in range(COUNT)]
    arguments = (keys, views) if name in ("put", "get") else (keys,)
    results = asyncio.run(getattr(store, f"m{name}_async")(*arguments))
    expected = {"get": [i + 1 for i in range(COUNT)], "exists": [True] * COUNT}
    assert results == expected.get(name, [0] * COUNT)
    assert [count for _, count in store._native.calls] == [LIMIT, LIMIT, 10]


def test_asynchronous_batches_of_other_sizes(store):
    assert asyncio.run(store.mexists_async([])) == []
    assert asyncio.run(store.mexists_async(["1"] * LIMIT)) == [True] * LIMIT
    assert store._native.calls == [("exists", 0), ("exists", LIMIT)]
    view = kv.BlockView(1001, 1)
    assert asyncio.run(store.mput_async(["1"], [view, view])) == [-1000]
    assert asyncio.run(store.mexists_async(None)) == [False]


class Values:
    """Gets from a dictionary, of bytes or of codes that are failures; each takes some time."""

    def __init__(self, entries, seconds=0.0):
        self.entries, self.seconds = entries, seconds
        self.deadlines_ms = []

    def get(self, keys, addresses, sizes, deadline_ms, allow_shorter):
        self.deadlines_ms.append(deadline_ms)
        time.sleep(self.seconds)
        codes, lengths = [], []
        for key, address, size in zip(keys, addresses, sizes):
            value = self.entries.get(key, "MISS")
            if callable(value):
                value = value(size)
            fits = isinstance(value, bytes) and len(value) <= size
            if fits:
                ctypes.memmove(address, value, len(value))
            code = "OK" if fits else "LENGTH_MISMATCH" if isinstance(value, bytes) else value
            codes.append(_native.CODES[code])
            lengths.append(len(value) if isinstance(value, bytes) else 0)
        return codes, lengths

    def get_async(self, *arguments):
        *arguments, done = arguments
        done(*self.get(*arguments))


def get_many(kind, native, keys, **options):
    client = simm.Client.__new__(simm.Client)
    client._native, client._deadline = native, 5.0
    if kind == "blocking":
        return client.get_many(keys, **options)

    async def call():
        return await simm.AsyncClient(client).get_many(keys, **options)

    return asyncio.run(call())


KINDS = pytest.mark.parametrize("kind", ["blocking", "asynchronous"])


@KINDS
def test_a_key_that_fails_does_not_hide_the_others(kind):
    large = bytes(100_000)
    entries = {"a": b"1", "bad": "UNAVAILABLE", "large": large, "worse": "BUSY"}
    with pytest.raises(errors.BatchError, match="2 of 5 keys") as caught:
        get_many(kind, Values(entries), ["a", "bad", "large", "no", "worse"])
    a, bad, got, no, worse = caught.value.results
    assert (a, got, no) == (b"1", large, None)
    assert isinstance(bad, errors.Unavailable) and "'bad'" in str(bad)
    assert isinstance(worse, errors.Busy)
    assert get_many(kind, Values(entries), ["a", "large", "no"]) == [b"1", large, None]


@KINDS
def test_one_deadline_for_all_rounds(kind):
    native = Values({"grows": lambda size: bytes(size + 1), "a": b"1"}, seconds=0.1)
    start = time.monotonic()
    with pytest.raises(errors.BatchError) as caught:
        get_many(kind, native, ["a", "grows"], deadline=0.35)
    assert time.monotonic() - start < 4, "the default deadline of 5 s was taken"
    assert caught.value.results[0] == b"1"
    assert isinstance(caught.value.results[1], errors.DeadlineExceeded)
    assert native.deadlines_ms[0] <= 350 and native.deadlines_ms[1] <= 250
    assert native.deadlines_ms == sorted(native.deadlines_ms, reverse=True)

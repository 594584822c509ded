"""simm.kv and simm.Client on a fake native client: what goes over the wire, and for how long."""

from __future__ import annotations

import asyncio
import types

import pytest

from simm import kv

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

    def put_async(self, keys, at, sizes, deadline_ms, replace, done):
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
    made._connection = types.SimpleNamespace(put_existing="ok")
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

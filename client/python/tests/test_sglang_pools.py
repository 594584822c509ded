"""Host pools that SGLang may bring later: served, refused at the start, never a false success."""

import types

import pytest
import sglang_pools as pools
from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer
from sglang_backend import backend_of, cluster, hashes  # noqa: F401
from simm.sglang import UnservedPool


def unknown_pool():
    """One that keeps its bytes under another name and is not asked for them as the others are."""
    return types.SimpleNamespace(page_size=4, layout="page_first", dtype="uint8", kv_rows=[b"x"])


def as_group(pool):
    """The pool as the anchor of SGLang's facade."""
    kind = type("HostPoolGroup", (), {"kv_buffer": property(lambda self: pool.kv_buffer)})
    group = kind()
    group.anchor_entry = types.SimpleNamespace(host_pool=pool)
    group.page_size, group.layout, group.dtype = pool.page_size, pool.layout, pool.dtype
    return group


def test_a_pool_without_a_known_buffer_is_refused_as_the_anchor(backend_of, cluster):
    with pytest.raises(UnservedPool, match="kv"):
        backend_of(unknown_pool())
    assert cluster.clients == []  # before anything was opened


def test_a_pool_without_a_known_buffer_is_refused_beside_the_anchor(backend_of):
    anchor = pools.mha()
    backend = backend_of(anchor)
    with pytest.raises(UnservedPool, match="swa"):
        backend.register_mem_host_pool_v2(unknown_pool(), PoolName.SWA)
    names = hashes(3)
    indices = pools.indices_of(anchor, 3)
    asked = [PoolTransfer(name=PoolName.SWA, host_indices=indices, keys=names)]
    assert backend.batch_set_v2(asked) == {PoolName.SWA: [False] * 3}
    assert backend.batch_get_v2(asked) == {PoolName.SWA: [False] * 3}


def test_a_group_is_logical_as_its_anchor_is(backend_of, cluster):
    backend = backend_of(as_group(pools.logical()))
    assert backend.batch_exists(hashes(3)) == 3
    assert cluster.calls == []

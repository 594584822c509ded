"""Host pools of other kinds: unknown ones are refused at the start, draft models have their own."""

import types

import pytest
import sglang_pools as pools
import sglang_stubs
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


def transfer_of(name, pool, keys):
    return PoolTransfer(name=name, host_indices=pools.indices_of(pool, len(keys)), keys=keys)


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
    asked = [transfer_of(PoolName.SWA, anchor, names)]
    assert backend.batch_set_v2(asked) == {PoolName.SWA: [False] * 3}
    assert backend.batch_get_v2(asked) == {PoolName.SWA: [False] * 3}


def test_a_group_is_logical_as_its_anchor_is(backend_of, cluster):
    backend = backend_of(as_group(pools.logical()))
    assert backend.batch_exists(hashes(3)) == 3
    assert cluster.calls == []


def server_with_draft(monkeypatch, backend_of, draft, name):
    """A backend and its pool of that name, whose pages are the draft model's at least in part."""
    arguments = sglang_stubs.SERVER_ARGUMENTS
    monkeypatch.setattr(arguments, "speculative_draft_model_path", draft, raising=False)
    kv, pool = pools.mla(), pools.mla(pools.Shape(layers=1))
    if name == PoolName.KV:
        kv.target_layer_num = kv.layer_num - 1  # the last layer is the draft model's
        pool = kv
    backend = backend_of(kv, is_mla_model=True)
    backend.register_mem_host_pool_v2(pool, name)
    return backend, pool


@pytest.mark.parametrize("name", [PoolName.DRAFT, PoolName.DRAFT_SWA, PoolName.KV])
def test_two_draft_models_on_one_target_do_not_meet(backend_of, monkeypatch, name):
    names = hashes(4)
    found = []
    for draft in ("org/draft-a", "org/draft-b", None, "org/draft-a"):
        backend, pool = server_with_draft(monkeypatch, backend_of, draft, name)
        found.append(backend.batch_get_v2([transfer_of(name, pool, names)])[name])
        backend.batch_set_v2([transfer_of(name, pool, names)])
    assert found == [[False] * 4] * 3 + [[True] * 4]


def test_the_draft_model_does_not_part_the_targets_own_pages(backend_of, monkeypatch):
    names = hashes(4)
    first, _ = server_with_draft(monkeypatch, backend_of, "org/draft-a", PoolName.DRAFT)
    first.batch_set_v1(names, pools.indices_of(first.mem_pool_host, 4))
    second, _ = server_with_draft(monkeypatch, backend_of, "org/draft-b", PoolName.DRAFT)
    assert second.batch_exists(names) == 4

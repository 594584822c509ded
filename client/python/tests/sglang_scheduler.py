"""SGLang's own HiCacheController on CPU pools, and the scheduler's part around it.

The controller's threads (exists, get, set, acknowledgements) run as they are; `Scheduler` does what
the tree cache does with them: hands over pages to back up, asks for prefetches, allocates host
memory for hits, takes acknowledgements.
"""

import inspect
import threading
import time
import types

import sglang_pools as pools
import torch
from sglang.srt.managers.cache_controller import HiCacheController
from sglang.srt.mem_cache import memory_pool
from sglang.srt.mem_cache.hicache_storage import PoolName
from sglang.srt.mem_cache.hybrid_cache import hybrid_cache_controller as hybrid
from sglang.srt.mem_cache.pool_host import HostPoolGroup, PoolEntry
from sglang.srt.mem_cache.utils import get_storage_hash_str

WAIT_SECONDS = 30
DYNAMIC = {
    "backend_name": "simm",
    "module_path": "simm.sglang",
    "class_name": "HiCacheSimm",
    "interface_v1": 1,
}


class DeviceAllocator:
    """Hands out the device pool that the controller asks for its geometry."""

    def __init__(self, device_pool):
        self.device_pool = device_pool

    def get_kvcache(self):
        return self.device_pool


class Scheduler:
    """One rank. `pool`: the KV host pool; `more`: {PoolName: host pool} for a hybrid model."""

    def __init__(self, pool, extra_config, backend="dynamic", more=None, mla=False, **options):
        kind = memory_pool.MLATokenToKVPool if mla else memory_pool.MHATokenToKVPool
        device_pool = pools.device_pool(kind, pools.Shape(page_size=pool.page_size))
        extra = dict(DYNAMIC, **extra_config) if backend == "dynamic" else dict(extra_config)
        host = pool
        make = HiCacheController
        if more is not None:
            entries = [PoolEntry(PoolName.KV, pool, device_pool, lambda layer: layer, True)]
            for name, side in more.items():
                entries.append(PoolEntry(name, side, device_pool, lambda layer: layer))
            host = HostPoolGroup(entries)
            make = hybrid.HybridCacheController
        self.pool = pool
        self.controller = make(
            DeviceAllocator(device_pool),
            host,
            pool.page_size,
            None,
            threading.Event(),
            storage_backend=backend,
            prefetch_threshold=pool.page_size,
            model_name="org/model-8b",
            storage_backend_extra_config=extra,
            **options,
        )
        self.hybrid = more is not None
        self.requests = 0

    @property
    def backend(self):
        return self.controller.storage_backend

    def threads(self):
        names = ("prefetch", "prefetch_io_aux", "prefetch_sync", "backup")
        return [getattr(self.controller, f"{name}_thread") for name in names]

    def names(self, tokens):
        return get_storage_hash_str(tokens, None, page_size=self.pool.page_size)

    def start_store(self, tokens, host_indices, transfers=None):
        """Backs up whole pages from the host pool."""
        more = {"extra_pools": transfers} if self.hybrid else {}
        self.controller.write_storage(host_indices, tokens, self.names(tokens), **more)

    def end_store(self):
        """Waits for the oldest backup and returns how many tokens were stored."""
        return self.controller.ack_backup_queue.get(timeout=WAIT_SECONDS).completed_tokens

    def store(self, tokens, host_indices, transfers=None):
        self.start_store(tokens, host_indices, transfers)
        return self.end_store()

    def start_load(self, tokens, transfers=None):
        """Asks for a prefetch; its pages will be found in the pool at end_load's indices."""
        self.requests += 1
        rid = f"request-{self.requests}"
        if not self.hybrid:
            self.controller.prefetch(rid, tokens)
            return
        names = inspect.signature(self.controller.prefetch).parameters
        handle = types.SimpleNamespace(rid=rid) if "handle" in names else rid
        self.controller.prefetch(handle, tokens, extra_pools=transfers)

    def end_load(self):
        """(tokens that were read, host indices for them), for the oldest prefetch. `allocated`
        are all indices that the pool has given out for it.

        What side pools have got is left in pool_hits.
        """
        self.pool_hits = {}
        operation = self.controller.prefetch_hit_queue.get(timeout=WAIT_SECONDS)
        hit = operation.storage_hit_count
        operation.host_indices = self.allocated = self.pool.alloc(hit)
        if getattr(operation, "pool_transfers", None):
            self.controller._resolve_sidecar_kv_derived_pool_transfers(operation)
        assert operation.host_indices is not None, "the test's host pool is too small"
        operation.hash_value = operation.hash_value[: hit // self.pool.page_size]
        if hit == 0:
            return 0, operation.host_indices
        self.controller.prefetch_buffer.put(operation)
        completed = 0
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            ack = self.controller.ack_prefetch_queue.get(timeout=WAIT_SECONDS)
            if ack.completed_tokens is not None:
                completed = ack.completed_tokens
            if ack.pool_hits:
                self.pool_hits.update(ack.pool_hits)
            if ack.completed_req:
                return completed, operation.host_indices[:completed]
        raise TimeoutError("the prefetch was not acknowledged")

    def load(self, tokens, transfers=None):
        self.start_load(tokens, transfers)
        return self.end_load()

    def close(self):
        if self.controller.enable_storage:
            self.controller.detach_storage_backend()


def page_at(pool, indices, page):
    """The content of a page by its place in `indices`."""
    start = int(indices[page * pool.page_size])
    raw = pool.get_data_page(start, flat=True).contiguous().view(-1).view(torch.uint8)
    return bytes(raw.tolist())

"""The host pools of a backend: what their pages consist of, under which names, in which memory."""

import logging
from typing import Any

from simm.sglang.config import Config
from simm.sglang.contract import draft_model, text_of, value_format
from simm.sglang.keys import Identity, Shard, namespace_of
from simm.sglang.pools import BACKED_UP_BY_ALL, PagePool, describe, is_logical, memory_of

logger = logging.getLogger("simm.sglang")

ANCHOR = "kv"


class HostPools:
    """Filled at the start, by one thread; read by any. The pools outlive it or its deregister."""

    def __init__(self, storage_config: Any, config: Config):
        self._storage_config = storage_config
        self._config = config
        self.shard = Shard(
            tp_rank=storage_config.tp_rank,
            tp_size=storage_config.tp_size,
            pp_rank=storage_config.pp_rank,
            pp_size=storage_config.pp_size,
            cp_rank=getattr(storage_config, "attn_cp_rank", 0),
            cp_size=getattr(storage_config, "attn_cp_size", 1),
        )
        # None: a logical pool, which has no bytes.
        self._pools: dict[str, PagePool | None] = {}
        self._ranges: dict[tuple[int, int], int] = {}

    def namespace(self, pool: Any) -> str:
        """Where pages of this KV pool's format are kept."""
        return namespace_of(
            Identity(
                tag=self._config.extra_backend_tag,
                model=self._config.model_id or self._storage_config.model_name or "",
                dtype=value_format(pool, self._config.kv_dtype),
                page_size=int(pool.page_size),
                layout=str(pool.layout),
                pp_size=self.shard.pp_size,
                cp_size=self.shard.cp_size,
            )
        )

    def describe(self, name: str, pool: Any) -> PagePool | None:
        """What its pages consist of; None: it is logical. ValueError: it cannot be served."""
        if is_logical(pool):
            return None
        config = self._storage_config
        return describe(
            name,
            pool,
            self.shard,
            config.is_mla_model,
            config.tp_lcm_size,
            config.should_split_heads,
            draft_model(),
        )

    def add(self, name: str, pool: Any, described: PagePool | None, client: Any) -> None:
        """Registers its memory with the client. RuntimeError: that cannot be done."""
        if described is not None:
            sharded = not described.replicated and name not in (ANCHOR, *BACKED_UP_BY_ALL)
            if self._storage_config.is_mla_model and sharded and self.shard.tp_size > 1:
                logger.warning(
                    "host pool %s holds another part of the page on each rank, but SGLang backs "
                    "it up on rank 0 only: prefixes that need it are misses on the other ranks",
                    name,
                )
            self._register(name, pool, client)
        self._pools[name] = described

    def _register(self, name: str, pool: Any, client: Any) -> None:
        if client is None:
            raise RuntimeError(f"host pool {name} came before the KV host pool")
        for address, size in memory_of(pool):
            inside = (a <= address and address + size <= a + n for a, n in self._ranges)
            if any(inside):
                continue
            try:
                self._ranges[address, size] = client.register_memory(address, size)
            except Exception as error:
                raise RuntimeError(
                    f"host pool {name}: {size} B at {address:#x} cannot be registered ({error}). "
                    "With RDMA, raise the limit of locked memory: ulimit -l unlimited"
                ) from error

    def get(self, name: Any) -> PagePool | None:
        """None: a logical pool, which has no bytes. KeyError: not registered."""
        text = text_of(name)
        if text not in self._pools:
            raise KeyError(
                f"host pool {text} is not registered; registered are {list(self._pools)}"
            )
        return self._pools[text]

    def keys_of_page(self, page: str) -> list[str]:
        """The keys of a page's KV values; none without a KV pool that has bytes."""
        anchor = self._pools.get(ANCHOR)
        return [] if anchor is None else anchor.keys([page])

    def deregister(self, client: Any) -> None:
        """Gives the pools' memory back. Idempotent."""
        for handle in self._ranges.values():
            try:
                client.deregister_memory(handle)
            except Exception as error:
                logger.warning("memory cannot be deregistered: %s", error)
        self._ranges.clear()

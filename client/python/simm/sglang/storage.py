"""HiCacheSimm: SGLang's HiCache keeps its pages in SiMM."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, TypeVar

from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    PoolName,
    PoolTransferResult,
)

from simm.sglang import hits
from simm.sglang.config import Config, ConfigError, load
from simm.sglang.contract import result, text_of
from simm.sglang.guards import Breaker, NegativeCache, QuietLog
from simm.sglang.host_pools import ANCHOR, HostPools
from simm.sglang.link import Link, connect
from simm.sglang.pools import PagePool, memory_of
from simm.sglang.stats import Counters
from simm.sglang.transfer import Budget, Moved, milliseconds
from simm.sglang.values import leading_found

logger = logging.getLogger("simm.sglang")

T = TypeVar("T")


class HiCacheSimm(HiCacheStorage):  # type: ignore[misc]
    """A storage backend for `--hicache-storage-backend dynamic`; README.md says how to name it.

    SGLang makes one for each rank and calls exists, get and set each from a thread of its own;
    all methods may be called from any thread. The constructor and the register methods raise
    (ValueError: a setting or a layout that cannot work; simm.errors.SimmError: the cluster cannot
    be reached), which ends SGLang's start. No other method raises or lasts longer than its
    deadline: a page that cannot be had is a miss. Host pools must outlive the backend or its close.
    """

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: Any = None):
        """`kwargs`: what SGLang passes on to dynamic backends; not used.

        The cluster is called when the host pool is registered, since the namespace names its
        format.
        """
        extra = storage_config.extra_config or {}
        if "class_name" in extra and not extra.get("interface_v1"):
            raise ConfigError(
                "--hicache-storage-backend-extra-config: "
                f"interface_v1={extra.get('interface_v1')!r}: "
                "must be 1, else SGLang copies each page and asks for it under another name"
            )
        if getattr(storage_config, "dcp_size", 1) > 1:
            raise ConfigError("decode context parallelism is not served: start with --dcp-size 1")
        self.config: Config = load(extra, os.environ)
        self.namespace = ""
        self.registered_pools: dict[str, Any] = {}
        self._pools = HostPools(storage_config, self.config)
        self._link: Link | None = None
        self._counters = Counters(storage_config.enable_storage_metrics)
        self._quiet = QuietLog(logger)
        self._negative = NegativeCache(self.config.negative_ttl_s)
        self._breaker = Breaker(self._probe, self._negative.clear)

    # Start: these raise.

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Connects, with a namespace for this pool's format, and registers the pool's memory.

        The backend is closed when this raises.
        """
        with self._closed_on_error():
            self._start(mem_pool_host)

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """A start that fails leaves no connection, no registered memory and no thread."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _start(self, mem_pool_host: Any) -> None:
        self.mem_pool_host = mem_pool_host
        anchor = self._pools.describe(ANCHOR, mem_pool_host)
        self.namespace = self._pools.namespace(mem_pool_host)
        link = self._link = connect(
            self.config,
            self.namespace,
            [] if anchor is None else memory_of(mem_pool_host),
            self._pools.shard.tp_size,
            self._breaker,
            self._negative,
        )
        self._pools.add(ANCHOR, mem_pool_host, anchor, link.client)
        if not self._probe():  # opens the connections too
            self._breaker.open("no data server takes a value")
        logger.info(
            "SiMM is HiCache's storage: namespace %s, %s, %s",
            self.namespace,
            f"{anchor.page_bytes} B a page in {len(anchor.sizes)} values" if anchor else "no KV",
            link.servers(),
        )

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """Registers a further pool: its memory and what its pages consist of.

        The backend is closed when this raises.
        """
        with self._closed_on_error():
            self._add(host_pool, host_pool_name)

    def _add(self, host_pool: Any, host_pool_name: Any) -> None:
        name = text_of(host_pool_name)
        if name != ANCHOR or host_pool is not self.mem_pool_host:
            described = self._pools.describe(name, host_pool)
            self._pools.add(name, host_pool, described, self._link and self._link.client)
        self.registered_pools[name] = host_pool

    # Data calls: these never raise.

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """How many pages from the start are there, 0 to len(keys)."""
        return self._guarded("exists", 0, lambda link: self._leading(link, keys))

    def _leading(self, link: Link, keys: list[str]) -> int:
        anchor = self._pools.get(ANCHOR)
        if anchor is None:
            return len(keys)  # its side pools decide
        there = link.transfer.exists(anchor, keys, self.config.deadline_s)
        found = hits.leading(there)
        self._counters.asked(len(keys), found)
        return found

    def batch_exists_v2(
        self, keys: list[str], pool_transfers: Any = None, extra_info: Any = None
    ) -> PoolTransferResult:
        """The longest prefix that KV and the given pools can serve, and each pool's own reach."""
        return self._guarded(
            "exists", result(set(), {}), lambda link: self._usable(link, keys, pool_transfers or [])
        )

    def _usable(self, link: Link, keys: list[str], transfers: Sequence[Any]) -> PoolTransferResult:
        asked = []
        anchor = self._pools.get(ANCHOR)
        if anchor is not None:
            asked.append((None, anchor, keys))
        for transfer in transfers:
            pool = self._pools.get(transfer.name)
            if pool is not None:
                by_group = text_of(transfer.hit_policy) == "block_groups"
                asked.append((transfer, pool, (transfer.keys or []) if by_group else keys))
        pools = [(pool, hashes) for _, pool, hashes in asked]
        answers = link.transfer.exists_in(pools, self.config.deadline_s)
        kv_pages = len(keys) if anchor is None else hits.leading(answers[0])
        usable = set(range(1, kv_pages + 1))
        reach: dict[Any, int] = {PoolName.KV: kv_pages} if kv_pages else {}
        for (transfer, _, _), there in zip(asked, answers, strict=True):
            if transfer is not None:
                policy = text_of(transfer.hit_policy)
                hits.narrow(policy, transfer, there, kv_pages, usable, reach)
        self._counters.asked(len(keys), max(usable, default=0))
        return result(usable, reach)

    def batch_get_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Reads pages into the host pool, one bool a page; none behind the first failure."""
        return self._guarded(
            "get", _misses(keys), lambda link: self._one(link, self._read, keys, host_indices)
        )

    def batch_set_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Writes pages that are not there yet, one bool a page: it is there now."""
        return self._guarded(
            "set", _misses(keys), lambda link: self._one(link, self._write, keys, host_indices)
        )

    def _one(
        self, link: Link, move: Callable[..., Moved], keys: list[str], host_indices: Any
    ) -> list[bool]:
        anchor = self._pools.get(ANCHOR)
        if anchor is None or not keys:
            return [True] * len(keys)
        return move(link, anchor, keys, host_indices, self._budget(link, move)).results

    def _budget(self, link: Link, move: Callable[..., Moved]) -> Budget:
        reads = move == self._read
        return link.transfer.budget(
            self.config.deadline_s if reads else self.config.set_deadline_s
        )

    def batch_get_v2(
        self, transfers: Sequence[Any], extra_info: Any = None
    ) -> dict[Any, list[bool]]:
        """As batch_get_v1 for each of the given pools: {pool's name: one bool a page}."""
        return self._guarded(
            "get", _all_false(transfers), lambda link: self._several(link, self._read, transfers)
        )

    def batch_set_v2(
        self, transfers: Sequence[Any], extra_info: Any = None
    ) -> dict[Any, list[bool]]:
        """As batch_set_v1 for each of the given pools: {pool's name: one bool a page}."""
        return self._guarded(
            "set", _all_false(transfers), lambda link: self._several(link, self._write, transfers)
        )

    def _several(
        self, link: Link, move: Callable[..., Moved], transfers: Sequence[Any]
    ) -> dict[Any, list[bool]]:
        results = _all_false(transfers)
        budget = self._budget(link, move)
        for transfer in transfers:
            keys = transfer.keys or []
            pool = self._pools.get(transfer.name)
            if pool is None or not keys:
                results[transfer.name] = [True] * len(keys)
                continue
            results[transfer.name] = move(link, pool, keys, transfer.host_indices, budget).results
        return results

    def _read(
        self, link: Link, pool: PagePool, keys: list[str], host_indices: Any, budget: Budget
    ) -> Moved:
        start = time.monotonic()
        shares = pool.replicated and link.sharing_pays(self.config.share_reads)
        shared = link.shared if shares else None
        moved = link.transfer.read(pool, keys, host_indices, budget, shared)
        self._account("get", pool, keys, moved, time.monotonic() - start)
        return moved

    def _write(
        self, link: Link, pool: PagePool, keys: list[str], host_indices: Any, budget: Budget
    ) -> Moved:
        start = time.monotonic()
        moved = link.transfer.write(pool, keys, host_indices, budget)
        self._account("set", pool, keys, moved, time.monotonic() - start)
        return moved

    def _account(
        self, what: str, pool: PagePool, keys: list[str], moved: Moved, seconds: float
    ) -> None:
        self._counters.moved(what, len(keys), moved.results, moved.bytes, seconds)
        if not all(moved.results):
            self._quiet.warning(
                f"{what} failed",
                "%s of %d pages of pool %s: %d failed, after %.3f s",
                *(what, len(keys), pool.name, moved.results.count(False), seconds),
            )
        if self.config.enable_profile:
            rate = moved.bytes / max(seconds, 1e-9) / 1e9
            logger.info(
                "%s %s: %d pages, %d B, %.1f ms, %.2f GB/s",
                *(what, pool.name, len(keys), moved.bytes, seconds * 1e3, rate),
            )

    def _guarded(self, what: str, nothing: T, body: Callable[[Link], T]) -> T:
        """What `body` returns; `nothing` when the cluster is away or anything goes wrong."""
        link = self._link
        if link is None or self._breaker.is_open:
            self._counters.rejected(what)
            return nothing
        try:
            return body(link)
        except Exception as error:
            # SGLang's threads do not outlive an exception, and its other ranks would wait for them.
            self._counters.failed(what)
            expected = isinstance(error, KeyError | ValueError)  # a call that cannot be served
            self._quiet.warning(f"{what} raised", "%s: %s", what, error, exc_info=not expected)
            return nothing

    # One value by name: SGLang's older interface.

    def set(
        self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None
    ) -> bool:
        """Stores a tensor, or target_sizes bytes at the address target_location."""
        return self.batch_set(
            [key],
            None if value is None else [value],
            None if target_location is None else [target_location],
            None if target_sizes is None else [target_sizes],
        )

    def batch_set(
        self,
        keys: list[str],
        values: Any = None,
        target_locations: Any = None,
        target_sizes: Any = None,
    ) -> bool:
        """True: all values are there now."""
        places = target_locations if values is None else values
        deadline_ms = milliseconds(self.config.set_deadline_s)
        return self._guarded(
            "set", False, lambda link: link.values.put(keys, places, target_sizes, deadline_ms)
        )

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Fills a tensor and returns it, or target_sizes bytes at an address and returns True.
        None (False for addresses): a miss, or another length."""
        sizes = None if target_sizes is None else [target_sizes]
        (found,) = self._get_values([key], [target_location], sizes)
        return False if found is None and isinstance(target_location, int) else found

    def batch_get(
        self, keys: list[str], target_locations: Any = None, target_sizes: Any = None
    ) -> Any:
        """Tensors: one tensor or None a key. Addresses: how many from the start were read."""
        found = self._get_values(keys, target_locations, target_sizes)
        if target_locations and isinstance(target_locations[0], int):
            return leading_found(found)
        return found

    def _get_values(self, keys: list[str], places: Any, sizes: Any) -> list[Any]:
        deadline_ms = milliseconds(self.config.deadline_s)
        return self._guarded(
            "get",
            [None] * len(_misses(keys)),
            lambda link: link.values.get(keys, places, sizes, deadline_ms),
        )

    def exists(self, key: str) -> bool:
        """Whether a page or a value of that name is there."""
        deadline_ms = milliseconds(self.config.deadline_s)
        return self._guarded(
            "exists",
            False,
            lambda link: link.values.exists(key, self._pools.keys_of_page(key), deadline_ms),
        )

    # Administration.

    def get_stats(self) -> Any:
        """What has been moved since the last call, as SGLang's StorageMetrics; None without
        --enable-metrics. Called in each round of the scheduler: microseconds, asks nobody."""
        return self._counters.take()

    def counters(self) -> dict[str, int]:
        """Since the start: pages asked for, found, read, written, failed; calls refused."""
        return {**self._counters.totals(), "breaker_opened": self._breaker.opened}

    def clear(self) -> bool:
        """Drops what all ranks have stored in this backend's namespace. False: it failed."""
        self._negative.clear()
        link = self._link
        if link is None:
            return False
        try:
            deadline_ms = milliseconds(max(30.0, self.config.set_deadline_s))
            dropped = link.client.clear_namespace(deadline_ms)
        except Exception:
            logger.exception("namespace %s cannot be cleared", self.namespace)
            return False
        logger.info("namespace %s: %d entries dropped", self.namespace, dropped)
        return True

    def close(self) -> None:
        """Gives the pools' memory back and disconnects. Later calls are misses. Idempotent."""
        self._breaker.shut_down()
        link, self._link = self._link, None
        if link is None:
            return
        self._pools.deregister(link.client)
        link.close()

    def _probe(self) -> bool:
        link = self._link
        return link is not None and link.probe()


# What a call answers that goes wrong, whatever it was given: these never raise either.


def _misses(keys: Any) -> list[bool]:
    return [False] * (len(keys) if isinstance(keys, Sized) else 0)


def _all_false(transfers: Any) -> dict[Any, list[bool]]:
    if not isinstance(transfers, Iterable):
        return {}
    return {
        transfer.name: _misses(getattr(transfer, "keys", None))
        for transfer in transfers
        if hasattr(transfer, "name")
    }

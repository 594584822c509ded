"""simm.kv: the interface of SiMM's first release, which SGLang's hicache_simm.py imports.

Differences that are meant: nothing raises from a data call, a batch is one native call, every call
ends by its deadline (1.5 s), a get into a buffer of another length than the value fails, a put of
a key that is there succeeds and keeps the value (flag clnt_put_existing).
"""

from __future__ import annotations

import functools
import logging
import mmap
import weakref
from typing import Any, Callable, Optional, Sequence, TypeVar, Union

from simm import _waiting
from simm._flags import Flags
from simm._kv_connection import (
    Connection,
    MemoryRegion,
    connection_of,
    deregister,
    register,
    release,
)
from simm._kv_errors import (
    INTERNAL_ERROR,
    INVALID_ARGUMENT,
    INVALID_STATE,
    OK,
    Complaints,
    number_of,
)
from simm._memory import is_tensor, span_of
from simm._put_options import ttl_ms_of
from simm.errors import ClosedError, ForkError, InvalidArgument, SimmError

__all__ = [
    "Block",
    "BlockView",
    "MemoryRegion",
    "Store",
    "deregister_mr",
    "register_mr",
    "set_flag",
]

Key = Union[str, bytes]
T = TypeVar("T")

_log = logging.getLogger("simm.kv")
_complaints = Complaints(_log)
_flags = Flags()
_MAX_BATCH = 65_536  # keys of one native call


def set_flag(name: str, value: str) -> None:
    """Sets an option for the Stores that are created from now on; see the README for their names.

    Unknown names are noted in the log and have no effect.
    """
    _flags.set(name, value)


def register_mr(memory: Any, size: Optional[int] = None) -> Optional[MemoryRegion]:
    """Makes memory known to the transports: a tensor, an array, a buffer, or address and size.

    None: it could not be registered (the log says why); calls work all the same, with a copy more
    over RDMA. Raises TypeError for what is no memory. It stays registered until deregister_mr.
    """
    if isinstance(memory, int):
        if not isinstance(size, int):
            raise TypeError("register_mr(address, size): the size is missing")
        return register(memory, size, None)
    try:
        span = span_of(memory, writable=False)
    except InvalidArgument as error:
        _log.warning("memory is not registered: %s", error)
        return None
    return register(span.address, span.size, span.owner)


def deregister_mr(region: Optional[MemoryRegion]) -> int:
    """0, or a negative number: a call is using it."""
    try:
        if region is not None:
            deregister(region)
        return OK
    except SimmError as error:
        _log.warning("memory stays registered: %s", error)
        return INVALID_STATE


class BlockView:
    """Where a value lies: memory of somebody else, kept alive by ``mr`` at most. Never copied."""

    __slots__ = ("address", "size", "mr", "_owner")

    def __init__(self, address: int, size: int, mr: Any = None, owner: object = None) -> None:
        self.address = address
        self.size = size
        self.mr = mr
        self._owner = owner

    @staticmethod
    def from_buffer(address: int, size: int, mr: Any = None) -> BlockView:
        """``size`` bytes at ``address``. Whoever calls keeps that memory alive."""
        return BlockView(address, size, mr)

    @staticmethod
    def from_tensor(tensor: Any, mr: Any = None) -> BlockView:
        """The memory of a tensor, an array or a buffer, which lives as long as this.

        Raises InvalidArgument (a ValueError) if it is not contiguous or not on the host, TypeError
        if it is no memory.
        """
        span = span_of(tensor, writable=False)
        return BlockView(
            span.address, span.size, mr, span.owner if not is_tensor(tensor) else tensor
        )

    def as_ref(self) -> Any:
        """The same memory as a 1-D torch.uint8 tensor."""
        return _tensor_at(self.address, self.size, self)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"BlockView({self.size} bytes at {self.address:#x})"


class Block:
    """Memory of its own, page-aligned and zeroed; see Store.allocate."""

    def __init__(self, size: int, connection: Connection) -> None:
        if size <= 0:
            raise InvalidArgument(f"a block has at least one byte, not {size}")
        self._memory = mmap.mmap(-1, size)
        span = span_of(self._memory, writable=True)
        self._address, self._size, self._export = span
        self._mr = register(self._address, size, None, connection)
        if self._mr is not None:
            weakref.finalize(self, release, self._mr)

    def view(self) -> BlockView:
        return BlockView(self._address, self._size, self._mr, self)

    def as_ref(self) -> Any:
        """The memory as a writable 1-D torch.uint8 tensor, which keeps the block alive."""
        return _tensor_at(self._address, self._size, self)

    def __len__(self) -> int:
        return self._size


class Store:
    """A connection to the cluster that the flags name. Stores with the same flags share it.

    Raises a SimmError when nobody answers there or a flag is wrong. Results: 0, or the number of
    bytes of a get, is success; errors are negative (README). Nothing raises from a data call.
    Thread-safe; other Python threads run while a call waits.
    """

    def __init__(self) -> None:
        self._connection = connection_of(_flags)
        self._native = self._connection.native
        self._deadline_ms = self._connection.deadline_ms

    def allocate(self, size: int) -> Block:
        """Raises InvalidArgument for a size below 1."""
        return Block(size, self._connection)

    # One key

    def put(self, key: Key, view: BlockView, *, ttl: Optional[float] = None) -> int:
        """0: stored, or there already. ``ttl``: gone after so many seconds; see simm.Client.put."""
        return self.mput([key], [view], ttl=ttl)[0]

    def get(self, key: Key, view: BlockView) -> int:
        """Bytes read: the size of the view. Negative: not there (-4003), another length (-1000)."""
        return self.mget([key], [view])[0]

    def exists(self, key: Key) -> bool:
        return self.mexists([key])[0]

    def delete(self, key: Key) -> int:
        """0: it was there and is gone. -4003: it was not there."""
        return self.mdelete([key])[0]

    # Many keys: a list with a result for each

    def mput(
        self, keys: Sequence[Key], views: Sequence[BlockView], *, ttl: Optional[float] = None
    ) -> list[int]:
        def call(some: Sequence[Key], at: list[int], sizes: list[int]) -> list[int]:
            options = self._put_options(ttl)
            codes = self._native.put(
                some, at, sizes, self._deadline_ms, self._replaces(), **options
            )
            return self._put_numbers(some, codes)

        return self._guard(keys, INTERNAL_ERROR, lambda: self._in_pieces(keys, views, call))

    def mget(self, keys: Sequence[Key], views: Sequence[BlockView]) -> list[int]:
        def call(some: Sequence[Key], at: list[int], sizes: list[int]) -> list[int]:
            codes, lengths = self._native.get(some, at, sizes, self._deadline_ms)
            return self._get_numbers(some, codes, lengths)

        return self._guard(keys, INTERNAL_ERROR, lambda: self._in_pieces(keys, views, call))

    def mexists(self, keys: Sequence[Key]) -> list[bool]:
        def call() -> list[bool]:
            if len(keys) <= _MAX_BATCH:
                return self._native.exists_flags(keys, self._deadline_ms)
            flags: list[bool] = []
            for at in range(0, len(keys), _MAX_BATCH):
                flags += self._native.exists_flags(keys[at : at + _MAX_BATCH], self._deadline_ms)
            return flags

        return self._guard(keys, False, call)

    def mdelete(self, keys: Sequence[Key]) -> list[int]:
        def call() -> list[int]:
            numbers: list[int] = []
            for at in range(0, len(keys), _MAX_BATCH):
                some = keys[at : at + _MAX_BATCH]
                codes = self._native.remove(some, self._deadline_ms)
                numbers += [number_of(code, key, "delete") for code, key in zip(codes, some)]
            return numbers

        return self._guard(keys, INTERNAL_ERROR, call)

    # The same for asyncio. The memory of the views must live until the coroutine has ended, or, if
    # it is cancelled, until the deadline has passed.

    async def put_async(self, key: Key, view: BlockView, *, ttl: Optional[float] = None) -> int:
        return (await self.mput_async([key], [view], ttl=ttl))[0]

    async def get_async(self, key: Key, view: BlockView) -> int:
        return (await self.mget_async([key], [view]))[0]

    async def exists_async(self, key: Key) -> bool:
        return (await self.mexists_async([key]))[0]

    async def delete_async(self, key: Key) -> int:
        return (await self.mdelete_async([key]))[0]

    async def mput_async(
        self, keys: Sequence[Key], views: Sequence[BlockView], *, ttl: Optional[float] = None
    ) -> list[int]:
        def begin(some: Sequence[Key], piece: slice, done: Callable[..., None]) -> None:
            at, sizes = self._places(keys, views, piece)
            ms, options = self._deadline_ms, self._put_options(ttl)
            self._native.put_async(some, at, sizes, ms, self._replaces(), done, **options)

        return await self._await(keys, INTERNAL_ERROR, begin, views, self._put_numbers)

    async def mget_async(self, keys: Sequence[Key], views: Sequence[BlockView]) -> list[int]:
        def begin(some: Sequence[Key], piece: slice, done: Callable[..., None]) -> None:
            at, sizes = self._places(keys, views, piece)
            self._native.get_async(some, at, sizes, self._deadline_ms, False, done)

        return await self._await(keys, INTERNAL_ERROR, begin, views, self._get_numbers)

    async def mexists_async(self, keys: Sequence[Key]) -> list[bool]:
        return await self._await(
            keys,
            False,
            lambda some, _, done: self._native.exists_async(some, self._deadline_ms, done),
            None,
            lambda _, codes: [code == 0 for code in codes],
        )

    async def mdelete_async(self, keys: Sequence[Key]) -> list[int]:
        return await self._await(
            keys,
            INTERNAL_ERROR,
            lambda some, _, done: self._native.remove_async(some, self._deadline_ms, done),
            None,
            lambda some, codes: [
                number_of(code, key, "delete") for code, key in zip(codes, some)
            ],
        )

    # What they share

    def _put_options(self, ttl: Optional[float]) -> dict[str, int]:
        return {"ttl_ms": ttl_ms_of(ttl), "write_quorum": self._connection.write_quorum}

    def _replaces(self) -> bool:
        return self._connection.put_existing == "replace"

    def _places(
        self, keys: Sequence[Key], views: Sequence[BlockView], piece: slice = slice(None)
    ) -> tuple[list[int], list[int]]:
        """Addresses and sizes of the views of a piece of the keys."""
        if len(keys) != len(views):
            raise ValueError(f"{len(views)} views for {len(keys)} keys")
        views = views[piece]
        return [view.address for view in views], [view.size for view in views]

    def _in_pieces(
        self,
        keys: Sequence[Key],
        views: Sequence[BlockView],
        call: Callable[[Sequence[Key], list[int], list[int]], list[int]],
    ) -> list[int]:
        at, sizes = self._places(keys, views)
        if len(keys) <= _MAX_BATCH:
            return call(keys, at, sizes)
        results: list[int] = []
        for first in range(0, len(keys), _MAX_BATCH):
            piece = slice(first, first + _MAX_BATCH)
            results += call(keys[piece], at[piece], sizes[piece])
        return results

    def _put_numbers(self, keys: Sequence[Key], codes: list[int]) -> list[int]:
        if not any(codes):
            return codes
        fails = self._connection.put_existing == "error"
        return _complaints.seen(
            "put", [number_of(code, key, "put", fails) for code, key in zip(codes, keys)]
        )

    def _get_numbers(self, keys: Sequence[Key], codes: list[int], lengths: list[int]) -> list[int]:
        if not any(codes):
            return lengths
        return _complaints.seen(
            "get",
            [
                length if code == 0 else number_of(code, key, "get")
                for code, length, key in zip(codes, lengths, keys)
            ],
        )

    def _guard(self, keys: Sequence[Key], error: T, call: Callable[[], list[T]]) -> list[T]:
        try:
            return call()
        except Exception as problem:  # SGLang's threads end with any exception
            return _failed(keys, error, problem)

    async def _await(
        self,
        keys: Sequence[Key],
        error: T,
        begin: Callable[[Sequence[Key], slice, Callable[..., None]], None],
        keep: object,
        results: Callable[..., list[T]],
    ) -> list[T]:
        """In pieces of what one native call takes, one after the other: of each, `begin` is given
        the keys, where they stand, and what to call then, `results` the keys and what has come."""
        try:
            found: list[T] = []
            for first in range(0, max(len(keys), 1), _MAX_BATCH):
                piece = slice(first, first + _MAX_BATCH)
                some = keys if len(keys) <= _MAX_BATCH else keys[piece]
                start = functools.partial(begin, some, piece)
                found += results(some, *await _waiting.start(start, keep, self))
            return found
        except Exception as problem:
            return _failed(keys, error, problem)


def _failed(keys: Sequence[Key], error: T, problem: Exception) -> list[T]:
    """The same result for every key, after a word in the log."""
    number: Any = error
    if error is not False:
        if isinstance(problem, (ClosedError, ForkError)):
            number = INVALID_STATE
        elif isinstance(problem, (TypeError, ValueError, AttributeError, OverflowError)):
            number = INVALID_ARGUMENT
    _complaints.raised(problem)
    try:
        return [number] * len(keys)
    except TypeError:
        return [number]


def _tensor_at(address: int, size: int, owner: object) -> Any:
    import ctypes

    import torch

    memory = (ctypes.c_uint8 * size).from_address(address)
    memory._owner = owner  # type: ignore[attr-defined]
    return torch.frombuffer(memory, dtype=torch.uint8)

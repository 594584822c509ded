"""simm.AsyncClient: simm.Client for asyncio. No thread per call; hundreds may run side by side."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import (
    Any,
    Awaitable,
    Iterable,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from simm import _waiting
from simm._memory import span_of
from simm._put_options import ttl_ms_of
from simm.client import (
    EXISTS,
    MISS,
    Client,
    Growing,
    Key,
    booleans,
    lengths,
    pairs,
    same_length,
    split,
)
from simm.errors import BatchError, SimmError

T = TypeVar("T")


class AsyncClient:
    """The same calls as simm.Client, to be awaited. ``async with await AsyncClient.connect(...)``.

    A coroutine that is cancelled comes back at once, but its call goes on until it has ended: the
    memory stays alive until then, and a get may still write to it.
    """

    def __init__(self, client: Client) -> None:
        """Takes over a client that is connected."""
        self._client = client
        self._native = client._native

    @classmethod
    async def connect(
        cls, addresses: Union[str, Sequence[str], None] = None, **options: Any
    ) -> AsyncClient:
        """Arguments and exceptions of simm.Client."""
        return cls(await asyncio.to_thread(Client, addresses, **options))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the calls that are under way; later ones raise ClosedError."""
        await asyncio.to_thread(self._client.close)

    async def put(
        self,
        key: Key,
        value: Any,
        *,
        replace: bool = False,
        ttl: Optional[float] = None,
        deadline: Optional[float] = None,
    ) -> bool:
        return await _only(
            self.put_many([(key, value)], replace=replace, ttl=ttl, deadline=deadline)
        )

    async def get(self, key: Key, *, deadline: Optional[float] = None) -> Optional[bytes]:
        return await _only(self.get_many([key], deadline=deadline))

    async def get_into(
        self,
        key: Key,
        buffer: Any,
        *,
        allow_shorter: bool = False,
        deadline: Optional[float] = None,
    ) -> Optional[int]:
        return await _only(
            self.get_many_into([key], [buffer], allow_shorter=allow_shorter, deadline=deadline)
        )

    async def exists(self, key: Key, *, deadline: Optional[float] = None) -> bool:
        return await _only(self.exists_many([key], deadline=deadline))

    async def delete(self, key: Key, *, deadline: Optional[float] = None) -> bool:
        return await _only(self.delete_many([key], deadline=deadline))

    async def put_many(
        self,
        items: Union[Mapping[Key, Any], Iterable[Tuple[Key, Any]]],
        *,
        replace: bool = False,
        ttl: Optional[float] = None,
        deadline: Optional[float] = None,
    ) -> list[bool]:
        keys, values = pairs(items)
        spans = [span_of(value, writable=False) for value in values]
        where, ms = split(spans), self._client._ms(deadline)
        ttl_ms, quorum = ttl_ms_of(ttl), self._client._write_quorum
        (codes,) = await _waiting.start(
            lambda done: self._native.put_async(
                keys, *where, ms, replace, done, ttl_ms=ttl_ms, write_quorum=quorum
            ),
            spans,
        )
        return booleans(keys, codes, EXISTS)

    async def get_many(
        self, keys: Sequence[Key], *, deadline: Optional[float] = None
    ) -> list[Optional[bytes]]:
        growing = Growing(keys, self._client._ms(deadline))
        while growing:
            asked, buffers, ms = growing.next()
            growing.take(*await self._get(asked, buffers, True, ms))
        return growing.values()

    async def get_many_into(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        *,
        allow_shorter: bool = False,
        deadline: Optional[float] = None,
    ) -> list[Optional[int]]:
        same_length(keys, buffers)
        ms = self._client._ms(deadline)
        return lengths(keys, *await self._get(keys, buffers, allow_shorter, ms))

    async def exists_many(
        self, keys: Sequence[Key], *, deadline: Optional[float] = None
    ) -> list[bool]:
        ms = self._client._ms(deadline)
        (codes,) = await _waiting.start(lambda done: self._native.exists_async(keys, ms, done))
        return booleans(keys, codes, MISS)

    async def delete_many(
        self, keys: Sequence[Key], *, deadline: Optional[float] = None
    ) -> list[bool]:
        ms = self._client._ms(deadline)
        (codes,) = await _waiting.start(lambda done: self._native.remove_async(keys, ms, done))
        return booleans(keys, codes, MISS)

    async def clear(self, *, deadline: Optional[float] = None) -> int:
        return await asyncio.to_thread(self._client.clear, deadline=deadline)

    async def _get(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        allow_shorter: bool,
        ms: int,
    ) -> Tuple[list[int], list[int]]:
        spans = [span_of(buffer, writable=True) for buffer in buffers]
        where = split(spans)
        codes, sizes = await _waiting.start(
            lambda done: self._native.get_async(keys, *where, ms, allow_shorter, done), spans
        )
        return codes, sizes


async def _only(batch: Awaitable[list[T]]) -> T:
    """The one result of a batch of one; its exception instead of a BatchError."""
    try:
        (result,) = await batch
    except BatchError as error:
        only: SimmError = error.results[0]
        raise only from None
    return result

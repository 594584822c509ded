"""simm.Client: put, get, exists and delete values by key, one or many at a time."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import (
    Any,
    Callable,
    Iterable,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from simm import _native
from simm._memory import Span, span_of
from simm._put_options import quorum_of, ttl_ms_of
from simm.errors import BatchError, InvalidArgument, LengthMismatch, SimmError, error_of

Key = Union[str, bytes]
T = TypeVar("T")

OK = _native.CODES["OK"]
MISS = _native.CODES["MISS"]
EXISTS = _native.CODES["EXISTS"]
DEADLINE_EXCEEDED = _native.CODES["DEADLINE_EXCEEDED"]
LENGTH_MISMATCH = _native.CODES["LENGTH_MISMATCH"]
_NAMES = {code: name for name, code in _native.CODES.items()}

# Of a value whose length is not known; a longer one costs a second round trip. Less in a large
# batch: its buffers are to be 16 MiB together.
FIRST_GUESS = 64 * 1024
FIRST_GUESS_OF_ALL = 16 * 1024 * 1024


def addresses_of(addresses: Union[str, Sequence[str], None]) -> list[str]:
    """The list of "host:port": as given, or from SIMM_CLUSTER_MANAGER; raises InvalidArgument."""
    if addresses is None:
        addresses = os.environ.get("SIMM_CLUSTER_MANAGER", "")
        if not addresses:
            raise InvalidArgument(
                "no address: pass the manager's, such as '127.0.0.1:30001', or set "
                "SIMM_CLUSTER_MANAGER"
            )
    if isinstance(addresses, str):
        return [part.strip() for part in addresses.split(",") if part.strip()]
    return list(addresses)


def failure(code: int, key: Key) -> SimmError:
    """The exception for one key's code."""
    return error_of(code, f"{key!r}: {_NAMES.get(code, code)}")


def booleans(keys: Sequence[Key], codes: Sequence[int], no: int) -> list[bool]:
    """True for OK, False for the code ``no``; raises BatchError if there is any other."""
    results: list[Union[bool, SimmError]] = []
    for key, code in zip(keys, codes):
        results.append(code == OK if code in (OK, no) else failure(code, key))
    BatchError.check(results)
    return [result is True for result in results]


def lengths(keys: Sequence[Key], codes: Sequence[int], sizes: Sequence[int]) -> list[Optional[int]]:
    """The length of each value that came, None for a miss; raises BatchError for the others."""
    results: list[Union[int, None, SimmError]] = []
    for key, code, size in zip(keys, codes, sizes):
        if code == LENGTH_MISMATCH:
            error = LengthMismatch(f"{key!r}: the value has {size} bytes, the buffer has not")
            error.value_bytes = size
            results.append(error)
        else:
            results.append(size if code == OK else None if code == MISS else failure(code, key))
    BatchError.check(results)
    return [result for result in results if not isinstance(result, SimmError)]


def split(spans: Sequence[Span]) -> Tuple[list[int], list[int]]:
    return [span.address for span in spans], [span.size for span in spans]


def pairs(
    items: Union[Mapping[Key, Any], Iterable[Tuple[Key, Any]]],
) -> Tuple[list[Key], list[Any]]:
    """Keys and values of a mapping or of an iterable of pairs."""
    entries = list(items.items() if isinstance(items, Mapping) else items)
    return [key for key, _ in entries], [value for _, value in entries]


def same_length(keys: Sequence[Key], buffers: Sequence[Any]) -> None:
    if len(keys) != len(buffers):
        raise InvalidArgument(f"{len(buffers)} buffers for {len(keys)} keys")


class Growing:
    """Gets of unknown length: which keys to ask again, with buffers of which size, until when."""

    def __init__(self, keys: Sequence[Key], deadline_ms: int) -> None:
        guess = min(FIRST_GUESS, FIRST_GUESS_OF_ALL // max(len(keys), 1))
        self._keys = keys
        self._results: list[Union[bytes, None, SimmError]] = [None] * len(keys)
        self._left = {index: max(guess, 1) for index in range(len(keys))}
        self._buffers: list[bytearray] = []
        self._deadline_ms = deadline_ms
        self._end = time.monotonic() + deadline_ms / 1000

    def __bool__(self) -> bool:
        return bool(self._left)

    def next(self) -> Tuple[list[Key], list[bytearray], int]:
        """What to ask for now: keys, buffers, and the time in milliseconds."""
        self._buffers = [bytearray(size) for size in self._left.values()]
        left_ms = max(1, int((self._end - time.monotonic()) * 1000))
        asked = [self._keys[index] for index in self._left]
        return asked, self._buffers, min(self._deadline_ms, left_ms)

    def take(self, codes: Sequence[int], sizes: Sequence[int]) -> None:
        left: dict[int, int] = {}
        for index, code, size, buffer in zip(list(self._left), codes, sizes, self._buffers):
            if code == OK:
                self._results[index] = bytes(memoryview(buffer)[:size])
            elif code == LENGTH_MISMATCH:
                left[index] = size
            elif code != MISS:
                self._results[index] = failure(code, self._keys[index])
        if left and time.monotonic() >= self._end:
            for index in left:
                self._results[index] = failure(DEADLINE_EXCEEDED, self._keys[index])
            left = {}
        self._left = left

    def values(self) -> list[Optional[bytes]]:
        """What has come, None for a miss; raises BatchError if a key failed."""
        BatchError.check(self._results)
        return [value for value in self._results if not isinstance(value, SimmError)]


class Registration:
    """Memory known to the transports until ``close`` or the end of the ``with``."""

    def __init__(self, native: _native.NativeClient, span: Span) -> None:
        self._native = native
        self._owner = span.owner
        self._handle: Optional[int] = native.register_memory(span.address, span.size)

    def close(self) -> None:
        """Raises FailedPrecondition while a call uses the memory. Twice is fine."""
        if self._handle is not None:
            self._native.deregister_memory(self._handle)
            self._handle = None

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """A connection to a SiMM cluster. Thread-safe; every method that waits lets other threads run.

    ``addresses``: "host:port" of managers, data servers or both, as a list or separated by commas;
    default SIMM_CLUSTER_MANAGER. ``transport``: "auto", "shm", "verbs" or "tcp". ``verify``:
    checksums of values are checked "always", "sampled" or "off". Times are in seconds.
    ``write_quorum``: in a cluster with replicas, how many owners must have stored a value for its
    put to succeed (1 to 3; it is sent to all of them); replacing and deleting need all.

    ``metrics_listen``: where this process shows its metrics to Prometheus, "host:port" or
    "host:first-last", default SIMM_METRICS_LISTEN, else nowhere. ``slow_op``: calls that take
    longer are logged; 0: none; default SIMM_SLOW_OP_MS, else 1 s.

    Values are torch tensors on the host, numpy arrays, or buffers (bytes, bytearray, memoryview);
    their memory must be contiguous. Keys are str (as UTF-8) or bytes, 1 to 256 B.

    A miss is None or False, never an exception: that is how a cache answers when a value has been
    evicted, or its data server is away. Exceptions are subclasses of simm.errors.SimmError.

    Every call ends within ``deadline`` (+ 50 ms); its own overrides the client's.
    """

    def __init__(
        self,
        addresses: Union[str, Sequence[str], None] = None,
        *,
        namespace: str = "default",
        transport: str = "auto",
        verify: str = "always",
        deadline: float = 5.0,
        connect_timeout: float = 10.0,
        max_lanes_per_server: int = 16,
        write_quorum: int = 1,
        rdma_devices: Sequence[str] = (),
        numa_node: int = -1,
        metrics_listen: str = "",
        slow_op: Optional[float] = None,
    ) -> None:
        """Raises Unavailable when nobody answers in time, InvalidArgument for a wrong option."""
        self._deadline = deadline
        self._write_quorum = quorum_of(write_quorum)
        self._native = _native.NativeClient(
            addresses_of(addresses),
            namespace,
            transport,
            verify,
            int(connect_timeout * 1000),
            max_lanes_per_server,
            rdma_devices=list(rdma_devices),
            numa_node=numa_node,
            metrics_listen=metrics_listen,
            slow_op_ms=-1 if slow_op is None else int(slow_op * 1000),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for blocking calls, ends asynchronous ones; later calls raise ClosedError."""
        self._native.close()

    def _ms(self, deadline: Optional[float]) -> int:
        return int((self._deadline if deadline is None else deadline) * 1000)

    # One key

    def put(
        self,
        key: Key,
        value: Any,
        *,
        replace: bool = False,
        ttl: Optional[float] = None,
        deadline: Optional[float] = None,
    ) -> bool:
        """Stores a value. False: the key is there already and keeps its value (not with replace).

        ``ttl``: the value is gone at the latest one second after so many seconds, and may be
        evicted before; None: never. A key that keeps its value keeps its time. At least 0.001 and
        at most 49 days.

        Raises Unavailable, DeadlineExceeded, Busy, TooLarge, InvalidArgument.
        """
        return _only(
            lambda: self.put_many([(key, value)], replace=replace, ttl=ttl, deadline=deadline)
        )

    def get(self, key: Key, *, deadline: Optional[float] = None) -> Optional[bytes]:
        """A copy of the value, None if it is not there. For large values get_into is faster."""
        return _only(lambda: self.get_many([key], deadline=deadline))

    def get_into(
        self,
        key: Key,
        buffer: Any,
        *,
        allow_shorter: bool = False,
        deadline: Optional[float] = None,
    ) -> Optional[int]:
        """The value into the buffer; its length, or None if it is not there.

        Raises LengthMismatch if the value has another length than the buffer; with
        ``allow_shorter`` only if it is longer. On a miss the buffer's content is undefined.
        """
        return _only(
            lambda: self.get_many_into(
                [key], [buffer], allow_shorter=allow_shorter, deadline=deadline
            )
        )

    def exists(self, key: Key, *, deadline: Optional[float] = None) -> bool:
        """Whether it is there; counts as a use of it."""
        return _only(lambda: self.exists_many([key], deadline=deadline))

    def delete(self, key: Key, *, deadline: Optional[float] = None) -> bool:
        """True: it was there. Raises Unavailable, DeadlineExceeded."""
        return _only(lambda: self.delete_many([key], deadline=deadline))

    # Many keys: one call, one answer for each key. BatchError.results tells what became of the
    # others when some failed.

    def put_many(
        self,
        items: Union[Mapping[Key, Any], Iterable[Tuple[Key, Any]]],
        *,
        replace: bool = False,
        ttl: Optional[float] = None,
        deadline: Optional[float] = None,
    ) -> list[bool]:
        """As put, for a mapping or pairs of key and value."""
        keys, values = pairs(items)
        spans = [span_of(value, writable=False) for value in values]
        codes = self._native.put(
            keys,
            *split(spans),
            self._ms(deadline),
            replace,
            ttl_ms=ttl_ms_of(ttl),
            write_quorum=self._write_quorum,
        )
        return booleans(keys, codes, EXISTS)

    def get_many(
        self, keys: Sequence[Key], *, deadline: Optional[float] = None
    ) -> list[Optional[bytes]]:
        """As get."""
        growing = Growing(keys, self._ms(deadline))
        while growing:
            asked, buffers, ms = growing.next()
            spans = [span_of(buffer, writable=True) for buffer in buffers]
            growing.take(*self._native.get(asked, *split(spans), ms, True))
        return growing.values()

    def get_many_into(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        *,
        allow_shorter: bool = False,
        deadline: Optional[float] = None,
    ) -> list[Optional[int]]:
        """As get_into."""
        same_length(keys, buffers)
        spans = [span_of(buffer, writable=True) for buffer in buffers]
        return lengths(
            keys, *self._native.get(keys, *split(spans), self._ms(deadline), allow_shorter)
        )

    def exists_many(self, keys: Sequence[Key], *, deadline: Optional[float] = None) -> list[bool]:
        """As exists."""
        return booleans(keys, self._native.exists(keys, self._ms(deadline)), MISS)

    def delete_many(self, keys: Sequence[Key], *, deadline: Optional[float] = None) -> list[bool]:
        """As delete."""
        return booleans(keys, self._native.remove(keys, self._ms(deadline)), MISS)

    def touch_many(self, keys: Sequence[Key], *, deadline: Optional[float] = None) -> list[bool]:
        """Marks keys as used, the first one most recently; whether each is there."""
        return booleans(keys, self._native.touch(keys, self._ms(deadline)), MISS)

    # The rest

    def clear(self, *, deadline: Optional[float] = None) -> int:
        """Drops everything in this client's namespace; how many entries that were.

        Raises Unavailable or DeadlineExceeded if not every data server has done it.
        """
        return self._native.clear_namespace(self._ms(deadline))

    def register(self, buffer: Any) -> Registration:
        """Makes memory known to the transports: RDMA then moves values without a copy."""
        return Registration(self._native, span_of(buffer, writable=False))

    def servers(self) -> list[dict[str, Any]]:
        """The data servers that this process has talked to: transport, breaker, connections."""
        return [dict(server) for server in self._native.servers()]

    def metrics_address(self) -> str:
        """Where this process shows its metrics, "host:port"; empty: nowhere."""
        return self._native.metrics_address()

    def stats(self) -> dict[str, int]:
        """Counters since the first client of this process and cluster."""
        return self._native.stats()

    def locate(self, key: Key) -> dict[str, Any]:
        """Shard, hash and owner ("server", "address") of a key; its further owners ("replicas"),
        and where its shard comes from while it moves, to the owner ("source") and to each of the
        further ones ("replica_sources"); empty where it does not move."""
        return dict(self._native.locate(key))


def _only(call: Callable[[], list[T]]) -> T:
    """The one result of a batch of one; its exception instead of a BatchError."""
    try:
        (result,) = call()
    except BatchError as error:
        only: SimmError = error.results[0]
        raise only from None
    return result

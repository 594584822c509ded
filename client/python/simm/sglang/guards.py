"""What keeps a sick cluster from costing time: circuit breaker, negative cache, quiet log.

The client library has a breaker for each data server. The one here is for what that leaves open: a
cluster of which nothing answers, where each call would wait for its whole deadline.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

PROBE_INTERVAL_S = 0.1
NEGATIVE_ENTRIES = 65536


class Breaker:
    """Open: the cluster does not answer, calls end at once. Thread-safe.

    While it is open a thread asks `probe` every 100 ms and closes it when the answer is yes. The
    thread lives only as long as the breaker is open.
    """

    def __init__(self, probe: Callable[[], bool], on_close: Callable[[], None]):
        self._probe = probe
        self._on_close = on_close
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_open = False  # read without the lock: a late reader makes one call more
        self.opened = 0

    def open(self, reason: str) -> None:
        """Idempotent."""
        with self._lock:
            if self.is_open or self._stop.is_set():
                return
            self.is_open = True
            self.opened += 1
            self._thread = threading.Thread(
                target=self._heal, args=(reason,), name="simm-breaker", daemon=True
            )
            self._thread.start()

    def shut_down(self) -> None:
        """Ends the thread and waits for it. Idempotent; the breaker stays as it is."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _heal(self, reason: str) -> None:
        logger = logging.getLogger("simm.sglang")
        logger.error("SiMM does not answer (%s): pages are misses until it does", reason)
        since = time.monotonic()
        while not self._stop.wait(PROBE_INTERVAL_S):
            try:
                answers = self._probe()
            except Exception as error:
                logger.debug("SiMM probe: %s", error)
                answers = False
            if answers:
                self._on_close()
                self.is_open = False
                logger.warning("SiMM answers again after %.1f s", time.monotonic() - since)
                return


class NegativeCache:
    """Pages whose get has failed although they seemed to be there: missing, for a while.

    Without it the same pages are asked for, found and not got again and again. Bounded; the oldest
    entry goes first. Thread-safe.
    """

    def __init__(
        self,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
        capacity: int = NEGATIVE_ENTRIES,
    ):
        self._ttl_s = ttl_s
        self._clock = clock
        self._capacity = capacity
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}  # in order of expiry, since all live equally long

    def add(self, pages: Iterable[str]) -> None:
        if self._ttl_s <= 0:
            return
        until = self._clock() + self._ttl_s
        with self._lock:
            for page in pages:
                self._until.pop(page, None)
                self._until[page] = until
                if len(self._until) > self._capacity:
                    self._until.pop(next(iter(self._until)))

    def discard(self, pages: Iterable[str]) -> None:
        """They have been stored again."""
        if self._until:
            with self._lock:
                for page in pages:
                    self._until.pop(page, None)

    def clear(self) -> None:
        with self._lock:
            self._until.clear()

    @property
    def is_empty(self) -> bool:
        return not self._until

    def leading_unknown(self, pages: list[str]) -> int:
        """How many pages from the start are not known to be missing."""
        if not self._until:
            return len(pages)
        now = self._clock()
        with self._lock:
            while self._until:
                oldest = next(iter(self._until))
                if self._until[oldest] > now:
                    break
                del self._until[oldest]
            for index, page in enumerate(pages):
                if page in self._until:
                    return index
        return len(pages)


class QuietLog:
    """At most one line of a kind in `interval_s`, with the number left out. Thread-safe."""

    def __init__(
        self,
        logger: logging.Logger,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, kind: str, text: str, *arguments: object, exc_info: bool = False) -> None:
        now = self._clock()
        with self._lock:
            if now - self._last.get(kind, -self._interval_s) < self._interval_s:
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                return
            self._last[kind] = now
            left_out = self._left_out.pop(kind, 0)
        if left_out:
            text += f" ({left_out} more since the last such line)"
        self._logger.warning(text, *arguments, exc_info=exc_info)

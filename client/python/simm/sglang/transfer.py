"""Moves pages between host pools and the cluster, within a deadline, page by page.

A batch goes in steps of a bounded size, the first pages first. SGLang uses a prefix: what the
deadline cuts off is then its end, and what lies behind a missing page is not fetched in vain.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from simm.sglang.guards import Breaker, NegativeCache
from simm.sglang.pools import PagePool
from simm.sglang.shared import STEP_BYTES as SHARED_STEP_BYTES
from simm.sglang.shared import SharedReads

# A call that has lasted for this part of its deadline without one success was a wait in vain, if
# what ended it had the time to succeed: this part of the deadline, and not less than a network's
# hiccup takes. A healthy cluster that is slow must not be taken for one that is away.
IN_VAIN = 0.9
FAIR_PART = 0.5
FAIR_S = 0.1
# More keys than this go in several calls; the native client takes at most 65,536.
MAX_KEYS_A_CALL = 32768


@dataclass
class Moved:
    """How one batch of pages of one pool went."""

    results: list[bool]  # one a page
    values: int = 0  # that were moved over the network
    bytes: int = 0


@dataclass
class Budget:
    """The time of one call of SGLang, over all its pools and steps, and whether any of it was of
    use. One thread."""

    whole_s: float
    end: float  # on the clock of the Transfer
    succeeded: bool = False


class Transfer:
    """Reads, writes and asks for pages through one native client. Thread-safe."""

    def __init__(
        self,
        client: Any,
        codes: dict[str, int],
        breaker: Breaker,
        negative: NegativeCache,
        step_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._client = client
        self._ok = codes["OK"]
        self._stored = (codes["OK"], codes["EXISTS"])
        self._unavailable = codes["UNAVAILABLE"]
        self._breaker = breaker
        self._negative = negative
        self._step_bytes = step_bytes
        self._clock = clock

    def budget(self, deadline_s: float) -> Budget:
        """Of a call that begins now."""
        return Budget(deadline_s, self._clock() + deadline_s)

    def exists(self, pool: PagePool, hashes: Sequence[str], deadline_s: float) -> list[bool]:
        """Whether all values of a page are there, one bool a page."""
        return self.exists_in([(pool, hashes)], deadline_s)[0]

    def exists_in(
        self, wanted: Sequence[tuple[PagePool, Sequence[str]]], deadline_s: float
    ) -> list[list[bool]]:
        """As exists, for several pools in as few calls as possible."""
        keys: list[str] = []
        for pool, hashes in wanted:
            keys += pool.keys(hashes)
        budget = self.budget(deadline_s)
        codes: list[int] = []
        for first in range(0, len(keys), MAX_KEYS_A_CALL):
            left = budget.end - self._clock()
            if left <= 0:
                codes += [self._unavailable] * (len(keys) - first)
                break
            some = self._client.exists(keys[first : first + MAX_KEYS_A_CALL], milliseconds(left))
            self._judge(some, left, budget)
            codes += some
        return self._by_page(wanted, codes)

    def _by_page(
        self, wanted: Sequence[tuple[PagePool, Sequence[str]]], codes: list[int]
    ) -> list[list[bool]]:
        answers = []
        position = 0
        for pool, hashes in wanted:
            values = len(pool.suffixes)
            there = []
            for _ in hashes:
                page = codes[position : position + values]
                there.append(page.count(self._ok) == values)
                position += values
            known = self._not_known_missing(pool, hashes)
            if known < len(there):
                there[known] = False
            answers.append(there)
        return answers

    def _not_known_missing(self, pool: PagePool, hashes: Sequence[str]) -> int:
        """How many pages from the start are not in the negative cache."""
        if self._negative.is_empty:
            return len(hashes)
        return self._negative.leading_unknown([pool.page_key(page) for page in hashes])

    def read(
        self,
        pool: PagePool,
        hashes: Sequence[str],
        host_indices: Any,
        budget: Budget,
        shared: SharedReads | None = None,
    ) -> Moved:
        """Gets pages into the host pool. Behind the first page that fails none is read.

        `shared`: other ranks of this host want the same pages.
        """
        addresses, sizes = pool.locate(host_indices, len(hashes))
        moved = Moved([False] * len(hashes))
        wanted = self._not_known_missing(pool, hashes)
        step_bytes = min(self._step_bytes, SHARED_STEP_BYTES) if shared else self._step_bytes
        for first, last in self._steps(pool, wanted, step_bytes):
            if self._clock() >= budget.end:
                break
            values = slice(first * len(pool.suffixes), last * len(pool.suffixes))
            step = (pool.keys(hashes[first:last]), addresses[values], sizes[values])
            good, missing = self._read_step(*step, budget, shared)
            results = self._pages_of(pool, good)
            moved.results[first:last] = results
            moved.values += sum(good)
            moved.bytes += sum(size for size, fine in zip(step[2], good, strict=True) if fine)
            if not all(results):
                if missing:
                    failed = zip(hashes[first:last], results, strict=True)
                    self._negative.add(pool.page_key(page) for page, fine in failed if not fine)
                break
        return moved

    def _read_step(
        self,
        keys: list[str],
        addresses: list[int],
        sizes: list[int],
        budget: Budget,
        shared: SharedReads | None,
    ) -> tuple[list[bool], bool]:
        """Which values are there now, and whether those that are not are known to be missing."""
        in_time = False

        def fetch() -> list[bool]:
            nonlocal in_time
            left = budget.end - self._clock()
            codes, lengths = self._client.get(keys, addresses, sizes, milliseconds(left))
            in_time = self._judge(codes, left, budget)
            return [
                code == self._ok and length == size
                for code, length, size in zip(codes, lengths, sizes, strict=True)
            ]

        if shared is None:
            good = fetch()
        else:
            good = shared.read(keys, addresses, sizes, budget.end - self._clock(), fetch)
            budget.succeeded |= any(good)
        return good, in_time

    def write(
        self, pool: PagePool, hashes: Sequence[str], host_indices: Any, budget: Budget
    ) -> Moved:
        """Puts pages that are not there yet; those that are there count as written."""
        addresses, sizes = pool.locate(host_indices, len(hashes))
        moved = Moved([False] * len(hashes))
        for first, last in self._steps(pool, len(hashes), self._step_bytes):
            left = budget.end - self._clock()
            if left <= 0 or self._breaker.is_open:
                break
            values = slice(first * len(pool.suffixes), last * len(pool.suffixes))
            codes = self._client.put(
                pool.keys(hashes[first:last]), addresses[values], sizes[values], milliseconds(left)
            )
            self._judge(codes, left, budget)
            if codes.count(self._unavailable) == len(codes) and not budget.succeeded:
                self._breaker.open("no data server takes a page")
            results = self._pages_of(pool, [code in self._stored for code in codes])
            moved.results[first:last] = results
            moved.values += codes.count(self._ok)
            moved.bytes += sum(
                size for size, code in zip(sizes[values], codes, strict=True) if code == self._ok
            )
            self._negative.discard(
                pool.page_key(page)
                for page, fine in zip(hashes[first:last], results, strict=True)
                if fine
            )
        return moved

    @staticmethod
    def _steps(pool: PagePool, pages: int, step_bytes: int) -> Iterator[tuple[int, int]]:
        by_bytes = step_bytes // max(1, pool.page_bytes)
        step = max(1, min(by_bytes, MAX_KEYS_A_CALL // len(pool.suffixes)))
        for first in range(0, pages, step):
            yield first, min(first + step, pages)

    @staticmethod
    def _pages_of(pool: PagePool, good: list[bool]) -> list[bool]:
        values = len(pool.suffixes)
        return [all(good[i : i + values]) for i in range(0, len(good), values)]

    def _judge(self, codes: Sequence[int], given_s: float, budget: Budget) -> bool:
        """Opens the breaker after a call in vain. `given_s`: what this step of it could last.

        False: the time had run out.
        """
        budget.succeeded |= any(code in self._stored for code in codes)
        elapsed_s = budget.whole_s - (budget.end - self._clock())
        if elapsed_s < IN_VAIN * budget.whole_s:
            return True
        fair = given_s >= max(FAIR_S, FAIR_PART * budget.whole_s)
        if codes and fair and not budget.succeeded:
            self._breaker.open(f"a call of {len(codes)} keys got nothing in {elapsed_s:.2f} s")
        return False


def milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))

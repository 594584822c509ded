"""Holds a history against DESIGN 1: right bytes or a miss, no error of reads, calls that end.

Pure: events, what was seen of the map, and faults go in, violations come out.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Sequence

from cluster import PACE
from history import READS, Event

# A map is taken for settled this long after it was seen so, since clients learn of it later.
SETTLE = 1.0
# A sample may be older than what it shows by this much.
SAMPLE = 0.5
# After a server is well again, its clients' breakers and connections heal (DESIGN 10).
HEAL = 1.0 * PACE
# Calls further apart than this leave a time in which nobody asked.
IDLE = 0.05
# Every call ends by its deadline and this (DESIGN 1.5).
GRACE = 0.05


@dataclass(frozen=True)
class Unwell:
    """When writes to a data server's keys may fail; ``end`` without the time of healing."""

    server: str
    start: float
    end: float


class MapHistory:
    """Samples of the map: who owns each key, and whether all servers agreed and nothing moved."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.owners: list[tuple[str, ...]] = []
        self._unsettled: list[float] = []  # when that was seen, or nothing was seen for long
        self._changes: dict[int, list[float]] = defaultdict(list)  # key -> when another owner was

    def add(self, at: float, owners: tuple[str, ...], settled: bool) -> None:
        last = self.owners[-1] if self.owners else owners
        if not settled or (self.times and at - self.times[-1] > 4 * SAMPLE):
            self._unsettled.append(at)
        if owners != last:
            for key, (before, after) in enumerate(zip(last, owners)):
                if before != after:
                    self._changes[key].append(at)
        self.times.append(at)
        self.owners.append(last if owners == last else owners)

    def was_settled(self, key: int, start: float, end: float) -> bool:
        """Whether the key had one owner, and the map was settled, from start to end and around."""
        first = bisect.bisect_left(self.times, start - SETTLE) - 1
        last = bisect.bisect_left(self.times, end + SAMPLE)
        if first < 0 or last >= len(self.times):
            return False
        since, until = self.times[first], self.times[last]
        # The first sample's owner may be new: its change lies before it.
        return not _any_within(self._unsettled, since, until) and not _any_within(
            self._changes.get(key, []), since, until
        )


def _any_within(times: list[float], since: float, until: float) -> bool:
    at = bisect.bisect_left(times, since)
    return at < len(times) and times[at] <= until


@dataclass
class Verdict:
    """What was found. ``violations``: kind -> lines that say what, the first of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    totals: Counter[str] = field(default_factory=Counter)

    def found(self, kind: str, event: Event, why: str) -> None:
        self.totals[kind] += 1
        if len(self.violations[kind]) < 20:
            self.violations[kind].append(
                f"{event.start:.3f}-{event.end:.3f} {event.client} {event.op} key {event.key} "
                f"version {event.version} {event.outcome} owner {event.before}/{event.after}: {why}"
            )

    @property
    def clean(self) -> bool:
        return not self.totals


def check(
    events: Sequence[Event],
    maps: MapHistory,
    unwell: Sequence[Unwell],
    deadline: float,
    noise: float,
) -> Verdict:
    """All rules. ``noise``: by how much this machine wakes a sleeper too late, in seconds."""
    verdict = Verdict()
    writes: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        verdict.counts[f"{event.op} {event.outcome.split('(')[0]}"] += 1
        _check_answer(event, unwell, verdict)
        limit = deadline + GRACE + noise
        if event.outcome != "error:killed" and event.end - event.start > limit:
            verdict.found("late", event, f"{event.end - event.start:.3f} s, limit {limit:.3f}")
        if event.op not in READS:
            writes[event.key].append(event)
    for key in writes:
        writes[key].sort(key=lambda event: event.start)
    reads: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event.op == "get" and event.outcome == "ok":
            reads[event.key].append(event)
    for key, some in reads.items():
        _check_versions(some, writes.get(key, []), maps, verdict)
    return verdict


def _check_answer(event: Event, unwell: Sequence[Unwell], verdict: Verdict) -> None:
    if event.outcome.startswith("wrong:"):
        verdict.found("wrong bytes", event, "these are not the bytes of any version of that key")
    if not event.failed or event.outcome == "error:killed":
        return
    if event.op in READS:
        verdict.found("read error", event, "gets and exists never fail")
        return
    owners = {event.before, event.after}
    for one in unwell:
        if one.server in owners and event.start <= one.end + HEAL and event.end >= one.start:
            verdict.counts["writes failed at the hit owner"] += 1
            return
    verdict.found("write error", event, "its owner was well")


def _definite(write: Event) -> bool:
    """Whether the write was done once, before its end: a remove that found nothing counts too."""
    return write.outcome == "ok" or (write.op == "remove" and write.outcome == "absent")


def _check_versions(
    reads: Sequence[Event], writes: Sequence[Event], maps: MapHistory, verdict: Verdict
) -> None:
    """The reads of one key against the writes of its one writer, in their order."""
    by_version = {write.version: at for at, write in enumerate(writes) if write.op != "remove"}
    for read in reads:
        at = by_version.get(read.version)
        if at is None or writes[at].start > read.end:
            verdict.found("wrong bytes", read, "nobody had asked for that version to be put")
            continue
        if not _definite(writes[at]):
            continue  # it may have been applied at any later time
        newest = next(
            (w for w in reversed(writes) if w.end <= read.start and _definite(w)), None
        )
        if newest is None:
            continue
        settled = maps.was_settled(read.key, newest.start, read.end)
        verdict.counts["gets held against a settled map"] += settled
        if newest.start <= writes[at].start:
            continue
        kind = "resurrected" if newest.op == "remove" else "stale"
        if settled:
            since = f"{newest.op} {newest.version} had been acknowledged at {newest.end:.3f}"
            verdict.found(kind, read, since)
        else:
            verdict.counts[f"{kind} while the map was not settled"] += 1


def largest_gap(events: Sequence[Event], start: float, end: float) -> tuple[float, float]:
    """The longest time without service of those who asked, and when it began.

    ``events``: the calls about the keys in question, by their end. A gap begins with the last call
    that was served, or with the first one that was asked after it, and ends with the next one that
    was served, or at ``end``. Nor does it reach over a time in which nobody asked (IDLE).
    """
    longest, began, last, asked, heard = 0.0, start, start, None, start
    for event in events:
        if event.end < start or event.start > end:
            continue
        if asked is None or event.start > heard + IDLE:
            asked = event.start
        asked, heard = min(asked, event.start), event.end
        since = max(last, asked)
        if event.served and event.end - since > longest:
            longest, began = event.end - since, since
        if event.served:
            last, asked = event.end, None
    if asked is not None and end - max(last, asked) > longest:
        longest, began = end - max(last, asked), max(last, asked)
    return longest, began


def unaccounted(pool_bytes: dict[str, int]) -> int:
    """Bytes of the data file that are in no state, or in two."""
    return pool_bytes["data"] - sum(pool_bytes[s] for s in pool_bytes if s != "data")

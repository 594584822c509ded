"""The checker finds what is wrong in histories where something was planted, and nothing else."""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import checker  # noqa: E402
import history  # noqa: E402
import values  # noqa: E402
from checker import MapHistory, Unwell, Verdict  # noqa: E402
from history import Event  # noqa: E402

KEY = 3


def event(start: float, op: str, version: int, outcome: str = "ok", owner: str = "a") -> Event:
    return Event("client", start, start + 0.01, op, KEY, version, outcome, owner, owner)


def quiet_map(changes: dict[float, str] | None = None) -> MapHistory:
    """One owner for 100 s, but for the times from which on there is another."""
    maps = MapHistory()
    for tenth in range(-50, 1000):
        at = tenth / 10
        owner = "a"
        for since, name in (changes or {}).items():
            owner = name if at >= since else owner
        maps.add(at, (owner,) * 10, True)
    return maps


def judge(events: list[Event], maps: MapHistory | None = None, *unwell: Unwell) -> Verdict:
    return checker.check(events, maps or quiet_map(), unwell, deadline=0.5, noise=0.05)


class Versions(unittest.TestCase):
    def test_a_right_history_is_clean(self) -> None:
        verdict = judge(
            [
                event(1, "put", 1),
                event(2, "get", 1),
                event(3, "replace", 2),
                event(4, "get", 2),
                event(5, "remove", 3),
                event(6, "get", 0, "miss"),
                event(7, "put", 4),
                event(8, "get", 4),
            ]
        )
        self.assertTrue(verdict.clean, verdict.violations)

    def test_stale_after_an_acknowledged_replacement(self) -> None:
        verdict = judge([event(1, "put", 1), event(3, "replace", 2), event(4, "get", 1)])
        self.assertEqual(dict(verdict.totals), {"stale": 1})

    def test_resurrected_after_an_acknowledged_remove(self) -> None:
        for outcome in ("ok", "absent"):
            verdict = judge(
                [event(1, "put", 1), event(3, "remove", 2, outcome), event(4, "get", 1)]
            )
            self.assertEqual(dict(verdict.totals), {"resurrected": 1})

    def test_a_map_that_changed_in_between_allows_both(self) -> None:
        events = [event(1, "put", 1), event(3, "replace", 2), event(9, "get", 1)]
        verdict = judge(events, quiet_map({5: "b", 7: "a"}))
        self.assertTrue(verdict.clean, verdict.violations)
        self.assertEqual(verdict.counts["stale while the map was not settled"], 1)

    def test_a_map_that_changed_long_before_does_not(self) -> None:
        events = [event(1, "put", 1), event(13, "replace", 2), event(19, "get", 1)]
        verdict = judge(events, quiet_map({5: "b", 7: "a"}))
        self.assertEqual(dict(verdict.totals), {"stale": 1})

    def test_a_map_that_nobody_looked_at_says_nothing(self) -> None:
        seen = MapHistory()
        for tenth in [*range(-50, 30), *range(70, 200)]:
            seen.add(tenth / 10, ("a",) * 10, True)
        verdict = judge([event(1, "put", 1), event(4, "replace", 2), event(9, "get", 1)], seen)
        self.assertTrue(verdict.clean, verdict.violations)

    def test_a_map_that_was_on_its_way_allows_both(self) -> None:
        seen = MapHistory()
        for tenth in range(-50, 200):
            seen.add(tenth / 10, ("a",) * 10, not 50 <= tenth < 60)
        events = [event(1, "put", 1), event(3, "replace", 2), event(9, "get", 1)]
        self.assertTrue(judge(events, seen).clean)
        events[1] = event(8, "replace", 2)
        self.assertFalse(judge(events, seen).clean)

    def test_a_read_beside_the_replacement_may_bring_either(self) -> None:
        read = Event("other", 2.9, 3.2, "get", KEY, 1, "ok", "a", "a")
        self.assertTrue(judge([event(1, "put", 1), read, event(3, "replace", 2)]).clean)

    def test_a_write_in_doubt_may_come_late(self) -> None:
        well = Unwell("a", 0, 3)
        events = [event(1, "put", 1, "error:DeadlineExceeded"), event(4, "replace", 2)]
        self.assertTrue(judge([*events, event(6, "get", 1)], None, well).clean)

    def test_a_version_that_nobody_put(self) -> None:
        verdict = judge([event(1, "put", 1), event(4, "get", 7)])
        self.assertEqual(dict(verdict.totals), {"wrong bytes": 1})
        verdict = judge([event(4, "get", 1), event(5, "put", 1)])
        self.assertEqual(dict(verdict.totals), {"wrong bytes": 1})


class Answers(unittest.TestCase):
    def test_wrong_bytes(self) -> None:
        verdict = judge([event(1, "put", 1), event(2, "get", 1, "wrong:torn")])
        self.assertEqual(dict(verdict.totals), {"wrong bytes": 1})

    def test_reads_never_fail(self) -> None:
        for op in ("get", "exists"):
            verdict = judge([event(1, op, 0, "error:Unavailable")], None, Unwell("a", 0, 9))
            self.assertEqual(dict(verdict.totals), {"read error": 1})

    def test_writes_fail_at_the_hit_owner_only_and_in_its_time(self) -> None:
        failed = event(5, "put", 1, "error:Unavailable")
        self.assertTrue(judge([failed], None, Unwell("a", 4, 6)).clean)
        for elsewhere in (Unwell("b", 4, 6), Unwell("a", 0, 3), Unwell("a", 6, 9)):
            verdict = judge([failed], None, elsewhere)
            self.assertEqual(dict(verdict.totals), {"write error": 1})

    def test_late(self) -> None:
        slow = Event("client", 1, 1.61, "get", KEY, 0, "miss", "a", "a")
        self.assertEqual(dict(judge([slow]).totals), {"late": 1})

    def test_unaccounted_bytes(self) -> None:
        states = {"free": 10, "granted": 2, "live": 5, "limbo": 1, "pinned": 0}
        self.assertEqual(checker.unaccounted(states | {"data": 18}), 0)
        self.assertEqual(checker.unaccounted(states | {"data": 20}), 2)


class Gaps(unittest.TestCase):
    def test_the_longest_time_without_service(self) -> None:
        misses = [event(1.5 + part / 50, "get", 0, "miss") for part in range(75)]
        events = [event(1, "get", 1), *misses, event(3, "get", 1)]
        gap, began = checker.largest_gap(events, 0, 4)
        self.assertAlmostEqual(gap, 1.51)
        self.assertAlmostEqual(began, 1.5)

    def test_a_call_that_hangs(self) -> None:
        hangs = Event("client", 1.5, 2.9, "put", KEY, 1, "error:DeadlineExceeded", "a", "a")
        gap, _ = checker.largest_gap([event(1, "get", 1), hangs, event(2.92, "get", 1)], 0, 4)
        self.assertAlmostEqual(gap, 1.43)

    def test_who_does_not_ask_misses_nothing(self) -> None:
        gap, _ = checker.largest_gap([event(1, "get", 1), event(30, "get", 1)], 0, 40)
        self.assertAlmostEqual(gap, 0.01)
        events = [event(1, "get", 0, "miss"), event(30, "get", 1)]
        self.assertAlmostEqual(checker.largest_gap(events, 0, 40)[0], 0.01)

    def test_a_gap_that_does_not_end(self) -> None:
        gap, _ = checker.largest_gap([event(1, "get", 1), event(2, "get", 0, "miss")], 0, 9)
        self.assertAlmostEqual(gap, 7)


class Values(unittest.TestCase):
    def test_right_ones(self) -> None:
        for version in range(1, 200):
            value = values.value_of(KEY, version)
            self.assertEqual(values.check(KEY, value), (version, ""))
            self.assertEqual(len(value), values.size_of(KEY, version))
            self.assertLessEqual(len(value), values.LARGEST)

    def test_wrong_ones(self) -> None:
        value = values.value_of(KEY, 5)
        other = values.value_of(KEY, 6)
        half = len(value) // 2
        self.assertEqual(values.check(KEY, values.value_of(4, 5))[1], "key-4")
        self.assertTrue(values.check(KEY, value[:-1])[1].startswith("length"))
        self.assertEqual(values.check(KEY, value[:half] + bytes(len(value) - half))[1], "torn")
        mixed = value[:half] + (other + value)[half : len(value)]
        self.assertEqual(values.check(KEY, mixed)[1], "torn")
        self.assertEqual(values.check(KEY, bytes(500))[1], "no-value")
        self.assertTrue(values.check(KEY, b"x")[1].startswith("short"))


class Histories(unittest.TestCase):
    def test_what_a_killed_client_asked_for_is_in_doubt(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "load-0-0.history")
            recorder = history.Recorder(path)
            recorder.write_begins(1, "put", KEY, 1, "a")
            recorder.ended([event(1, "put", 1)])
            recorder.write_begins(2, "replace", KEY, 2, "a")
            with open(path, "a", encoding="ascii") as file:
                file.write("e 3.0 3.1 ge")
            events = history.read(Path(folder))
        self.assertEqual([e.outcome for e in events], ["ok", "error:killed"])
        self.assertTrue(judge(events).clean)


if __name__ == "__main__":
    unittest.main()

"""What a run came to: per fault and in all, as JSON and Markdown."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checker
from checker import MapHistory, Unwell, Verdict
from cluster import DEAD_MS, PACE
from history import Event
from nemesis import Fault

DEAD = DEAD_MS / 1000
LEAST_GAP_BOUND = 0.1


@dataclass
class Noise:
    """How late this machine wakes a sleeper: (when, by how many seconds)."""

    late: list[tuple[float, float]] = field(default_factory=list)

    def most(self, start: float = 0, end: float = float("inf")) -> float:
        return max((late for at, late in self.late if start <= at <= end), default=0.0)


@dataclass
class Round:
    """All that one round has left behind."""

    seed: int
    transport: str
    events: list[Event]
    maps: MapHistory
    faults: list[Fault]
    quiet: tuple[float, float]  # without a fault, at the beginning
    noise: Noise
    final: dict[str, Any]
    deadline: float


def parts_of(round_: Round, at: float) -> dict[str, set[int]]:
    """Server -> its keys, by the map of that time."""
    before = max(i for i, time in enumerate(round_.maps.times) if time <= at or i == 0)
    parts: dict[str, set[int]] = {}
    for key, owner in enumerate(round_.maps.owners[before]):
        parts.setdefault(owner, set()).add(key)
    return parts


def gap_of(
    by_end: list[Event], keys: set[int], start: float, end: float, hit: frozenset[int] = frozenset()
) -> float:
    """Of these keys; calls about several keys, one of them in ``hit``, wait for the hit server."""
    waited = {(event.client, event.start) for event in by_end if event.key in hit}
    ours = [e for e in by_end if e.key in keys and (e.client, e.start) not in waited]
    return checker.largest_gap(ours, start, end)[0]


def unwell_of(faults: list[Fault]) -> list[Unwell]:
    return [Unwell(fault.server, fault.start, fault.end) for fault in faults if fault.server]


class Judge:
    """Works out the figures of a round and holds them against their bounds."""

    def __init__(self, round_: Round) -> None:
        self._round = round_
        self._by_end = sorted(round_.events, key=lambda event: event.end)
        start, end = round_.quiet
        self.baseline = max(
            (gap_of(self._by_end, keys, start, end) for keys in parts_of(round_, start).values()),
            default=0.0,
        )
        self.failures: list[str] = []

    def result(self) -> dict[str, Any]:
        round_ = self._round
        verdict = checker.check(
            round_.events, round_.maps, unwell_of(round_.faults), round_.deadline,
            round_.noise.most(),
        )  # fmt: skip
        for kind, lines in verdict.violations.items():
            self.failures.append(f"{verdict.totals[kind]} x {kind}, the first: {lines[0]}")
        faults = [self._fault(fault, verdict) for fault in round_.faults]
        self.failures += round_.final.pop("failures")
        return {
            "seed": round_.seed,
            "transport": round_.transport,
            "machine": f"{platform.machine()}, {platform.release()}",
            "calls": len(round_.events),
            "counts": dict(sorted(verdict.counts.items())),
            "violations": {kind: lines for kind, lines in verdict.violations.items()},
            "baseline_gap_s": self.baseline,
            "largest_noise_s": round_.noise.most(),
            "longest_call_s": max(
                (e.end - e.start for e in round_.events if e.outcome != "error:killed"), default=0
            ),
            "faults": faults,
            "final": round_.final,
            "failures": self.failures,
        }

    def _fault(self, fault: Fault, verdict: Verdict) -> dict[str, Any]:
        round_ = self._round
        end = fault.end + 1
        noise = round_.noise.most(fault.start, end)
        parts = parts_of(round_, fault.start)
        hit = frozenset(parts.pop(fault.server, set()))
        inside = [e for e in self._by_end if e.end >= fault.start and e.start <= end]
        others = max(
            (gap_of(inside, keys, fault.start, end, hit) for keys in parts.values()), default=0
        )
        figures: dict[str, Any] = {
            "fault": fault.planned(),
            "lasted_s": fault.healed - fault.start,
            "well_after_s": fault.end - fault.healed,
            "gap_others_s": others,
            "errors": dict(
                Counter(f"{e.op} {e.outcome}" for e in inside if e.failed and e.end < float("inf"))
            ),
            "errors_after_return": sum(e.failed and e.start > fault.healed for e in inside),
            "wrong_bytes": sum(event.outcome.startswith("wrong:") for event in inside),
            "noise_s": noise,
            "notes": fault.notes,
        }
        bound = max(LEAST_GAP_BOUND, 3 * self.baseline) + noise
        # Who joins or drains takes keys along, and a full cache has lost what is asked for.
        if fault.kind not in ("join", "drain", "full") and others > bound:
            self._fail(fault, f"gap of {others:.3f} s for other servers' keys, limit {bound:.3f}")
        if hit:
            figures["gap_hit_s"] = gap_of(inside, set(hit), fault.start, end)
            self._check_hit(fault, figures, noise)
        return figures

    def _check_hit(self, fault: Fault, figures: dict[str, Any], noise: float) -> None:
        if fault.kind == "slow":
            return
        lasted = figures["lasted_s"]
        bound = min(lasted, DEAD) + PACE + noise + self.baseline
        if figures["gap_hit_s"] > bound:
            self._fail(
                fault, f"gap of {figures['gap_hit_s']:.3f} s for its keys, limit {bound:.3f}"
            )

    def _fail(self, fault: Fault, what: str) -> None:
        self.failures.append(f"{fault.planned()}: {what}")


def markdown(results: list[dict[str, Any]], command: str, commit: str) -> str:
    lines = ["# A run of faults", "", f"`{command}`, commit {commit}", ""]
    for result in results:
        lines += [
            f"## Seed {result['seed']}, {result['transport']}: "
            + ("FAILED" if result["failures"] else "passed"),
            "",
            f"{result['calls']:,} calls; longest {result['longest_call_s'] * 1e3:.0f} ms; largest "
            f"gap without faults {result['baseline_gap_s'] * 1e3:.0f} ms; this machine woke a "
            f"sleeper at most {result['largest_noise_s'] * 1e3:.0f} ms too late.",
            "",
            *(f"- {failure}" for failure in result["failures"]),
            "",
            "| fault | lasted s | well after s | gap of its keys s | gap of others s | errors "
            "| after its return | wrong bytes |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for fault in result["faults"]:
            hit = f"{fault['gap_hit_s']:.3f}" if "gap_hit_s" in fault else "-"
            errors = ", ".join(f"{what} x {n}" for what, n in fault["errors"].items()) or "0"
            lines.append(
                f"| {fault['fault']} | {fault['lasted_s']:.2f} | {fault['well_after_s']:.2f} "
                f"| {hit} | {fault['gap_others_s']:.3f} | {errors} "
                f"| {fault['errors_after_return']} | {fault['wrong_bytes']} |"
            )
        lines += ["", "| at the end | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in result["final"].items()]
        lines += ["", "| calls | |", "|---|---|"]
        lines += [f"| {name} | {count:,} |" for name, count in result["counts"].items()]
        lines.append("")
    return "\n".join(lines)


def write(folder: Path, results: list[dict[str, Any]], command: str, commit: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": command, "commit": commit, "rounds": results}, indent=1)
    (folder / "report.json").write_text(text + "\n")
    (folder / "report.md").write_text(markdown(results, command, commit))

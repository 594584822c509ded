"""The timeline of a round: throughput, hits and faults, as SVG, and as PNG by rsvg-convert."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

from history import Event
from nemesis import Fault

WIDTH, LEFT, RIGHT, TOP = 1400, 70, 30, 60
PANEL, SPACE, LABELS = 190, 45, 150
BIN = 0.5
COLORS = {
    "kill": "#d62728", "term": "#ff7f0e", "stop": "#9467bd", "cut-both": "#8c564b",
    "cut-in": "#a0785a", "cut-out": "#c4a484", "slow": "#bcbd22", "full": "#17becf",
    "join": "#2ca02c", "drain": "#1f77b4", "manager": "#7f7f7f", "client": "#e377c2",
}  # fmt: skip


class Timeline:
    """Draws into a list of SVG elements; the horizontal axis is time since the start."""

    def __init__(self, start: float, end: float) -> None:
        self._start, self._end = start, end
        self._out: list[str] = []
        self._bins = int((end - start) / BIN) + 1

    def x(self, at: float) -> float:
        share = (at - self._start) / (self._end - self._start)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def count(self, events: list[Event]) -> list[float]:
        """How many ended in each bin, a second."""
        bins = [0.0] * self._bins
        for event in events:
            if self._start <= event.end < self._end:
                bins[int((event.end - self._start) / BIN)] += 1 / BIN
        return bins

    def panel(self, top: float, title: str, lines: list[tuple[str, str, list[float]]]) -> None:
        """Curves (name, colour, values) over a common scale from 0."""
        most = max((max(values) for _, _, values in lines), default=1) or 1
        self.text(LEFT, top - 8, title, 14, bold=True)
        for part in range(5):
            y = top + PANEL * (1 - part / 4)
            self._out.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>'
            )
            self.text(LEFT - 8, y + 4, f"{most * part / 4:,.0f}", 11, "end")
        for at, (name, color, values) in enumerate(lines):
            points = " ".join(
                f"{self.x(self._start + (i + 0.5) * BIN):.1f},{top + PANEL * (1 - v / most):.1f}"
                for i, v in enumerate(values[:-1])
            )
            self._out.append(
                f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6"/>'
            )
            self.text(WIDTH - RIGHT - 130 * (len(lines) - at) + 20, top - 8, name, 12, color=color)

    def fault(self, fault: Fault, top: float, bottom: float) -> None:
        """A band from the blow to its end, a paler one until the cluster is well, and its name."""
        color = COLORS[fault.kind]
        spans = ((fault.start, fault.healed, 0.30), (fault.healed, fault.end, 0.12))
        for start, end, opacity in spans:
            width = max(self.x(end) - self.x(start), 1.5)
            self._out.append(
                f'<rect x="{self.x(start):.1f}" y="{top}" width="{width:.1f}" '
                f'height="{bottom - top}" fill="{color}" fill-opacity="{opacity}"/>'
            )
        who = f" {fault.target}" if fault.kind not in ("manager", "full") else ""
        x, y = self.x(fault.start) + 4, bottom + 14
        self._out.append(
            f'<text x="{x:.1f}" y="{y}" font-size="12" fill="{color}" '
            f'transform="rotate(60 {x:.1f} {y})">{escape(fault.kind + who)} '
            f"{fault.seconds:g} s</text>"
        )

    def axis(self, y: float) -> None:
        step = 10 if self._end - self._start < 400 else 60
        for second in range(0, int(self._end - self._start) + 1, step):
            self.text(self.x(self._start + second), y, f"{second}", 11, "middle", color="#666")

    def text(
        self, x: float, y: float, text: str, size: int, anchor: str = "start",
        color: str = "#222", bold: bool = False,
    ) -> None:  # fmt: skip
        weight = ' font-weight="bold"' if bold else ""
        self._out.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{color}"{weight}>{escape(text)}</text>'
        )

    def svg(self, height: float) -> str:
        body = "\n".join(self._out)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
            f'font-family="DejaVu Sans, sans-serif">\n<rect width="100%" height="100%" '
            f'fill="white"/>\n{body}\n</svg>\n'
        )


def draw(path: Path, title: str, events: list[Event], faults: list[Fault], end: float) -> None:
    """PATH.svg and, where rsvg-convert is installed, PATH.png."""
    start = min(event.start for event in events)
    line = Timeline(start, end)
    tops = [TOP + 20 + at * (PANEL + SPACE) for at in range(3)]
    bottom = tops[-1] + PANEL
    line.text(LEFT, 28, title, 18, bold=True)
    for fault in faults:
        line.fault(fault, TOP, bottom + 18)
    reads = [event for event in events if event.op == "get"]
    hits = line.count([event for event in reads if event.outcome == "ok"])
    asked = line.count(reads)
    writes = [e for e in events if e.op not in ("get", "exists") and e.end < float("inf")]
    line.panel(
        tops[0],
        "Keys a second, answered",
        [
            ("gets", "#1f77b4", asked),
            ("hits", "#2ca02c", hits),
            ("writes", "#ff7f0e", line.count([event for event in writes if not event.failed])),
        ],
    )
    share = [100 * hit / all_ if all_ else 0.0 for hit, all_ in zip(hits, asked)]
    line.panel(tops[1], "Hits, % of gets", [("hits", "#2ca02c", share)])
    failed = [event for event in events if event.failed and event.end < float("inf")]
    line.panel(
        tops[2],
        "Failed writes a second (reads: none may)",
        [
            ("writes", "#d62728", line.count([e for e in failed if e.op not in ("get", "exists")])),
            ("reads", "#000000", line.count([e for e in failed if e.op in ("get", "exists")])),
        ],
    )
    line.axis(bottom + 15)
    svg = path.with_suffix(".svg")
    svg.write_text(line.svg(bottom + LABELS))
    if shutil.which("rsvg-convert"):
        command = ["rsvg-convert", "-o", str(path.with_suffix(".png")), str(svg)]
        subprocess.run(command, check=True)

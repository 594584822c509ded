"""What load processes write down, one line an event, and how it is read again.

A write is written down before it is asked for ("w"), so that a kill between loses no version that
may be stored. Every call is written down when it has ended ("e").
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator

WRITES = ("put", "replace", "remove")
READS = ("get", "exists")
# Outcomes: "ok", "miss" (get, exists), "exists" (put), "absent" (remove), "error:<name>",
# "wrong:<what>" (a get whose bytes are not those of any version of that key).


@dataclass(slots=True)
class Event:
    """One call about one key; ``version`` is what was written, or what a get has brought."""

    client: str
    start: float
    end: float
    op: str
    key: int
    version: int
    outcome: str
    before: str  # the key's owner by this client's map when the call began
    after: str  # and when it had ended

    @property
    def served(self) -> bool:
        return self.outcome == "ok" or self.outcome == "exists"

    @property
    def failed(self) -> bool:
        return self.outcome.startswith("error:")


class Recorder:
    """Appends to a file without a buffer: what was written survives a kill -9."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write_begins(self, start: float, op: str, key: int, version: int, owner: str) -> None:
        os.write(self._file, f"w {start:.6f} {op} {key} {version} {owner or '-'}\n".encode())

    def ended(self, events: Iterable[Event]) -> None:
        lines = [
            f"e {e.start:.6f} {e.end:.6f} {e.op} {e.key} {e.version} {e.outcome} "
            f"{e.before or '-'} {e.after or '-'}\n"
            for e in events
        ]
        os.write(self._file, "".join(lines).encode())


def _parse(client: str, lines: Iterable[str]) -> Iterator[Event]:
    pending: dict[tuple[int, int], Event] = {}
    for line in lines:
        part = line.split()
        if not line.endswith("\n"):
            continue  # cut off by a kill: the call has not ended
        if part[0] == "w":
            start, op, key, version, owner = part[1:]
            pending[int(key), int(version)] = Event(
                client, float(start), float("inf"), op, int(key), int(version),
                "error:killed", owner, owner,
            )  # fmt: skip
            continue
        start, end, op, key, version, outcome, before, after = part[1:]
        if op in WRITES:
            pending.pop((int(key), int(version)), None)
        yield Event(
            client, float(start), float(end), op, int(key), int(version), outcome, before, after
        )
    yield from pending.values()


def read(folder: Path) -> list[Event]:
    """All events of all clients in a folder, by the time at which they began."""
    events: list[Event] = []
    for path in sorted(folder.glob("*.history")):
        with open(path, encoding="ascii") as file:
            events.extend(_parse(path.stem, file))
    events.sort(key=lambda event: event.start)
    return events

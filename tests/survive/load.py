#!/usr/bin/env python3
"""One load process: gets of all keys, and writes of those whose one writer it is.

Runs until it is stopped (SIGTERM) or killed. Everything that it asks for goes into its history.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from pathlib import Path
from typing import Callable

import simm
import values
from history import Event, Recorder

BATCH = 16


def name_of(key: int) -> str:
    return f"key-{key}"


def outcome_of(error: Exception) -> str:
    return "error:" + type(error).__name__


class Load:
    """The calls of one process. What a key's writer knows of it decides what it writes next."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._random = random.Random(args.seed)
        self._client = simm.Client(
            args.addresses, transport=args.transport, deadline=args.deadline, connect_timeout=30
        )
        self._recorder = Recorder(Path(args.history))
        self._own = range(args.index, args.keys, args.writers)
        self._version = args.first_version
        self._buffers = [bytearray(values.LARGEST) for _ in range(BATCH)]
        self.stopping = False

    def run(self) -> None:
        next_at = time.monotonic()
        while not self.stopping:
            self._one()
            next_at = max(next_at + 1 / self._args.rate, time.monotonic() - 0.1)
            time.sleep(max(0.0, next_at - time.monotonic()))
        self._client.close()

    def _one(self) -> None:
        dice = self._random.random()
        if dice < 0.45:
            self._get([self._random.randrange(self._args.keys)])
        elif dice < 0.50:
            self._get(self._random.sample(range(self._args.keys), BATCH))
        elif dice < 0.60:
            self._exists(self._random.randrange(self._args.keys))
        else:
            op = "put" if dice < 0.85 else "replace" if dice < 0.95 else "remove"
            self._write(op, self._random.choice(self._own))

    def _owner(self, key: int) -> str:
        return str(self._client.locate(name_of(key))["server"])

    def _get(self, keys: list[int]) -> None:
        before = [self._owner(key) for key in keys]
        start = time.monotonic()
        names = [name_of(key) for key in keys]
        try:
            results: list[object] = list(
                self._client.get_many_into(names, self._buffers[: len(keys)], allow_shorter=True)
            )
        except simm.BatchError as error:
            results = error.results
        except simm.SimmError as error:
            results = [error] * len(keys)
        end = time.monotonic()
        events = []
        for at, (key, result) in enumerate(zip(keys, results)):
            version, outcome = 0, "miss"
            if isinstance(result, Exception):
                outcome = outcome_of(result)
            elif isinstance(result, int):
                version, wrong = values.check(key, bytes(self._buffers[at][:result]))
                outcome = f"wrong:{wrong}" if wrong else "ok"
            events.append(
                Event("", start, end, "get", key, version, outcome, before[at], self._owner(key))
            )
        self._recorder.ended(events)

    def _exists(self, key: int) -> None:
        self._call("exists", key, 0, lambda: self._client.exists(name_of(key)), "miss")

    def _write(self, op: str, key: int) -> None:
        self._version += 1
        version = self._version
        name = name_of(key)
        self._recorder.write_begins(time.monotonic(), op, key, version, self._owner(key))
        if op == "remove":
            self._call(op, key, version, lambda: self._client.delete(name), "absent")
            return
        value = values.value_of(key, version)
        replace = op == "replace"
        self._call(
            op, key, version, lambda: self._client.put(name, value, replace=replace), "exists"
        )

    def _call(self, op: str, key: int, version: int, call: Callable[[], bool], no: str) -> None:
        before = self._owner(key)
        start = time.monotonic()
        try:
            outcome = "ok" if call() else no
        except simm.SimmError as error:
            outcome = outcome_of(error)
        end = time.monotonic()
        event = Event("", start, end, op, key, version, outcome, before, self._owner(key))
        self._recorder.ended([event])


def fill(args: argparse.Namespace) -> None:
    """Puts values of 256 KiB under keys of its own, as many bytes as it was told, and ends."""
    block = random.Random(args.seed).randbytes(256 * 1024)
    with simm.Client(args.addresses, transport=args.transport, connect_timeout=30) as client:
        for number in range(args.fill_bytes // len(block)):
            try:
                client.put(f"fill-{args.seed}-{number}", block)
            except simm.SimmError as error:
                print(f"fill: {type(error).__name__}: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--addresses", required=True)
    parser.add_argument("--transport", default="tcp")
    parser.add_argument("--history", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--index", type=int, default=0, help="which keys are its own")
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--first-version", type=int, default=0)
    parser.add_argument("--rate", type=float, default=300.0, help="calls a second at most")
    parser.add_argument("--deadline", type=float, default=0.5, help="seconds, of each call")
    parser.add_argument("--fill-bytes", type=int, default=0, help="instead: fill the cluster")
    args = parser.parse_args()
    if args.fill_bytes:
        fill(args)
        return
    load = Load(args)

    def stop(*_: object) -> None:
        load.stopping = True

    signal.signal(signal.SIGTERM, stop)
    load.run()


if __name__ == "__main__":
    main()

"""The error numbers that SiMM's users know."""

from __future__ import annotations

import logging
import threading
import time
from typing import Union

from simm import _native

OK = 0
INVALID_ARGUMENT = -1000
TIMEOUT = -1002
OUT_OF_MEMORY = -1003
INVALID_STATE = -1004
TARGET_UNAVAILABLE = -1901
INTERNAL_ERROR = -1999
KEY_NOT_FOUND = -4003
ALREADY_EXISTS = -4005
ALLOCATION_FAILED = -4006
KEY_TOO_LONG = -4007
_FAILED = {"put": -2100, "get": -2101, "delete": -2102}
_MAX_KEY_BYTES = 256

_NUMBERS = {
    _native.CODES["OK"]: OK,
    _native.CODES["MISS"]: KEY_NOT_FOUND,
    _native.CODES["INVALID_ARGUMENT"]: INVALID_ARGUMENT,
    _native.CODES["LENGTH_MISMATCH"]: INVALID_ARGUMENT,
    _native.CODES["DEADLINE_EXCEEDED"]: TIMEOUT,
    _native.CODES["UNAVAILABLE"]: TARGET_UNAVAILABLE,
    _native.CODES["BUSY"]: OUT_OF_MEMORY,
    _native.CODES["FAILED_PRECONDITION"]: INVALID_STATE,
    _native.CODES["INTERNAL"]: INTERNAL_ERROR,
}
_EXISTS = _native.CODES["EXISTS"]
_TOO_LARGE = _native.CODES["TOO_LARGE"]


def number_of(code: int, key: Union[str, bytes], call: str, existing_fails: bool = False) -> int:
    """The number for a simm::Code that came from a ``call`` ("put", "get", "delete")."""
    if code == _EXISTS:
        return ALREADY_EXISTS if existing_fails else OK
    if code == _TOO_LARGE:
        size = len(key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass"))
        return KEY_TOO_LONG if size > _MAX_KEY_BYTES else ALLOCATION_FAILED
    return _NUMBERS.get(code, _FAILED[call])


class Complaints:
    """Says in the log that calls fail, at most once in ten seconds. Misses are no failures."""

    INTERVAL_S = 10.0

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._next = 0.0
        self._kept_back = 0

    def seen(self, call: str, numbers: list[int]) -> list[int]:
        """Looks at the results of a call and passes them on."""
        failed = [number for number in numbers if number < 0 and number != KEY_NOT_FOUND]
        if failed:
            self._say("%s: %d of %d keys failed, the first with %d", call, len(failed),
                      len(numbers), failed[0])  # fmt: skip
        return numbers

    def raised(self, problem: Exception) -> None:
        self._say("a call failed: %s: %s", type(problem).__name__, problem)

    def _say(self, text: str, *values: object) -> None:
        now = time.monotonic()
        with self._lock:
            if now < self._next:
                self._kept_back += 1
                return
            self._next = now + self.INTERVAL_S
            kept_back, self._kept_back = self._kept_back, 0
        if kept_back:
            text += " (%d earlier ones were not logged)"
            values += (kept_back,)
        self._log.warning(text, *values)

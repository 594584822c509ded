"""What can go wrong. Every exception that this package raises is a SimmError."""

from __future__ import annotations

from typing import Any, Sequence


class SimmError(Exception):
    """The base of all others. ``code`` is the number of simm::Code, None where there is none."""

    code: int | None = None


class InvalidArgument(SimmError, ValueError):
    """Arguments that can never work: an empty key, an unknown option, memory of a wrong kind."""

    code = 3


class TooLarge(InvalidArgument):
    """A key above 256 B, a value above 1 GiB, or one that is larger than a data server's pool."""

    code = 4


class LengthMismatch(SimmError):
    """The stored value has another length than the buffer that was to take it: ``value_bytes``."""

    code = 5
    value_bytes: int = 0


class DeadlineExceeded(SimmError, TimeoutError):
    """The time was up before there was an answer."""

    code = 6


class Unavailable(SimmError, ConnectionError):
    """Nobody answers: no manager, or the data server that owns the key is away."""

    code = 7


class Busy(SimmError):
    """No memory or no slot could be had in time; it is worth trying again."""

    code = 8


class WrongCluster(SimmError):
    """The addresses lead to different clusters."""

    code = 12


class FailedPrecondition(SimmError):
    """The state of things forbids it; the message says what."""

    code = 14


class InternalError(SimmError):
    """An answer that should not be; please report it with the log."""

    code = 15


class ClosedError(SimmError):
    """The client has been closed, or the interpreter is exiting."""


class ForkError(SimmError):
    """The client was opened before a fork. Open clients after it, or use "spawn"."""


_BY_CODE: dict[int, type[SimmError]] = {
    3: InvalidArgument,
    4: TooLarge,
    5: LengthMismatch,
    6: DeadlineExceeded,
    7: Unavailable,
    8: Busy,
    12: WrongCluster,
    14: FailedPrecondition,
}


def error_of(code: int, message: str) -> SimmError:
    """The exception for a simm::Code that is a failure."""
    kind = _BY_CODE.get(code, InternalError)
    error = kind(message)
    error.code = code
    return error


class BatchError(SimmError):
    """Some keys of a batch failed; ``results``: what each came to, an exception for those."""

    def __init__(self, message: str, results: list[Any]) -> None:
        super().__init__(message)
        self.results = results

    @staticmethod
    def check(results: Sequence[Any]) -> None:
        """Raises it if there is an exception among the results."""
        failed = [result for result in results if isinstance(result, SimmError)]
        if failed:
            raise BatchError(
                f"{len(failed)} of {len(results)} keys failed, the first one: {failed[0]}",
                list(results),
            )

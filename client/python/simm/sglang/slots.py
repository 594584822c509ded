"""Memory in which one rank hands values on to others: a few files that stay mapped.

What costs is new memory, not the copy: filling pages of tmpfs for the first time takes five times
as long as filling them again, and reading a file by calls three times as long as from a mapping.
So the files are few, kept and filled again, each time with the oldest content replaced.

- Who fills a slot has its lock alone, who copies from it has it with others (flock). Both lock
  only if they get it at once. The kernel gives a lock up when its holder dies.
- A slot begins with a label: the digest of what it holds and when that was written. It is wiped
  before the first byte changes and set after the last; so a writer that dies leaves a slot with
  nothing in it.
- What is older than FRESH_S is not taken: whoever asks for it later asks the cluster.
- A file never shrinks while it has a name: a mapping of it cannot fault. Its memory is allocated
  before it is mapped; no room is an error, not a signal.
- The last process that closes, and the first one that opens, takes all files away.
"""

import contextlib
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simm._native import buffer_address, gather, scatter

# Ranks that are so many steps behind the first one ask the cluster.
SLOTS = 4
FRESH_S = 2.0
# Digest; time on the monotonic clock, which all processes of a host share.
_LABEL = struct.Struct("<32sd")
_NOTHING = bytes(_LABEL.size)
_HEADER_BYTES = 4096
_CLOSED = -1


@dataclass(frozen=True)
class _Mapping:
    inode: int
    memory: mmap.mmap  # unmapped when the last one that uses it lets go

    @property
    def address(self) -> int:
        with memoryview(self.memory) as view:
            return buffer_address(view)


class Slots:
    """The slots of one folder, which is of one user. Thread-safe."""

    def __init__(self, folder: Path):
        """OSError: the folder does not serve."""
        self._folder = folder
        self._mutex = threading.Lock()
        self._mappings: dict[Path, _Mapping] = {}
        self._paths = [folder / f"slot-{index}" for index in range(SLOTS)]
        # Each process that uses the slots has this file's lock with the others.
        self._users = os.open(folder / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._sweep(self._users)
            fcntl.flock(self._users, fcntl.LOCK_SH)
        except OSError:
            os.close(self._users)
            raise

    def close(self) -> None:
        """Unmaps, and frees the memory if no other process uses it. Idempotent."""
        with self._mutex:
            users, self._users = self._users, _CLOSED
            self._mappings.clear()
        if users != _CLOSED:
            self._sweep(users)
            os.close(users)

    def put(self, digest: bytes, addresses: Sequence[int], sizes: Sequence[int]) -> None:
        """Hands the values on under this name. OSError: there is no room."""
        for path in sorted(self._paths, key=_age, reverse=True):
            with contextlib.suppress(OSError), self._opened(path, fcntl.LOCK_EX) as file:
                mapping = self._mapped(path, file, sum(sizes), grow=True)
                mapping.memory[: _LABEL.size] = _NOTHING
                gather(addresses, sizes, mapping.address + _HEADER_BYTES)
                mapping.memory[: _LABEL.size] = _LABEL.pack(digest, time.monotonic())
                return
        raise OSError("no slot could be had")

    def take(self, digest: bytes, addresses: Sequence[int], sizes: Sequence[int]) -> bool:
        """Fills the values with what was handed on under this name. False: nothing fresh."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                if not _holds(path, digest):
                    continue
                with self._opened(path, fcntl.LOCK_SH) as file:
                    if _fresh(os.pread(file, _LABEL.size, 0), digest):
                        mapping = self._mapped(path, file, sum(sizes), grow=False)
                        scatter(addresses, sizes, mapping.address + _HEADER_BYTES)
                        return True
        return False

    @staticmethod
    @contextlib.contextmanager
    def _opened(path: Path, lock: int) -> Iterator[int]:
        """OSError: another holds the lock, or it cannot be opened."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        if lock == fcntl.LOCK_EX:
            flags |= os.O_CREAT
        file = os.open(path, flags, 0o600)
        try:
            fcntl.flock(file, lock | fcntl.LOCK_NB)
            yield file
        finally:
            # By name: a mapping keeps a duplicate of the descriptor, and with it the lock.
            fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def _mapped(self, path: Path, file: int, size: int, grow: bool) -> _Mapping:
        """OSError: the file is too small, or there is no room to let it grow."""
        wanted = _HEADER_BYTES + size
        found = os.fstat(file)
        if found.st_size < wanted:
            if not grow:
                raise OSError("the slot is smaller than what it should hold")
            os.posix_fallocate(file, 0, wanted)
            found = os.fstat(file)
        with self._mutex:
            if self._users == _CLOSED:
                raise OSError("closed")
            mapping = self._mappings.get(path)
            if (
                mapping is None
                or mapping.inode != found.st_ino
                or len(mapping.memory) < wanted
            ):
                flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
                mapping = _Mapping(found.st_ino, mmap.mmap(file, found.st_size, flags))
                self._mappings[path] = mapping
            return mapping

    def _sweep(self, users: int) -> None:
        """Takes the slots away if no other process uses them."""
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        for path in self._paths:
            path.unlink(missing_ok=True)


def _label(path: Path) -> bytes:
    """What stands at the beginning of a slot; nothing, if it is not there."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.pread(file, _LABEL.size, 0)
    finally:
        os.close(file)


def _age(path: Path) -> float:
    """Seconds since it was written; slots that hold nothing are the oldest."""
    label = _label(path)
    if len(label) < _LABEL.size:
        return float("inf")
    return time.monotonic() - float(_LABEL.unpack(label)[1])


def _holds(path: Path, digest: bytes) -> bool:
    return _fresh(_label(path), digest)


def _fresh(label: bytes, digest: bytes) -> bool:
    if len(label) < _LABEL.size:
        return False
    held, written = _LABEL.unpack(label)
    # Not from the future either: a container may have a clock of its own.
    return bool(held == digest) and 0.0 <= time.monotonic() - float(written) < FRESH_S

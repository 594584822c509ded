"""Several ranks of a host read the same pages: one of them fetches, the others copy from memory.

All tensor-parallel ranks of an MLA model want the same bytes, at the same time, each in its own
host pool. Over tcp that is the same traffic tp_size times. Here the first rank to ask for a step of
a batch leads: it reads as always and, if others wait, writes what it got to a file in memory. None
waits for another longer than for a part of its own deadline or depends on another's health:

- The lock on the file is the kernel's (flock) and ends with the process that holds it. A leader
  that dies leaves a file that is not complete; those who waited read by themselves.
- A file is written once, and only if the leader got everything; what it did not get the others
  try for themselves. It loses its name before its lock is released, so the memory is free again
  when the last reader closes it. What is complete never changes.
- A name is taken away only by who holds the lock of the file that it names at that time. A leader
  that was killed may leave the name of a complete file: whoever finds it takes the name away and
  reads anew. Names that nobody asks for again are swept at the next start.
- The file's name is a digest of the namespace, of all keys and sizes. Whoever opens it wants
  exactly these bytes.

Without room in the folder or without rights to it every rank reads for itself.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import stat
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = "/dev/shm"
# Below this the locks cost more than what they save.
MIN_BYTES = 1 << 20
# Pieces of a batch: small enough that others copy one while the next is fetched.
STEP_BYTES = 32 << 20
# A rank waits for another at most for this part of its own time.
PATIENCE = 0.5
POLL_S = 0.0005
# Names that are older than this and have no leader were left by one that was killed.
LEFTOVER_S = 60.0
# So often a rank looks up a name again that was taken away under its hands, then it reads itself.
LOOKUPS = 3
# Header: one byte "somebody waits", one byte "complete".
_HEADER = struct.Struct("<BB")
_HEADER_BYTES = 4096
_VALUES_A_CALL = 64


class SharedReads:
    """Of one namespace and user on this host. Thread-safe: it keeps no state but the folder."""

    def __init__(self, namespace: str, folder: str = FOLDER):
        self._namespace = namespace
        self._folder = self._own_folder(Path(folder))
        if self._folder is not None:
            _sweep(self._folder)

    @property
    def usable(self) -> bool:
        return self._folder is not None

    @staticmethod
    def _own_folder(parent: Path) -> Path | None:
        """A folder that nobody else can write to; None: there is none to be had."""
        user = os.geteuid()
        folder = parent / f"simm-sglang-{user}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            return None
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077
        return folder if own else None

    def read(
        self,
        keys: Sequence[str],
        addresses: Sequence[int],
        sizes: Sequence[int],
        left_s: float,
        fetch: Callable[[], list[bool]],
    ) -> list[bool]:
        """Fills the values' memory, by fetch() over the network or from another rank's read.

        Returns which values are there now.
        """
        if self._folder is None or sum(sizes) < MIN_BYTES:
            return fetch()
        path = self._folder / self._name(keys, sizes)
        for _ in range(LOOKUPS):
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError:
                break
            try:
                role = self._role(file, path)
                if role == "lead":
                    return self._lead(file, path, addresses, sizes, fetch)
                if role == "again":
                    continue
                if role == "follow":
                    copied = self._follow(file, addresses, sizes, left_s * PATIENCE)
                else:
                    copied = role == "copy" and _copied(file, addresses, sizes)
                if copied:
                    return [True] * len(sizes)
                break
            finally:
                os.close(file)
        return fetch()

    @staticmethod
    def _role(file: int, path: Path) -> str:
        """What to do with a file that has just been opened by its name.

        "follow": another has its lock. With the lock: "lead"; "copy", it is complete and its name
        has just been taken away; "again", the name is another file's. "": it is of no use.
        """
        try:
            if not _locked(file, fcntl.LOCK_EX):
                return "follow"
            complete = _header(file)[1]
            if not _is_named(file, path):
                return "copy" if complete else "again"
            if complete:  # its leader was killed before it took the name away
                os.unlink(path)
                return "again"
        except OSError:
            return ""
        return "lead"

    def _name(self, keys: Sequence[str], sizes: Sequence[int]) -> str:
        content = [self._namespace, *keys, *map(str, sizes)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    @staticmethod
    def _lead(
        file: int,
        path: Path,
        addresses: Sequence[int],
        sizes: Sequence[int],
        fetch: Callable[[], list[bool]],
    ) -> list[bool]:
        try:
            good = fetch()
            with contextlib.suppress(OSError):  # no room: the others fetch for themselves
                if all(good) and _header(file)[0]:
                    _move(os.pwritev, file, addresses, sizes)
                    os.pwrite(file, _HEADER.pack(1, 1), 0)
            return good
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)  # still this file's: only who has its lock takes the name away

    @staticmethod
    def _follow(
        file: int, addresses: Sequence[int], sizes: Sequence[int], patience_s: float
    ) -> bool:
        """False: there was nothing to copy."""
        end = time.monotonic() + patience_s
        try:
            os.pwrite(file, b"\1", 0)
            while not _locked(file, fcntl.LOCK_SH):
                if time.monotonic() > end:
                    return False
                time.sleep(POLL_S)
        except OSError:
            return False
        return _copied(file, addresses, sizes)


def _copied(file: int, addresses: Sequence[int], sizes: Sequence[int]) -> bool:
    """Takes what a leader has left. False: nothing complete."""
    try:
        if not _header(file)[1]:
            return False
        _move(os.preadv, file, addresses, sizes)
    except OSError:
        return False
    return True


def _is_named(file: int, path: Path) -> bool:
    """Whether the name is this file's still."""
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        return False
    own = os.fstat(file)
    return (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino)


def _sweep(folder: Path) -> None:
    """Takes away the names that leaders have left that were killed."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > LEFTOVER_S:
                    _take_name(path)


def _take_name(path: Path) -> None:
    """Unless a leader is at work. OSError: it cannot be done."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if _locked(file, fcntl.LOCK_EX) and _is_named(file, path):
            os.unlink(path)
    finally:
        os.close(file)


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _header(file: int) -> tuple[int, int]:
    raw = os.pread(file, _HEADER.size, 0)
    return _HEADER.unpack(raw.ljust(_HEADER.size, b"\0"))


def _move(
    call: Callable[[int, list[memoryview], int], int],
    file: int,
    addresses: Sequence[int],
    sizes: Sequence[int],
) -> None:
    """Reads or writes the values one after the other, behind the header. OSError: not all of it."""
    offset = _HEADER_BYTES
    for first in range(0, len(sizes), _VALUES_A_CALL):
        last = first + _VALUES_A_CALL
        views = [
            memoryview((ctypes.c_char * size).from_address(address)).cast("B")
            for address, size in zip(addresses[first:last], sizes[first:last], strict=True)
        ]
        while views:
            moved = call(file, views, offset)
            if moved <= 0:
                raise OSError("the file ends too early")
            offset += moved
            while views and moved >= len(views[0]):
                moved -= len(views.pop(0))
            if views:
                views[0] = views[0][moved:]

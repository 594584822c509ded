"""Several ranks of a host read the same pages: one of them fetches, the others copy from memory.

All tensor-parallel ranks of an MLA model want the same bytes, at the same time, each in its own
host pool. Over tcp that is the same traffic tp_size times. Here the first rank to ask for a step of
a batch leads: it reads as always and, if others wait, writes what it got to a file in memory. None
waits for another longer than for a part of its own deadline or depends on another's health:

- The lock on the file is the kernel's (flock) and ends with the process that holds it. A leader
  that dies leaves a file that is not complete; those who waited read by themselves.
- A file is written once, and loses its name before its lock is released. So what can be found by
  name is never complete, what is complete never changes, and the memory is free again when the last
  reader closes it.
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
# Header: one byte "somebody waits", one byte "complete", 6 unused, the number of good values.
_HEADER = struct.Struct("<BB6xQ")
_HEADER_BYTES = 4096
_VALUES_A_CALL = 64


class SharedReads:
    """Of one namespace and user on this host. Thread-safe: it keeps no state but the folder."""

    def __init__(self, namespace: str, folder: str = FOLDER):
        self._namespace = namespace
        self._folder = self._own_folder(Path(folder))

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

        Returns which values are there now; of a copy, those behind the first failure are not.
        """
        if self._folder is None or sum(sizes) < MIN_BYTES:
            return fetch()
        path = self._folder / self._name(keys, sizes)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return fetch()
        try:
            if not _locked(file, fcntl.LOCK_EX):
                good = self._follow(file, addresses, sizes, left_s * PATIENCE)
            elif _header(file)[1]:  # opened by its name just before a leader took that away
                good = _copied(file, addresses, sizes)
            else:
                return self._lead(file, path, addresses, sizes, fetch)
        finally:
            os.close(file)
        return fetch() if good is None else good

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
            count = next((i for i, fine in enumerate(good) if not fine), len(good))
            with contextlib.suppress(OSError):  # no room: the others fetch for themselves
                if _header(file)[0]:
                    _move(os.pwritev, file, addresses[:count], sizes[:count])
                    os.pwrite(file, _HEADER.pack(1, 1, count), 0)
            return good
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)  # still this file: only who has the lock takes the name away

    @staticmethod
    def _follow(
        file: int, addresses: Sequence[int], sizes: Sequence[int], patience_s: float
    ) -> list[bool] | None:
        """None: there is nothing to copy."""
        end = time.monotonic() + patience_s
        try:
            os.pwrite(file, b"\1", 0)
            while not _locked(file, fcntl.LOCK_SH):
                if time.monotonic() > end:
                    return None
                time.sleep(POLL_S)
        except OSError:
            return None
        return _copied(file, addresses, sizes)


def _copied(file: int, addresses: Sequence[int], sizes: Sequence[int]) -> list[bool] | None:
    """What a leader has left; None: nothing complete."""
    try:
        _, complete, count = _header(file)
        if not complete:
            return None
        _move(os.preadv, file, addresses[:count], sizes[:count])
    except OSError:
        return None
    return [index < count for index in range(len(sizes))]


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _header(file: int) -> tuple[int, int, int]:
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

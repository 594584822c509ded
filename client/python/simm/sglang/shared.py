"""Several ranks of a host read the same pages: one of them fetches, the others copy from memory.

All tensor-parallel ranks of an MLA model want the same bytes, at about the same time, each in its
own host pool. Over tcp that is the same traffic tp_size times. Here the first rank to ask for a
step of a batch leads: it reads as always and hands what it got on in memory (slots.py). None waits
for another longer than for a part of its own deadline or depends on another's health:

- Who leads has the lock of a file (flock). It is the kernel's and ends with the process that holds
  it. A leader that dies has handed nothing on; those who waited read by themselves.
- It hands on all or nothing; what it did not get the others try for themselves.
- The file has its name only while somebody leads. A name is taken away by who holds the lock of the
  file that it names at that time. One that a killed leader has left serves the next one; if nobody
  asks for it again, it is swept at the next start.
- The name is a digest of the namespace, of all keys and sizes, and so is the label of a slot.
  Whoever finds it wants exactly these bytes.

Without room in the folder or without rights to it every rank reads for itself.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from simm.sglang.slots import Slots

FOLDER = "/dev/shm"
# Below this the locks cost more than what they save.
MIN_BYTES = 1 << 20
# Pieces of a batch: small enough that others copy one, out of the processor's cache, while the next
# is fetched; large enough that the connections do not run empty.
STEP_BYTES = 16 << 20
# A rank waits for another at most for this part of its own time.
PATIENCE = 0.5
POLL_S = 0.0005
# Names that are older than this and have no leader were left by one that was killed.
LEFTOVER_S = 60.0
# So often a rank looks up a name again that was taken away under its hands, then it reads itself.
LOOKUPS = 3
NAME_LENGTH = 2 * hashlib.sha256().digest_size


class SharedReads:
    """Of one namespace and user on this host. Thread-safe."""

    def __init__(self, namespace: str, folder: str = FOLDER):
        self._namespace = namespace
        self._folder = self._own_folder(Path(folder))
        self._slots: Slots | None = None
        if self._folder is not None:
            _sweep(self._folder)
            with contextlib.suppress(OSError):
                self._slots = Slots(self._folder)

    @property
    def usable(self) -> bool:
        return self._slots is not None

    def close(self) -> None:
        """Frees the memory, if no other process uses it. Idempotent."""
        if self._slots is not None:
            self._slots.close()

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
        slots, folder = self._slots, self._folder
        if slots is None or folder is None or sum(sizes) < MIN_BYTES:
            return fetch()
        digest = self._digest(keys, sizes)
        path = folder / digest.hex()
        for _ in range(LOOKUPS):
            if slots.take(digest, addresses, sizes):
                return [True] * len(sizes)
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError:
                break
            try:
                role = _role(file, path)
                if role == "lead":
                    return self._lead(slots, digest, path, addresses, sizes, fetch)
                if role == "follow" and _led(file, left_s * PATIENCE):
                    if slots.take(digest, addresses, sizes):
                        return [True] * len(sizes)
                if role != "again":
                    break
            finally:
                os.close(file)
        return fetch()

    def _digest(self, keys: Sequence[str], sizes: Sequence[int]) -> bytes:
        content = [self._namespace, *keys, *map(str, sizes)]
        return hashlib.sha256("\n".join(content).encode()).digest()

    @staticmethod
    def _lead(
        slots: Slots,
        digest: bytes,
        path: Path,
        addresses: Sequence[int],
        sizes: Sequence[int],
        fetch: Callable[[], list[bool]],
    ) -> list[bool]:
        try:
            # Another may have led between the look at the slots and the lock.
            if slots.take(digest, addresses, sizes):
                return [True] * len(sizes)
            good = fetch()
            if all(good):
                with contextlib.suppress(OSError):  # no room: the others fetch for themselves
                    slots.put(digest, addresses, sizes)
            return good
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)  # still this file's: only who has its lock takes the name away


def _role(file: int, path: Path) -> str:
    """What to do with a file that has just been opened by its name.

    "lead": this has its lock now; "follow": another has it; "again": the name is another file's
    meanwhile; "": the folder is of no use.
    """
    try:
        if not _locked(file, fcntl.LOCK_EX):
            return "follow"
        return "lead" if _is_named(file, path) else "again"
    except OSError:
        return ""


def _led(file: int, patience_s: float) -> bool:
    """Waits until the leader is done, or dead. False: it takes too long."""
    end = time.monotonic() + patience_s
    with contextlib.suppress(OSError):
        while not _locked(file, fcntl.LOCK_SH):
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        return True
    return False


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
        for path in folder.glob("?" * NAME_LENGTH):
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

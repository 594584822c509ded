"""Values that say whose they are: every byte is a function of key and version."""

from __future__ import annotations

import random
import struct

HEAD = struct.Struct("<4sIIIQQ")
MAGIC = b"SVal"
LARGEST = 64 * 1024
_BLOCK = random.Random(20261125).randbytes(1 << 20)


def _mixed(key: int, version: int) -> int:
    return ((key << 32 | version) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & (1 << 64) - 1


def size_of(key: int, version: int) -> int:
    """From 64 B to 64 KiB; another one for nearly every version."""
    return 64 + (_mixed(key, version) >> 20) % (LARGEST - 64)


def value_of(key: int, version: int) -> bytes:
    """A head with key, version and length, a slice of one random block, and the head again."""
    size = size_of(key, version)
    mixed = _mixed(key, version)
    head = HEAD.pack(MAGIC, key, version, size, mixed, mixed ^ size)
    at = (mixed >> 40) % (len(_BLOCK) - LARGEST)
    return head + _BLOCK[at : at + size - 2 * HEAD.size] + head if size > 64 else head + head


def check(key: int, value: bytes) -> tuple[int, str]:
    """The version that a value claims, and "" if each of its bytes is right, else what is wrong."""
    if len(value) < HEAD.size:
        return 0, f"short({len(value)})"
    magic, its_key, version, size, _, _ = HEAD.unpack_from(value)
    if magic != MAGIC:
        return 0, "no-value"
    if its_key != key:
        return version, f"key-{its_key}"
    if size != len(value):
        return version, f"length({len(value)}/{size})"
    if value != value_of(key, version):
        return version, "torn"
    return version, ""

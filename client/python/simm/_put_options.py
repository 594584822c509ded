"""What a put can be told besides its values, checked once for all interfaces."""

from __future__ import annotations

from typing import Optional

from simm.errors import InvalidArgument

MOST_TTL = 49 * 24 * 3600  # seconds; the wire carries milliseconds in 32 bits
MOST_QUORUM = 3


def ttl_ms_of(ttl: Optional[float]) -> int:
    """Milliseconds of a time to live in seconds; 0 for None: never. Raises InvalidArgument."""
    if ttl is None:
        return 0
    if not 0.001 <= ttl <= MOST_TTL:  # nor what is no number
        raise InvalidArgument(f"ttl is 0.001 to {MOST_TTL} seconds, or None for never; not {ttl}")
    return int(ttl * 1000)


def quorum_of(quorum: int) -> int:
    """How many owners must have stored a value; raises InvalidArgument."""
    if not 1 <= quorum <= MOST_QUORUM:
        raise InvalidArgument(f"write_quorum is 1 to {MOST_QUORUM} owners, not {quorum}")
    return int(quorum)

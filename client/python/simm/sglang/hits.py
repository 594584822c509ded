"""How long a prefix can be used when several pools must hold their part of it.

Pure functions over "is page i there": for each pool a list of one bool a page of the chain.
"""

from collections.abc import Sequence
from typing import Any


def leading(there: Sequence[bool]) -> int:
    """The length of the run of pages that are there, from the start."""
    for index, present in enumerate(there):
        if not present:
            return index
    return len(there)


def usable_all_pages(there: Sequence[bool], limit: int) -> set[int]:
    """The prefix lengths up to `limit` of which the pool holds every page."""
    return set(range(1, leading(there[:limit]) + 1))


def usable_trailing(there: Sequence[bool], limit: int, window: int) -> set[int]:
    """The prefix lengths up to `limit` of which the pool holds the last `window` pages.

    A prefix shorter than the window needs all of its pages. The set may have holes: such a pool
    holds pages only where a stored stretch ended.
    """
    window = max(1, window)
    usable = set()
    run = 0
    for index in range(limit):
        run = run + 1 if there[index] else 0
        if run >= min(window, index + 1):
            usable.add(index + 1)
    return usable


def complete_groups(there: Sequence[bool], group_pages: int) -> int:
    """How many groups of `group_pages` consecutive keys are there in full, from the start."""
    return leading(there) // max(1, group_pages)


def narrow(
    policy: str,
    transfer: Any,
    there: Sequence[bool],
    kv_pages: int,
    usable: set[int],
    reach: dict[Any, int],
) -> None:
    """Takes out of `usable` what one pool cannot serve, and notes its own reach."""
    if policy == "block_groups":
        # A second form of the KV pages: it has a reach of its own and narrows nothing.
        groups = complete_groups(there, transfer.group_pages)
        reach[transfer.name] = groups * transfer.block_pages
        return
    if policy == "trailing_pages":
        own = usable_trailing(there, kv_pages, len(transfer.keys or ()))
    elif policy == "all_pages":
        own = usable_all_pages(there, kv_pages)
    else:
        own = set()  # a policy of a later release: nothing can be promised
    if own:
        reach[transfer.name] = max(own)
    usable &= own

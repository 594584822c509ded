"""Asynchronous calls of the native client as asyncio futures."""

from __future__ import annotations

import asyncio
from typing import Any, Callable, Tuple


def start(begin: Callable[[Callable[..., None]], None], *keep: object) -> asyncio.Future[Any]:
    """``begin(callback)`` begins a call; the future brings what the callback is given, as a tuple.

    ``keep`` is kept alive until the call has ended, also when the future has been cancelled: the
    call goes on then, and may still write to its buffers.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(results: Tuple[Any, ...]) -> None:
        if not future.done():
            future.set_result(results)

    def done(*results: Any, _keep: object = keep) -> None:
        try:
            loop.call_soon_threadsafe(settle, results)
        except RuntimeError:
            pass  # the loop has been closed: nobody waits any more

    begin(done)
    return future

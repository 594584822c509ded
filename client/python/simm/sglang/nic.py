"""Which RDMA devices are near a host pool's memory.

Data that crosses from one socket's memory to another's device costs half the bandwidth. The pool's
node is asked of the kernel for the pool's own pages, not guessed from the processor that happens to
run: ranks are often started before they are bound.
"""

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_GET_MEMPOLICY = {"x86_64": 239, "aarch64": 236}
_BY_ADDRESS = 2
_ANSWER_NODE = 1


def node_of_memory(address: int) -> int | None:
    """The NUMA node of the page at `address`; None: the kernel does not say."""
    number = _GET_MEMPOLICY.get(platform.machine())
    if number is None:
        return None
    node = ctypes.c_int(-1)
    libc = ctypes.CDLL(None, use_errno=True)
    status = libc.syscall(
        ctypes.c_long(number),
        ctypes.byref(node),
        None,
        ctypes.c_ulong(0),
        ctypes.c_void_p(address),
        ctypes.c_ulong(_ANSWER_NODE | _BY_ADDRESS),
    )
    return node.value if status == 0 and node.value >= 0 else None


def devices(root: Path = Path("/sys")) -> dict[str, int]:
    """The RDMA devices of this host and their nodes; -1: the host has one node or does not say."""
    found = {}
    with contextlib.suppress(OSError):
        for device in sorted((root / "class/infiniband").iterdir()):
            node = -1
            with contextlib.suppress(OSError, ValueError):
                node = int((device / "device/numa_node").read_text())
            found[device.name] = node
    return found


def near(node: int | None, found: dict[str, int]) -> tuple[str, ...]:
    """The devices on `node`; none, which means any: no device is there, or the node is unknown."""
    return tuple(name for name, of in found.items() if node is not None and of == node)


def processors_of(node: int, root: Path = Path("/sys")) -> set[int]:
    """The processors of a node; empty when the host does not say."""
    processors: set[int] = set()
    with contextlib.suppress(OSError, ValueError):
        text = (root / f"devices/system/node/node{node}/cpulist").read_text().strip()
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            processors.update(range(int(first), int(last or first) + 1))
    return processors


def run_near(node: int | None, body: Callable[[], Any], root: Path = Path("/sys")) -> Any:
    """Runs `body` in a thread bound to the node's processors and returns what it returns.

    Threads inherit where they may run from the thread that starts them, so those that the client
    library starts meanwhile stay near the pool too, and devices near them are preferred.
    """
    allowed = os.sched_getaffinity(0)
    chosen = processors_of(node, root) & allowed if node is not None else set()
    if not chosen or chosen == allowed:
        return body()
    outcome: dict[str, Any] = {}

    def bound() -> None:
        os.sched_setaffinity(0, chosen)  # of this thread only
        try:
            outcome["value"] = body()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=bound, name="simm-connect")
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]

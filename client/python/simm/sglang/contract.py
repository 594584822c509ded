"""What differs between SGLang's releases, in one place (0.5.12 to 0.5.23 were looked at)."""

import importlib
from dataclasses import fields
from typing import Any

from sglang.srt.mem_cache.hicache_storage import PoolTransferResult

# Newer releases intersect over the ranks which prefix lengths can be restored; older ones take the
# smallest of the longest.
_HAS_RESTORABLE = len(fields(PoolTransferResult)) >= 3


def result(usable: set[int], reach: dict[Any, int]) -> PoolTransferResult:
    """`usable`: the prefix lengths that all pools can serve. `reach`: each pool's own longest."""
    longest = max(usable, default=0)
    if _HAS_RESTORABLE:
        return PoolTransferResult(longest, reach, sorted(usable))
    return PoolTransferResult(longest, reach)


def text_of(name: Any) -> str:
    """Of a pool's name or a policy, whether an enumeration or text."""
    return str(getattr(name, "value", name))


def value_format(pool: Any, given: str) -> str:
    """The format of a pool's values, as exactly as SGLang says it.

    fp8_e4m3 and fp8_e5m2 are stored alike, as bytes: the device pool and the server's arguments
    know which it is. `given`: what the user has set in its place.
    """
    stored = str(getattr(pool, "dtype", "")).removeprefix("torch.")
    if given or stored not in ("uint8", "int8"):
        return given or stored
    parts = [stored, getattr(getattr(pool, "device_pool", None), "dtype", "")]
    parts.append(_of_server_arguments("kv_cache_dtype"))
    names = [str(part).removeprefix("torch.") for part in parts if part is not None]
    return "/".join(dict.fromkeys(name for name in names if name and name != "auto"))


def draft_model() -> str:
    """Which model drafts in this server, as exactly as it says: path and revision. Empty: none."""
    names = ("speculative_draft_model_path", "speculative_draft_model_revision")
    return "@".join(str(part) for part in map(_of_server_arguments, names) if part)


def _of_server_arguments(name: str) -> Any:
    """An option with which this server was started; None: there is no server in this process."""
    for module, function in (
        ("sglang.srt.runtime_context", "get_server_args"),
        ("sglang.srt.server_args", "get_global_server_args"),
    ):
        try:
            arguments = getattr(importlib.import_module(module), function)()
            return getattr(arguments, name, None)
        except Exception:  # another release, or none is running
            continue
    return None

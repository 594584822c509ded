"""A host pool of SGLang as the backend sees it: the values of a page, their keys and addresses.

What a pool's page consists of is asked of the pool itself (`get_page_buffer_meta`), not derived
from its name: one value for MLA, keys and values for MHA, several states for Mamba, one for an
indexer. So a pool that SGLang adds later is served without a change here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from simm.sglang.keys import Shard, page_prefix, pool_name

SERVED_LAYOUTS = ("page_first", "page_first_direct", "page_head", "page_first_kv_split")
# Beyond this a page is one piece a layer, whatever the layout is called.
MAX_VALUES_A_PAGE = 64
MAX_VALUE_BYTES = 1 << 30

# Pools beside an MLA model's own whose content all tensor-parallel ranks hold alike. Others are
# taken as sharded: a rank then reads what it wrote itself, which is never wrong.
REPLICATED_WITH_MLA = {"kv", "indexer", "draft_indexer", "swa"}
REPLICATED_WITH_MLA_PREFIX = "deepseek_v4_"
# A draft model is as its own pool is, whatever the target.
BY_CLASS = {"draft", "draft_swa"}
MLA_CLASSES = {"MLATokenToKVPoolHost", "DeepSeekV4PagedHostPool"}
SHARDED_CLASSES = {"MHATokenToKVPoolHost", "MambaPoolHost"}
# Of the pools that are sharded beside a replicated one, those that SGLang backs up on every rank.
BACKED_UP_BY_ALL = {"mamba"}


class UnservedPool(ValueError):
    """A host pool whose pages cannot be kept. The message names the flag to set."""


def is_replicated(name: str, pool: Any, is_mla_model: bool) -> bool:
    """Whether all tensor-parallel ranks hold the same bytes in this pool."""
    classes = {kind.__name__ for kind in type(pool).__mro__}
    if not is_mla_model or classes & SHARDED_CLASSES:
        return False
    if name in BY_CLASS:
        return bool(classes & MLA_CLASSES)
    return name in REPLICATED_WITH_MLA or name.startswith(REPLICATED_WITH_MLA_PREFIX)


def holds_draft(name: str, pool: Any) -> bool:
    """Whether its pages are a draft model's, alone or packed behind the layers of the target."""
    target_layers = getattr(pool, "target_layer_num", None)
    packed = target_layers is not None and getattr(pool, "layer_num", 0) > target_layers
    return name.startswith("draft") or packed or bool(getattr(pool, "mtp_draft_device_pools", ()))


def is_logical(pool: Any) -> bool:
    """An anchor that hands out indices and holds no bytes; its side pools hold them.

    Known by SGLang's own class, alone or as the anchor of a group. A pool that merely keeps its
    bytes where nobody looks for them is none: to take it for one would be success without bytes.
    """
    if _is_a(pool, "HostPoolGroup"):
        pool = pool.anchor_entry.host_pool
    return _is_a(pool, "LogicalHostPool") and getattr(pool, "kv_buffer", None) is None


def _is_a(pool: Any, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(pool).__mro__)


@dataclass
class PagePool:
    """One registered host pool. Immutable once made."""

    name: str
    pool: Any
    page_size: int  # tokens, or slots, that one key stands for
    sizes: tuple[int, ...]  # bytes of each value of a page
    suffixes: tuple[str, ...]  # what a page's values are called, in the same order
    prefix: str
    replicated: bool
    split: int = 1  # groups of heads that a page is cut into
    page_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.page_bytes = sum(self.sizes)

    def keys(self, hashes: Iterable[str]) -> list[str]:
        """The keys of the pages' values, page after page."""
        prefix, suffixes = self.prefix, self.suffixes
        return [
            f"{prefix}/{page}/{suffix}" for page in map(page_prefix, hashes) for suffix in suffixes
        ]

    def page_key(self, page_hash: str) -> str:
        """Names the page among those of all pools."""
        return f"{self.prefix}/{page_hash}"

    def locate(self, host_indices: torch.Tensor, pages: int) -> tuple[list[int], list[int]]:
        """Addresses and sizes of the pages' values, page after page.

        ValueError: there are not `pages` times page_size indices.
        """
        if host_indices is None or len(host_indices) != pages * self.page_size:
            given = "no" if host_indices is None else len(host_indices)
            raise ValueError(
                f"pool {self.name}: {given} host indices for {pages} pages of {self.page_size}"
            )
        addresses, sizes = _buffers_of_pages(self.pool, host_indices, self.split)
        if len(addresses) != pages * len(self.sizes):
            raise ValueError(
                f"pool {self.name}: {len(addresses)} buffers for {pages} pages "
                f"of {len(self.sizes)} values"
            )
        return addresses, sizes


def _buffers_of_pages(pool: Any, host_indices: Any, split: int) -> tuple[list[int], list[int]]:
    if split > 1:
        addresses, sizes = pool.get_split_heads_page_buffer_meta(host_indices, split)
    else:
        addresses, sizes = pool.get_page_buffer_meta(host_indices)
    return addresses, sizes


def describe(
    name: str,
    pool: Any,
    shard: Shard,
    is_mla_model: bool,
    tp_lcm_size: int | None = None,
    split_heads: bool = False,
    draft_model: str = "",
) -> PagePool:
    """Asks a host pool what its pages consist of. UnservedPool: they cannot be kept.

    `draft_model`: goes into the keys of the pools that hold any of its pages.
    """
    layout = str(getattr(pool, "layout", ""))
    if layout not in SERVED_LAYOUTS:
        raise UnservedPool(
            f"host pool {name}: layout {layout!r} is not served, because a page would be one piece "
            "for each layer. Start SGLang with --hicache-mem-layout page_first (with "
            "--hicache-io-backend kernel) or page_first_direct (with direct)."
        )
    replicated = is_replicated(name, pool, is_mla_model)
    by_heads = layout == "page_head" and not replicated and bool(tp_lcm_size)
    split = (tp_lcm_size or 1) // shard.tp_size if by_heads and split_heads else 1
    page_size = int(getattr(pool, "page_size", 1) or 1)
    try:
        _, found = _buffers_of_pages(pool, torch.arange(page_size, dtype=torch.int64), split)
    except (AssertionError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise UnservedPool(
            f"host pool {name} ({type(pool).__name__}, layout {layout}) has no pages that can be "
            f"moved without a copy: {error}"
        ) from error
    sizes = tuple(int(size) for size in found)
    if not sizes or len(sizes) > MAX_VALUES_A_PAGE or max(sizes) > MAX_VALUE_BYTES:
        raise UnservedPool(
            f"host pool {name}: a page is {len(sizes)} values, the largest of "
            f"{max(sizes, default=0)} B; served are 1 to {MAX_VALUES_A_PAGE} of at most "
            f"{MAX_VALUE_BYTES} B. Set a smaller --page-size."
        )
    # Of each group of heads: equal for servers that agree on the number of groups.
    of_one = sizes[: len(sizes) // split]
    return PagePool(
        name=name,
        pool=pool,
        page_size=page_size,
        sizes=sizes,
        suffixes=_suffixes(
            shard, replicated, len(of_one), split, tp_lcm_size if by_heads else None
        ),
        prefix=pool_name(
            *(name, layout, _dtype_of(pool), page_size, of_one),
            draft_model if holds_draft(name, pool) else "",
        ),
        replicated=replicated,
        split=split,
    )


def _suffixes(
    shard: Shard, replicated: bool, values: int, split: int, head_groups: int | None
) -> tuple[str, ...]:
    if head_groups is None:
        owner = shard.name(replicated)
        return tuple(f"{owner}/{value}" for value in range(values))
    groups = head_groups // shard.tp_size
    if groups != split:
        # The page is not cut although it holds several groups: it is nobody else's unit.
        owner = shard.name(False)
        return tuple(f"{owner}/{value}" for value in range(values))
    first = shard.tp_rank * groups
    return tuple(
        f"{shard.head_name(first + group, head_groups)}/{value}"
        for group in range(groups)
        for value in range(values)
    )


def _dtype_of(pool: Any) -> str:
    return str(getattr(pool, "dtype", "")).removeprefix("torch.")


def memory_of(pool: Any) -> list[tuple[int, int]]:
    """The address and the bytes of each of a pool's tensors."""
    tensors: Sequence[Any]
    if hasattr(pool, "get_hybrid_pool_buffer"):
        tensors = pool.get_hybrid_pool_buffer()
    else:
        buffer = getattr(pool, "kv_buffer", None)
        tensors = buffer if isinstance(buffer, list | tuple) else [buffer]
    ranges = []
    for tensor in tensors:
        if tensor is None or tensor.numel() == 0:
            continue
        # The last element's distance from the first: a view may step over what lies between.
        span = (
            sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
            + 1
        )
        ranges.append((tensor.data_ptr(), span * tensor.element_size()))
    return ranges

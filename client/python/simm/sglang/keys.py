"""Names of namespaces and keys: two pages have the same key only if their bytes are the same.

SGLang names a page by a hash over its tokens and those before it. The rest of what decides its
bytes (model, format, page size, layout, which part of the model this rank holds) is added here:
what a whole deployment shares goes into the namespace, what differs from rank to rank or from pool
to pool into the key.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SCHEME = 2  # bumped when the scheme changes: old entries are then misses
MAX_HASH_CHARACTERS = 96  # SGLang's have 64; a longer one is hashed


@dataclass(frozen=True)
class Identity:
    """What the pages of a deployment have in common. tp is not in it: see Shard."""

    tag: str
    model: str
    dtype: str
    page_size: int  # tokens
    layout: str
    pp_size: int
    cp_size: int


def namespace_of(identity: Identity) -> str:
    """The namespace's name: readable in front, exact by its digest. At most 96 characters."""
    content = json.dumps({"scheme": SCHEME, **asdict(identity)}, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", identity.model.rstrip("/").rpartition("/")[2])[:40]
    tag = re.sub(r"[^A-Za-z0-9._-]+", "-", identity.tag)[:24]
    return "/".join(part for part in ("sglang", tag, model, digest) if part)


@dataclass(frozen=True)
class Shard:
    """Which part of a page's content a rank holds."""

    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    cp_rank: int
    cp_size: int

    def name(self, replicated: bool) -> str:
        """`replicated`: all tensor-parallel ranks hold the same bytes (MLA)."""
        parts = [] if replicated else [f"t{self.tp_rank}of{self.tp_size}"]
        return "".join(parts + self._stage_and_context()) or "all"

    def head_name(self, part: int, parts: int) -> str:
        """Of one of `parts` groups of heads, counted over all ranks: the same for servers of
        different tp_size that agree on the number of parts."""
        return "".join([f"h{part}of{parts}", *self._stage_and_context()])

    def _stage_and_context(self) -> list[str]:
        parts = []
        if self.pp_size > 1:
            parts.append(f"p{self.pp_rank}of{self.pp_size}")
        if self.cp_size > 1:
            parts.append(f"c{self.cp_rank}of{self.cp_size}")
        return parts


def pool_name(
    name: str,
    layout: str,
    dtype: str,
    page_size: int,
    sizes: Sequence[int],
    draft_model: str = "",
) -> str:
    """`sizes`: bytes of each value of one page. Pools of another geometry never meet.

    `draft_model`: whose pages they are, beside those of the namespace's model.
    """
    content = json.dumps([layout, dtype, page_size, list(sizes), draft_model])
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def page_prefix(page_hash: str) -> str:
    if len(page_hash) <= MAX_HASH_CHARACTERS:
        return page_hash
    return hashlib.sha256(page_hash.encode()).hexdigest()

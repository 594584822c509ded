#!/usr/bin/env python3
"""How much memory and how many data servers hold the KV cache of so many tokens.

Examples:
  deploy/size.py --model deepseek-v3 --tokens 1e9 --server-memory 512GiB
  deploy/size.py --layers 80 --kv-heads 8 --head-dim 128 --tp 8 --page-size 64 --tokens 200M
  deploy/size.py --model llama-3-70b --tp 8 --page-size 32 --memory 2TiB      # the other way round

Tokens are distinct ones: a prefix that many requests share counts once. Plan for what should be
found again within its time: requests a second x new tokens a request x seconds.
"""

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass

GIB = 1 << 30
# Kept free by the evictor, on its way to writers, courtesy of readers: the pool's own bars
# (dataserver/README.md: 97.0 to 98.1 % of the data file in value bytes).
USABLE = 0.965
# Index: buckets of 1 KiB with 15 slots at a load of .35, overflow area and lease records.
INDEX_BYTES_A_VALUE = 1024 / 15 / 0.35 * 1.01
HEAD_BYTES = 64
KEY_BYTES = 80  # SGLang: 64 digits of the page's hash, rank, part
# What the process needs besides the pool, as the Helm chart reckons it.
PROCESS_BYTES = 192 << 20
BOOKKEEPING_BYTES_A_VALUE = 256


@dataclass(frozen=True)
class Model:
    """What of a model decides the size of its KV cache."""

    layers: int
    kv_heads: int = 0
    head_dim: int = 0
    latent: int = 0  # MLA: kv_lora_rank + qk_rope_head_dim, one vector for all heads

    @property
    def is_mla(self) -> bool:
        return self.latent > 0


# From the models' config.json: num_hidden_layers, num_key_value_heads, head_dim; for MLA
# kv_lora_rank + qk_rope_head_dim.
MODELS = {
    "deepseek-v3": Model(61, latent=512 + 64),
    "deepseek-v2-lite": Model(27, latent=512 + 64),
    "kimi-k2": Model(61, latent=512 + 64),
    "llama-3-8b": Model(32, 8, 128),
    "llama-3-70b": Model(80, 8, 128),
    "llama-3-405b": Model(126, 8, 128),
    "qwen2.5-7b": Model(28, 4, 128),
    "qwen2.5-72b": Model(80, 8, 128),
    "qwen3-8b": Model(36, 8, 128),
    "qwen3-32b": Model(64, 8, 128),
    "qwen3-235b-a22b": Model(94, 4, 128),
    "mistral-7b": Model(32, 8, 128),
}
KV_BYTES = {"bf16": 2, "fp16": 2, "fp8": 1, "fp32": 4}


@dataclass(frozen=True)
class Layout:
    """How a page of tokens lies in the cache."""

    page_size: int
    value_bytes: int
    values_a_page: int  # over all ranks

    def extent_bytes(self) -> int:
        """Head and key, then the value, each in whole 64 bytes (DESIGN 4)."""
        return round_up(HEAD_BYTES + KEY_BYTES, 64) + round_up(self.value_bytes, 64)

    def bytes_a_page(self) -> float:
        """Of --memory: data with what stays free, and index."""
        return self.values_a_page * (self.extent_bytes() / USABLE + INDEX_BYTES_A_VALUE)


def round_up(number: int, to: int) -> int:
    return -(-number // to) * to


def layout_of(model: Model, kv_bytes: int, page_size: int, tp: int) -> Layout:
    """MLA: one value a page, which all ranks share. Else K and V of each rank; with more ranks than
    KV heads, ranks hold copies of a head, each under its own key."""
    if model.is_mla:
        return Layout(page_size, model.layers * model.latent * kv_bytes * page_size, 1)
    heads = max(1, model.kv_heads // tp)
    return Layout(page_size, model.layers * heads * model.head_dim * kv_bytes * page_size, 2 * tp)


@dataclass(frozen=True)
class Plan:
    """What to set and to buy."""

    layout: Layout
    pages: int
    servers: int
    memory_a_server: int

    @property
    def tokens(self) -> int:
        return self.pages * self.layout.page_size

    @property
    def pod_limit(self) -> int:
        values = self.memory_a_server / self.layout.value_bytes
        return int(self.memory_a_server + PROCESS_BYTES + BOOKKEEPING_BYTES_A_VALUE * values)


def plan_for_tokens(layout: Layout, tokens: int, server_memory: int | None, spare: int) -> Plan:
    """`spare` servers more than needed: what may be away without a loss of room. Without a size of
    servers: one, as large as it must be."""
    pages = math.ceil(tokens / layout.page_size)
    total = pages * layout.bytes_a_page()
    # Shards are spread within 5 % of the fair share (DESIGN 3); the fullest server decides.
    total *= 1.05
    if server_memory is None:
        return Plan(layout, pages, 1 + spare, round_up(math.ceil(total), 1 << 20))
    return Plan(layout, pages, math.ceil(total / server_memory) + spare, server_memory)


def plan_for_memory(layout: Layout, memory: int, server_memory: int | None) -> Plan:
    """The tokens that fit into `memory` in all."""
    servers = 1 if server_memory is None else max(1, memory // server_memory)
    pages = int(memory / 1.05 / layout.bytes_a_page())
    return Plan(layout, pages, servers, memory // servers)


def size(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+)\s*([KMGTP]?)(i?B?)", text, re.I)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 64GiB or 1.5TiB")
    return int(float(match[1]) * 1024 ** " KMGTP".index(match[2].upper() or " "))


def count(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([KMGT]?)", text, re.I)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number such as 1e9 or 200M")
    number = int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}': at least 1")
    return number


def human(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.2f} TiB"


def parse(arguments: list[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        choices=sorted(MODELS),
        metavar="NAME",
        help="instead of the four below: " + ", ".join(sorted(MODELS)),
    )
    parser.add_argument("--layers", type=count)
    parser.add_argument("--kv-heads", type=count)
    parser.add_argument("--head-dim", type=count)
    parser.add_argument("--latent", type=count, help="MLA: kv_lora_rank + qk_rope_head_dim")
    parser.add_argument("--kv-dtype", choices=sorted(KV_BYTES), default="bf16")
    parser.add_argument("--page-size", type=count, default=64, help="tokens a page [64]")
    parser.add_argument("--tp", type=count, default=1, help="tensor parallel ranks [1]")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tokens", type=count, help="distinct tokens to hold, such as 1e9 or 200M")
    what.add_argument("--memory", type=size, help="of all data servers: how many tokens fit?")
    parser.add_argument("--server-memory", type=size, help="--memory of one data server")
    parser.add_argument("--spare", type=int, default=0, help="servers that may be away [0]")
    parser.add_argument("--json", action="store_true")
    return parser, parser.parse_args(arguments)


def model_of(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Model:
    if given.model:
        return MODELS[given.model]
    if given.layers and given.latent:
        return Model(given.layers, latent=given.latent)
    if given.layers and given.kv_heads and given.head_dim:
        return Model(given.layers, given.kv_heads, given.head_dim)
    parser.error(
        "which model? --model NAME, or --layers with --kv-heads and --head-dim (MHA, GQA) or "
        "with --latent (MLA)"
    )


def main(arguments: list[str]) -> int:
    parser, given = parse(arguments)
    model = model_of(parser, given)
    layout = layout_of(model, KV_BYTES[given.kv_dtype], given.page_size, given.tp)
    if layout.value_bytes > GIB:
        parser.error(f"--page-size {given.page_size}: a value of {human(layout.value_bytes)}, "
                     "more than the 1 GiB that is allowed")  # fmt: skip
    if given.tokens:
        plan = plan_for_tokens(layout, given.tokens, given.server_memory, given.spare)
    else:
        plan = plan_for_memory(layout, given.memory, given.server_memory)
    result = {
        "value_bytes": layout.value_bytes,
        "values_a_page": layout.values_a_page,
        "bytes_a_token": layout.value_bytes * layout.values_a_page / layout.page_size,
        "tokens": plan.tokens,
        "values": plan.pages * layout.values_a_page,
        "servers": plan.servers,
        "memory_a_server": plan.memory_a_server,
        "memory": plan.memory_a_server * plan.servers,
        "pod_limit": plan.pod_limit,
    }
    if given.json:
        print(json.dumps(result))
        return 0
    mean = f"{layout.value_bytes / 1024:.0f}KiB" if layout.value_bytes >= 1024 else "1KiB"
    print(
        f"a token:        {human(result['bytes_a_token'])}\n"
        f"a value:        {human(layout.value_bytes)} ({layout.value_bytes} B), "
        f"{layout.values_a_page} a page of {layout.page_size} tokens\n"
        f"tokens held:    {plan.tokens:,} in {result['values']:,} values\n"
        f"memory in all:  {human(result['memory'])}\n"
        f"each server:    --mean-value {mean}"
    )
    if given.server_memory:
        print(
            f"data servers:   {plan.servers} with --memory {plan.memory_a_server / GIB:.1f}GiB\n"
            f"a pod's limit:  {human(plan.pod_limit)} (the Helm chart computes it)"
        )
    else:
        print("data servers:   --server-memory SIZE says how many")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

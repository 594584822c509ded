"""SGLang's own host pools on CPU memory, small, for whichever release is under test.

Releases differ in how a host pool is made: older ones take the device pool, newer ones a
description of its buffers. Here both are made from the same few numbers.
"""

import inspect
import types
from dataclasses import dataclass

import sglang_release  # noqa: F401
import torch
from sglang.srt.mem_cache import memory_pool
from sglang.srt.mem_cache.memory_pool_host import LogicalHostPool
from sglang.srt.mem_cache.pool_host.mamba import MambaPoolHost
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

TAKES_DEVICE_POOL = "device_pool" in inspect.signature(MHATokenToKVPoolHost.__init__).parameters


@dataclass(frozen=True)
class Shape:
    """tokens: of the host pool, at least; the pool rounds up and may add a page."""

    tokens: int = 256
    page_size: int = 4
    layers: int = 3
    heads: int = 2
    head_dim: int = 8
    kv_lora_rank: int = 24
    rope_dim: int = 8
    dtype: torch.dtype = torch.bfloat16

    @property
    def mla_width(self):
        return self.kv_lora_rank + self.rope_dim


def device_pool(kind, shape):
    """What a host pool and the controller ask of the device pool; its class is SGLang's own."""
    pool = kind.__new__(kind)
    fields = {
        "size": 1,
        "device": "cpu",
        "dtype": shape.dtype,
        "store_dtype": shape.dtype,
        "page_size": shape.page_size,
        "layer_num": shape.layers,
        "start_layer": 0,
        "end_layer": shape.layers - 1,
        "head_num": shape.heads,
        "head_dim": shape.head_dim,
        "v_head_dim": shape.head_dim,
        "kv_lora_rank": shape.kv_lora_rank,
        "qk_rope_head_dim": shape.rope_dim,
        "kv_cache_dim": shape.mla_width,
        "layer_shard_enabled": False,
        "dsa_kv_cache_store_fp8": False,
        "use_dsa": False,
        "data_ptrs": torch.zeros(shape.layers, dtype=torch.int64),
        "kv_buffer": [torch.zeros(1) for _ in range(shape.layers)],
    }
    for name, value in fields.items():
        object.__setattr__(pool, name, value)
    return pool


def mha(shape=Shape(), layout="page_first"):
    """Keys and values apart: two values a page."""
    if TAKES_DEVICE_POOL:
        source = device_pool(memory_pool.MHATokenToKVPool, shape)
    else:
        source = _mha_info(shape)
    return _host(MHATokenToKVPoolHost, source, shape, layout)


def mla(shape=Shape(), layout="page_first"):
    """One latent vector a token: one value a page, the same on all tensor-parallel ranks."""
    if TAKES_DEVICE_POOL:
        source = device_pool(memory_pool.MLATokenToKVPool, shape)
    else:
        source = _mla_info(shape)
    return _host(MLATokenToKVPoolHost, source, shape, layout)


def _host(kind, source, shape, layout):
    if TAKES_DEVICE_POOL:
        return kind(source, shape.tokens, 0, shape.page_size, layout, pin_memory=False)
    more = {"target_layer_num": shape.layers} if kind is MLATokenToKVPoolHost else {}
    return kind(
        source,
        shape.tokens,
        0,
        shape.page_size,
        layout,
        pin_memory=False,
        device_capacity_tokens=1,
        start_layer=0,
        end_layer=shape.layers - 1,
        **more,
    )


def _mha_info(shape):
    from sglang.srt.mem_cache.device_pool_info import KVBufferLayout, KVBuffers, MHABufferInfo

    rows = tuple(
        torch.zeros((1, shape.heads, shape.head_dim), dtype=shape.dtype)
        for _ in range(shape.layers)
    )
    pointers = torch.zeros(shape.layers, dtype=torch.int64)
    return MHABufferInfo(
        buffers=KVBuffers(
            k=rows, v=rows, k_data_ptrs=pointers, v_data_ptrs=pointers, layout=KVBufferLayout.NHD
        ),
        page_size=shape.page_size,
        head_num=shape.heads,
        head_dim=shape.head_dim,
        v_head_dim=shape.head_dim,
        dtype=shape.dtype,
        device=torch.device("cpu"),
    )


def _mla_info(shape):
    from sglang.srt.mem_cache.device_pool_info import MLABufferInfo

    return MLABufferInfo(
        buffers=tuple(
            torch.zeros((1, 1, shape.mla_width), dtype=shape.dtype) for _ in range(shape.layers)
        ),
        data_ptrs=torch.zeros(shape.layers, dtype=torch.int64),
        layer_indices=tuple(range(shape.layers)),
        device_layer_num=shape.layers,
        page_size=shape.page_size,
        kv_lora_rank=shape.kv_lora_rank,
        qk_rope_head_dim=shape.rope_dim,
        kv_cache_dim=shape.mla_width,
        dtype=shape.dtype,
        device=torch.device("cpu"),
    )


def mamba(slots=64, layers=2, layout="page_first"):
    """A recurrent state and two convolution states: three values a page of one slot."""
    temporal = torch.zeros((layers, 1, 4, 8), dtype=torch.float32)
    conv = (
        torch.zeros((layers, 1, 6), dtype=torch.bfloat16),
        torch.zeros((layers, 1, 10), dtype=torch.bfloat16),
    )
    if not TAKES_DEVICE_POOL:
        from sglang.srt.mem_cache.device_pool_info import MambaStateBufferInfo

        info = MambaStateBufferInfo(temporal=temporal, conv=conv)
        return MambaPoolHost(info, slots, 0, device_capacity=1, pin_memory=False, layout=layout)
    pool = types.SimpleNamespace(
        num_mamba_layers=layers,
        mamba_cache=types.SimpleNamespace(temporal=temporal, conv=list(conv)),
        size=1,
        device="cpu",
    )
    return MambaPoolHost(pool, slots, 0, pin_memory=False, layout=layout)


def logical(shape=Shape()):
    """An anchor without bytes."""
    return LogicalHostPool(shape.tokens, shape.page_size)


def indices_of(pool, pages, first=0):
    """Host indices of consecutive pages."""
    size = pool.page_size
    return torch.arange(first * size, (first + pages) * size, dtype=torch.int64)


def fill(pool, seed):
    """Random bytes in all of the pool's tensors."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors_of(pool):
        raw = bytes_of(tensor)
        raw.copy_(torch.randint(0, 256, raw.shape, dtype=torch.uint8, generator=generator))


def wipe(pool):
    for tensor in tensors_of(pool):
        bytes_of(tensor).zero_()


def tensors_of(pool):
    if isinstance(pool, MambaPoolHost):
        return [pool.temporal_buffer, *pool.conv_buffer]
    return [pool.kv_buffer]


def bytes_of(tensor):
    """All bytes of a contiguous tensor, as a view."""
    flat = tensor.view(-1)
    return flat.view(torch.uint8)


def page_bytes(pool, index):
    """The content of one page as SGLang itself reads it."""
    page = pool.get_data_page(index * pool.page_size, flat=True).contiguous()
    return bytes(page.view(-1).view(torch.uint8).tolist())

"""Imports SGLang's own, unmodified HiCache files on a machine without a GPU.

`use(path)` puts a copy of SGLang (installed with `pip install --no-deps --target path`) in front
and answers for what those files import but what cannot be had here. Everything below
`sglang.srt.mem_cache`, `sglang.srt.managers.cache_controller`, `sglang.srt.environ` and
`sglang.srt.constants` is SGLang's own. STUBBED names the rest, each with its reason; the README of
simm.sglang repeats the list.

A stub lets itself be imported, subclassed and used as a decorator. Calling one that is not given a
meaning here raises, so a test cannot pass on a stub's answer by accident.
"""

import ctypes
import functools
import gc
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import struct
import sys
import types
from pathlib import Path

import torch

# Module (and all below it) -> why it is not SGLang's own.
STUBBED = {
    "triton": "compiler for GPU kernels",
    "sgl_kernel": "GPU kernels",
    "sglang.kernels": "GPU kernels (device to host copies, quantization)",
    "sglang.srt.layers": "the model's layers; import GPU libraries",
    "sglang.srt.configs": "model configurations; import transformers",
    "sglang.srt.platforms": "finds the accelerator",
    "sglang.srt.distributed": "needs a process group on GPUs; replaced by one rank",
    "sglang.srt.runtime_context": "state of a running server; replaced by one rank without options",
    "sglang.srt.server_args": "imports transformers",
    "sglang.srt.utils": "imports transformers and FlashInfer; what is used here is given below",
    "sglang.srt.model_executor": "runs the model",
    "sglang.srt.disaggregation": "transfers between servers",
    "sglang.srt.speculative": "draft models; imports GPU libraries",
    "sglang.srt.managers.schedule_batch": "the scheduler; imports the model's layers",
    "sglang.srt.mem_cache.cpp_utils.native_hash": "C++ built at run time; here SHA-256 in Python",
    "sglang.srt.mem_cache.kv_vmm_backing": "virtual memory of a GPU",
}
# SGLang's own, executed as they are.
OWN = (
    "sglang.srt.mem_cache",
    "sglang.srt.managers.cache_controller",
    "sglang.srt.environ",
    "sglang.srt.constants",
    "sglang.srt.observability",
)
# Packages of SGLang whose __init__ imports the whole server: only their folder is used.
BARE_PACKAGES = ("sglang", "sglang.srt", "sglang.srt.managers", "sglang.srt.observability")


class Stub:
    """A name that exists and does nothing."""

    def __init__(self, name):
        self.__name__ = self.__qualname__ = self._stub_name = name

    def __getattr__(self, name):
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Stub(f"{self._stub_name}.{name}")

    def __mro_entries__(self, bases):
        return (object,)

    def __getitem__(self, item):
        return self

    def __or__(self, other):
        return self

    __ror__ = __or__

    def __hash__(self):
        return hash(self._stub_name)

    def __call__(self, *args, **kwargs):
        # As a decorator, or a factory of decorators, it leaves the function as it is.
        if len(args) == 1 and not kwargs and isinstance(args[0], (types.FunctionType, type)):
            return args[0]
        if DECORATOR_FACTORIES & {self._stub_name.rpartition(".")[2]}:
            return lambda function: function
        if QUESTION.search(self._stub_name):
            return False  # there is no such device, kernel or processor
        raise NotImplementedError(f"{self._stub_name} is a stub of the tests")


QUESTION = re.compile(r"(^|[._])(is|has|can|supports)_\w*$")
DECORATOR_FACTORIES = {"jit", "autotune", "heuristics", "register_custom_op", "debug_kernel_api"}


class StubModule(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Stub(f"{self.__name__}.{name}")


class StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for STUBBED and for the packages whose __init__ is left out."""

    def __init__(self, root):
        self.root = Path(root)

    def find_spec(self, name, path=None, target=None):
        if name in BARE_PACKAGES:
            spec = importlib.machinery.ModuleSpec(name, self, is_package=True)
            spec.submodule_search_locations = [str(self.root.joinpath(*name.split(".")))]
            return spec
        if self.is_stubbed(name):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    @staticmethod
    def is_stubbed(name):
        return any(name == stub or name.startswith(stub + ".") for stub in STUBBED)

    def create_module(self, spec):
        if spec.name in BARE_PACKAGES:
            return None
        return StubModule(spec.name)

    def exec_module(self, module):
        for name, value in GIVEN.get(module.__name__, {}).items():
            setattr(module, name, value)


class HostEvent:
    """An event of a device whose work is done when the call returns."""

    def __init__(self, enable_timing=False):
        self.enable_timing = enable_timing

    def record(self, stream=None):
        pass

    def wait(self, stream=None):
        pass

    def query(self):
        return True

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 0.0


class HostStream:
    def wait_event(self, event):
        pass

    def wait_stream(self, stream):
        pass

    def synchronize(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return False


def host_device_module():
    """What torch.cpu became in torch 2: streams and events that do not wait."""
    module = types.ModuleType("host_device")
    module.Event = HostEvent
    module.Stream = HostStream
    module.stream = lambda stream: stream
    module.current_stream = HostStream
    module.synchronize = lambda: None
    return module


class OneRank:
    """The parallel state of a server with one rank; tests change the numbers."""

    def __init__(self):
        for name in ("tp", "attn_tp", "attn_dp", "attn_cp", "attn_dcp", "pp"):
            setattr(self, f"{name}_rank", 0)
            setattr(self, f"{name}_size", 1)
        self.launch_world_size = self.nnodes = 1


PARALLEL = OneRank()


def native_hash(token_ids, prior_digest=None, page_size=None):
    """SHA-256 over the previous digest and the tokens as 4-byte little-endian; one a page."""
    tokens = list(token_ids)

    def digest(part, prior):
        hasher = hashlib.sha256(prior or b"")
        for token in part:
            for number in token if isinstance(token, tuple) else (token,):
                hasher.update(struct.pack("<I", number))
        return hasher.digest()

    if page_size is None:
        return digest(tokens, prior_digest).hex()
    pages = []
    for start in range(0, len(tokens) - page_size + 1, page_size):
        prior_digest = digest(tokens[start : start + page_size], prior_digest)
        pages.append(prior_digest.hex())
    return pages


def never(*args, **kwargs):
    return False


def nothing(*args, **kwargs):
    return None


class NoOptions:
    """Options of a server that was started with none: each is absent."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None


SERVER_ARGUMENTS = types.SimpleNamespace(kv_cache_dtype="auto")
_UTILS = {
    **dict.fromkeys(("is_cuda", "is_hip", "is_mps", "is_npu", "is_xpu", "is_musa"), never),
    **dict.fromkeys(("is_cpu", "is_host_cpu_x86"), lambda: True),
    "get_device_module": host_device_module,
    "get_bool_env_var": never,
    "get_int_env_var": lambda name, default=0: default,
}
# Stubs with a meaning: module -> name -> value.
GIVEN = {
    "sglang.srt.utils": _UTILS,
    "sglang.srt.utils.common": _UTILS,
    "sglang.srt.layers.dp_attention": {"is_dp_attention_enabled": never},
    "sglang.srt.layers.dcp.layout": {"maybe_dcp_kernel_indices": lambda indices, *rest: indices},
    "sglang.srt.runtime_context": {
        "get_parallel": lambda: PARALLEL,
        "get_memory": NoOptions,
        "get_server_args": lambda: SERVER_ARGUMENTS,
        "get_platform": NoOptions,
    },
    "sglang.srt.mem_cache.cpp_utils.native_hash": {"get_native_hash": native_hash},
    "sglang.kernels.ops.kvcache.hicache": {
        "can_use_hicache_jit_kernel": never,
        "can_use_write_back_jit_kernel": never,
    },
    "sglang.kernels.ops.quantization.fp8_kernel": {"fp8_dtype": torch.uint8, "is_fp8_fnuz": never},
}


def shim_torch():
    """What SGLang's files take from torch 2 and Debian 12's torch 1.13 lacks."""
    if not hasattr(torch.dtype, "itemsize"):
        # torch.dtype is a type of C: its dictionary is reached through the garbage collector.
        members = gc.get_referents(torch.dtype.__dict__)[0]
        size_of = functools.cache(lambda dtype: torch.empty((), dtype=dtype).element_size())
        members["itemsize"] = property(size_of)
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(torch.dtype))
    if not hasattr(torch.Tensor, "nbytes"):
        torch.Tensor.nbytes = property(lambda self: self.numel() * self.element_size())
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"):
        if not hasattr(torch, name):
            setattr(torch, name, torch.uint8)
    for name, kin in (("uint16", "int16"), ("uint32", "int32"), ("uint64", "int64")):
        if not hasattr(torch, name):  # of the same width: they hold addresses and counts
            setattr(torch, name, getattr(torch, kin))
    if not hasattr(torch, "get_device_module"):
        torch.get_device_module = lambda device=None: host_device_module()


def use(path):
    """Puts the SGLang under `path` in front. Once a process."""
    root = Path(path)
    if not (root / "sglang/srt/mem_cache/hicache_storage.py").is_file():
        raise FileNotFoundError(
            f"{root} holds no SGLang: pip install --no-deps --target {root} sglang"
        )
    for finder in sys.meta_path:
        if isinstance(finder, StubFinder):
            if finder.root != root:
                raise RuntimeError(f"this process uses the SGLang of {finder.root} already")
            return
    shim_torch()
    sys.meta_path.insert(0, StubFinder(root))

"""SiMM as SGLang's HiCache storage: `--hicache-storage-backend dynamic`, class HiCacheSimm."""

from simm.sglang.config import Config, ConfigError
from simm.sglang.pools import UnservedPool
from simm.sglang.storage import HiCacheSimm

__all__ = ["Config", "ConfigError", "HiCacheSimm", "UnservedPool"]

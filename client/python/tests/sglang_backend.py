"""Backends on a fake cluster, as SGLang would make them: what the tests of simm.sglang share."""

import sys
import types

import fake_native
import pytest
import sglang_release  # noqa: F401
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from simm.sglang import HiCacheSimm
from simm.sglang.config import ADDRESS_VARIABLE, FILE_VARIABLES

ADDRESS = "127.0.0.1:30001"


def storage_config(extra=None, **changes):
    """What SGLang's controller hands to a backend. `extra`: keys of extra_config."""
    values = {
        "tp_rank": 0,
        "tp_size": 1,
        "pp_rank": 0,
        "pp_size": 1,
        "attn_cp_rank": 0,
        "attn_cp_size": 1,
        "is_mla_model": False,
        "enable_storage_metrics": False,
        "is_page_first_layout": True,
        "model_name": "org/model-8b",
        "extra_config": {"manager_address": ADDRESS, **(extra or {})},
    }
    return HiCacheStorageConfig(**{**values, **changes})


def hashes(count, salt=""):
    """Page names as SGLang's: 64 hexadecimal digits."""
    import hashlib

    return [hashlib.sha256(f"{salt}{i}".encode()).hexdigest() for i in range(count)]


class Hands:
    """The hands of a backend's clock: they move by what a call is said to take, and not else."""

    def __init__(self, backend, cluster):
        self.now = self.seconds_a_call = 0.0
        backend._link.transfer._clock = lambda: self.now
        client = cluster.clients[-1]
        for name in ("get", "put", "exists"):
            setattr(client, name, self._taking_time(getattr(client, name)))

    def _taking_time(self, call):
        def called(*arguments):
            self.now += self.seconds_a_call
            return call(*arguments)

        return called


@pytest.fixture
def cluster(monkeypatch):
    """A FakeCluster behind simm._native."""
    made = fake_native.FakeCluster()
    module = types.ModuleType("simm._native")
    module.CODES = fake_native.CODES
    module.NativeClient = made.client
    monkeypatch.setitem(sys.modules, "simm._native", module)
    for variable in (ADDRESS_VARIABLE, *FILE_VARIABLES, "SICL_NET_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return made


@pytest.fixture
def backend_of(cluster):
    """backend_of(pool, extra, **changes of the storage config): a backend with its pool."""
    made = []

    def make(pool, extra=None, **changes):
        backend = HiCacheSimm(storage_config(extra, **changes), {})
        made.append(backend)
        backend.register_mem_pool_host(pool)
        cluster.calls.clear()  # the values with which it tried the servers
        return backend

    yield make
    for backend in made:
        backend.close()

"""simm._native without a cluster: the same answers from a dictionary, and faults on demand.

Values are copied from and to the given addresses, so a wrong address or size shows as wrong bytes
(or a crash), as with the real one.
"""

import ctypes
import threading
import time

CODES = {
    "OK": 0,
    "MISS": 1,
    "EXISTS": 2,
    "INVALID_ARGUMENT": 3,
    "TOO_LARGE": 4,
    "LENGTH_MISMATCH": 5,
    "DEADLINE_EXCEEDED": 6,
    "UNAVAILABLE": 7,
    "BUSY": 8,
}


class FakeCluster:
    """What all fake clients of a test share: entries by (namespace, key), calls, and faults."""

    def __init__(self):
        self.entries = {}
        self.lock = threading.Lock()
        self.calls = []  # (name, number of keys, deadline_ms)
        self.dead = False  # no server answers: misses and UNAVAILABLE, at once
        self.silent = False  # nothing answers: each call lasts for its deadline
        self.delay_s = 0.0
        self.error = None  # raised by each call
        self.refuse_memory = False
        self.clients = []

    def client(self, addresses, namespace="default", **options):
        client = FakeNativeClient(self, addresses, namespace, **options)
        self.clients.append(client)
        return client

    def keys(self, namespace):
        return sorted(key for space, key in self.entries if space == namespace)

    def namespaces(self):
        return sorted({space for space, _ in self.entries})


class FakeNativeClient:
    def __init__(self, cluster, addresses, namespace, **options):
        if not isinstance(addresses, list) or not addresses:
            raise TypeError("addresses must be a list of str")
        self.cluster = cluster
        self.addresses = addresses
        self.namespace = namespace
        self.options = options
        self.memory = {}
        self.closed = False

    def _begin(self, name, keys, deadline_ms):
        if self.closed:
            raise RuntimeError("the client is closed")
        assert isinstance(deadline_ms, int) and deadline_ms > 0
        assert all(isinstance(key, str) and 0 < len(key.encode()) <= 256 for key in keys)
        cluster = self.cluster
        cluster.calls.append((name, len(keys), deadline_ms))
        if cluster.error is not None:
            raise cluster.error
        if cluster.silent:
            time.sleep(deadline_ms / 1000)
        elif cluster.delay_s:
            time.sleep(cluster.delay_s)
        return cluster.dead or cluster.silent

    def put(self, keys, addresses, sizes, deadline_ms, replace=False, **options):
        assert len(keys) == len(addresses) == len(sizes)
        away = self._begin("put", keys, deadline_ms)
        if away:
            late = "DEADLINE_EXCEEDED" if self.cluster.silent else "UNAVAILABLE"
            return [CODES[late]] * len(keys)
        codes = []
        with self.cluster.lock:
            for key, address, size in zip(keys, addresses, sizes):
                there = (self.namespace, key) in self.cluster.entries
                if there and not replace:
                    codes.append(CODES["EXISTS"])
                    continue
                self.cluster.entries[self.namespace, key] = ctypes.string_at(address, size)
                codes.append(CODES["OK"])
        return codes

    def get(self, keys, addresses, sizes, deadline_ms, allow_shorter=False):
        assert len(keys) == len(addresses) == len(sizes)
        away = self._begin("get", keys, deadline_ms)
        codes, lengths = [], []
        with self.cluster.lock:
            for key, address, size in zip(keys, addresses, sizes):
                value = None if away else self.cluster.entries.get((self.namespace, key))
                if value is None:
                    codes.append(CODES["MISS"])
                    lengths.append(0)
                elif len(value) > size or (len(value) < size and not allow_shorter):
                    codes.append(CODES["LENGTH_MISMATCH"])
                    lengths.append(len(value))
                else:
                    ctypes.memmove(address, value, len(value))
                    codes.append(CODES["OK"])
                    lengths.append(len(value))
        return codes, lengths

    def exists(self, keys, deadline_ms):
        away = self._begin("exists", keys, deadline_ms)
        with self.cluster.lock:
            there = [not away and (self.namespace, key) in self.cluster.entries for key in keys]
        return [CODES["OK"] if present else CODES["MISS"] for present in there]

    def clear_namespace(self, deadline_ms):
        self._begin("clear_namespace", [], deadline_ms)
        with self.cluster.lock:
            mine = [entry for entry in self.cluster.entries if entry[0] == self.namespace]
            for entry in mine:
                del self.cluster.entries[entry]
        return len(mine)

    def register_memory(self, address, size):
        if self.cluster.refuse_memory:
            raise MemoryError("the limit of locked memory is 64 KiB")
        for start, length in self.memory.values():
            assert address + size <= start or start + length <= address, "overlaps"
        handle = len(self.memory) + 1
        self.memory[handle] = (address, size)
        return handle

    def deregister_memory(self, handle):
        del self.memory[handle]

    def servers(self):
        return [{"name": "fake", "address": "127.0.0.1:1", "breaker": "closed"}]

    def close(self):
        self.closed = True

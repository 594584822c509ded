from typing import Any, Callable, Sequence, TypedDict, Union

CODES: dict[str, int]
VERSION: str

_Keys = Sequence[Union[str, bytes]]

class _Server(TypedDict):
    name: str
    address: str
    transport: str
    transport_reason: str
    breaker: str
    connections: int

class _Location(TypedDict):
    shard: int
    server: str
    address: str
    hash: str
    replicas: list[str]
    source: str
    replica_sources: list[str]
    epoch: int

class NativeClient:
    def __init__(
        self,
        addresses: Sequence[str],
        namespace: str = "default",
        transport: str = "auto",
        verify: str = "always",
        connect_timeout_ms: int = 10000,
        max_lanes_per_server: int = 16,
        *,
        rdma_devices: Sequence[str] = (),
        numa_node: int = -1,
        metrics_listen: str = "",
        slow_op_ms: int = -1,
    ) -> None: ...
    def put(
        self,
        keys: _Keys,
        addresses: Sequence[int],
        sizes: Sequence[int],
        deadline_ms: int,
        replace: bool = False,
        *,
        ttl_ms: int = 0,
        write_quorum: int = 1,
    ) -> list[int]: ...
    def get(
        self,
        keys: _Keys,
        addresses: Sequence[int],
        sizes: Sequence[int],
        deadline_ms: int,
        allow_shorter: bool = False,
    ) -> tuple[list[int], list[int]]: ...
    def exists(self, keys: _Keys, deadline_ms: int) -> list[int]: ...
    def exists_flags(self, keys: _Keys, deadline_ms: int) -> list[bool]: ...
    def remove(self, keys: _Keys, deadline_ms: int) -> list[int]: ...
    def touch(self, keys: _Keys, deadline_ms: int) -> list[int]: ...
    def put_async(
        self,
        keys: _Keys,
        addresses: Sequence[int],
        sizes: Sequence[int],
        deadline_ms: int,
        replace: bool,
        callback: Callable[[list[int]], Any],
        *,
        ttl_ms: int = 0,
        write_quorum: int = 1,
    ) -> None: ...
    def get_async(
        self,
        keys: _Keys,
        addresses: Sequence[int],
        sizes: Sequence[int],
        deadline_ms: int,
        allow_shorter: bool,
        callback: Callable[[list[int], list[int]], Any],
    ) -> None: ...
    def exists_async(
        self, keys: _Keys, deadline_ms: int, callback: Callable[[list[int]], Any]
    ) -> None: ...
    def remove_async(
        self, keys: _Keys, deadline_ms: int, callback: Callable[[list[int]], Any]
    ) -> None: ...
    def clear_namespace(self, deadline_ms: int) -> int: ...
    def register_memory(self, address: int, size: int) -> int: ...
    def deregister_memory(self, handle: int) -> None: ...
    def servers(self) -> list[_Server]: ...
    def metrics_address(self) -> str: ...
    def stats(self) -> dict[str, int]: ...
    def locate(self, key: Union[str, bytes]) -> _Location: ...
    def close(self) -> None: ...

def buffer_address(view: memoryview) -> int: ...
def set_log_level(level: str) -> None: ...
def gather(addresses: Sequence[int], sizes: Sequence[int], target: int) -> None: ...
def scatter(addresses: Sequence[int], sizes: Sequence[int], source: int) -> None: ...

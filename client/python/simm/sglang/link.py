"""The way from a backend to its cluster: the native client, made near the host pool's memory."""

import logging
import os
import time
from dataclasses import dataclass
from typing import Any

from simm.sglang import nic
from simm.sglang.config import Config
from simm.sglang.guards import Breaker, NegativeCache
from simm.sglang.shared import SharedReads
from simm.sglang.transfer import Transfer, milliseconds
from simm.sglang.values import NamedValues

logger = logging.getLogger("simm.sglang")

ROADS_SECONDS = 5.0  # how long what servers() says about transports is taken as true
PROBE_KEYS = 16
PROBE_DEADLINE_MS = 250


@dataclass
class Link:
    """From the registration of the host pool to the backend's close. Thread-safe."""

    client: Any
    transfer: Transfer
    values: NamedValues
    shared: SharedReads | None  # only where several ranks read the same
    ranks: int = 1
    _pays: bool = False
    _roads_seen: float = -ROADS_SECONDS

    def close(self) -> None:
        """Disconnects and frees what was shared. Idempotent."""
        if self.shared is not None:
            self.shared.close()
        self.client.close()

    def probe(self) -> bool:
        """Whether any data server takes a value."""
        return self.values.probe(PROBE_KEYS, PROBE_DEADLINE_MS)

    def servers(self) -> str:
        """The data servers to which there are connections, for people."""
        known = [f"{server['name']} ({server['address']})" for server in self.client.servers()]
        return ", ".join(known) or "no server"

    def sharing_pays(self, wanted: str) -> bool:
        """Whether a copy from another rank is cheaper than the road to the data servers.

        `wanted`: the setting share_reads. Over shared memory it saves checksums and traffic of
        memory, but makes one wait for another: it pays where ranks wait for processors anyway.
        """
        if self.shared is None or not self.shared.usable:
            return False
        if wanted != "auto":
            return wanted == "on"
        now = time.monotonic()
        if now - self._roads_seen > ROADS_SECONDS:
            self._roads_seen = now
            roads = [server.get("transport") for server in self.client.servers()]
            busy = len(os.sched_getaffinity(0)) < self.ranks
            self._pays = "tcp" in roads or (busy and "shm" in roads)
        return self._pays


def connect(
    config: Config,
    namespace: str,
    memory: list[tuple[int, int]],
    ranks: int,
    breaker: Breaker,
    negative: NegativeCache,
) -> Link:
    """Makes the native client. `memory`: address and bytes of the host pool's tensors; `ranks`: the
    tensor-parallel ones. simm.errors.SimmError: nobody answers, or an option cannot work."""
    from simm._native import CODES, NativeClient

    node = nic.node_of_memory(memory[0][0]) if memory else None
    found = nic.devices()
    devices = _of_user(config) or nic.near(node, found)
    options: dict[str, Any] = {
        "namespace": namespace,
        "transport": config.transport,
        "verify": config.verify,
        "connect_timeout_ms": milliseconds(config.connect_timeout_s),
        "max_lanes_per_server": config.max_lanes_per_server,
    }
    if devices:
        options["rdma_devices"] = list(devices)
    if found and node is not None:
        options["numa_node"] = node
    client = nic.run_near(node, lambda: NativeClient(list(config.manager_address), **options))
    logger.info("NUMA node of the host pool: %s; RDMA devices: %s", node, devices or "any")
    return Link(
        client,
        Transfer(client, CODES, breaker, negative, config.step_bytes),
        NamedValues(client, CODES),
        SharedReads(namespace) if ranks > 1 else None,
        ranks,
    )


def _of_user(config: Config) -> tuple[str, ...]:
    named = os.environ.get("SICL_NET_DEVICES", "")
    return config.devices or tuple(name.strip() for name in named.split(",") if name.strip())

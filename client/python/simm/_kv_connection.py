"""What the Stores of a process share: one connection per settings, and the registered memory."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Optional

from simm import _native
from simm._flags import Flags, LogFile, Settings
from simm.errors import SimmError

_log = logging.getLogger("simm.kv")
# Reentrant: a Block may be collected, and its memory deregistered, in the middle of anything.
_lock = threading.RLock()
_connecting = threading.Lock()  # taken before _lock
_log_file = LogFile()


class MemoryRegion:
    """Registered memory, a handle for deregister_mr. Registered with every connection there is."""

    def __init__(self, address: int, size: int, owner: object) -> None:
        self.address = address
        self.size = size
        self._owner = owner
        self.registrations = 1  # of the same memory; the last deregister_mr counts
        self.handles: weakref.WeakKeyDictionary[Connection, int] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"MemoryRegion({self.size} bytes at {self.address:#x})"


class Connection:
    """A native client; lives as long as a Store or a Block uses it."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self.deadline_ms = settings.deadline_ms
        self.put_existing = settings.put_existing
        self.write_quorum = settings.write_quorum
        self.native = _native.NativeClient(
            list(settings.addresses),
            settings.namespace,
            settings.transport,
            settings.verify,
            settings.connect_timeout_ms,
            rdma_devices=list(settings.rdma_devices),
        )


_connections: weakref.WeakValueDictionary[Settings, Connection] = weakref.WeakValueDictionary()
# Until deregister_mr: connections that come later register it too.
_regions: set[MemoryRegion] = set()


def connection_of(flags: Flags) -> Connection:
    """The connection for the flags as they are now; raises SimmError."""
    _log_file.follow(flags.log_file())
    settings = flags.settings()
    with _connecting:
        connection = _connections.get(settings)
        if connection is not None and connection.pid == os.getpid():
            return connection
        connection = Connection(settings)
        with _lock:
            _connections[settings] = connection
            for region in list(_regions):
                _register_with(connection, region)
        return connection


def _register_with(connection: Connection, region: MemoryRegion) -> Optional[SimmError]:
    try:
        region.handles[connection] = connection.native.register_memory(region.address, region.size)
        return None
    except SimmError as error:
        return error


def register(
    address: int, size: int, owner: object, only: Optional[Connection] = None
) -> Optional[MemoryRegion]:
    """With all connections there are and will be, or with one. None: none of them took it."""
    region = MemoryRegion(address, size, owner)
    with _lock:
        # The same memory once more, as after a backend was detached and attached again.
        for known in _regions if only is None else ():
            if (known.address, known.size) == (address, size):
                known.registrations += 1
                return known
        connections = [only] if only is not None else list(_connections.values())
        errors = [_register_with(connection, region) for connection in connections]
        # Connections to one cluster share what is registered, and the second one says so: one that
        # took it is enough.
        if errors and all(errors):
            _log.warning("%s is not registered: %s", region, errors[0])
            return None
        if only is None:
            _regions.add(region)
    return region


def deregister(region: MemoryRegion) -> None:
    """Raises FailedPrecondition while a call uses it."""
    with _lock:
        if region.registrations > 1:
            region.registrations -= 1
            return
        _forget(region)
        _regions.discard(region)


def release(region: MemoryRegion) -> None:
    """For memory that is going, whatever the state of its connections."""
    try:
        deregister(region)
    except SimmError as error:
        _log.debug("%s: %s", region, error)


def _forget(region: MemoryRegion) -> None:
    for connection, handle in list(region.handles.items()):
        connection.native.deregister_memory(handle)
        del region.handles[connection]

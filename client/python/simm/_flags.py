"""The options of simm.kv, as strings by name."""

from __future__ import annotations

import logging
import os
import threading
from typing import Callable, NamedTuple, Optional

from simm._put_options import MOST_QUORUM
from simm.errors import InvalidArgument

_log = logging.getLogger("simm.kv")

_DEFAULTS = {
    "cm_primary_node_ip": "",
    "cm_primary_node_port": "",
    "clnt_log_file": "",
    "clnt_thread_pool_size": "10",
    "clnt_namespace": "default",
    "clnt_transport": "auto",
    "clnt_verify": "always",
    "clnt_deadline_ms": "1500",
    "clnt_connect_timeout_ms": "10000",
    "clnt_put_existing": "ok",
    "clnt_write_quorum": "1",
}


class Settings(NamedTuple):
    """What the flags come to; equal settings share a connection."""

    addresses: tuple[str, ...]
    namespace: str
    transport: str
    verify: str
    deadline_ms: int
    connect_timeout_ms: int
    put_existing: str
    write_quorum: int
    rdma_devices: tuple[str, ...]


class Flags:
    """Set by name at any time, read when a Store is created. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = dict(_DEFAULTS)

    def set(self, name: str, value: str) -> None:
        if name not in _DEFAULTS:
            _log.warning("flag %r is unknown and has no effect; known: %s", name,
                         ", ".join(_DEFAULTS))  # fmt: skip
            return
        with self._lock:
            self._values[name] = str(value)

    def log_file(self) -> str:
        with self._lock:
            return self._values["clnt_log_file"]

    def settings(self) -> Settings:
        """Raises InvalidArgument, with the name of the flag that is wrong."""
        with self._lock:
            values = dict(self._values)
        _number(values, "clnt_thread_pool_size", 1, 1024)
        _choice(values, "clnt_put_existing", ("ok", "error", "replace"))
        devices = os.environ.get("SICL_NET_DEVICES", "")
        return Settings(
            addresses=_addresses(values),
            namespace=values["clnt_namespace"],
            transport=values["clnt_transport"],
            verify=values["clnt_verify"],
            deadline_ms=_number(values, "clnt_deadline_ms", 1, 3_600_000),
            connect_timeout_ms=_number(values, "clnt_connect_timeout_ms", 1, 3_600_000),
            put_existing=values["clnt_put_existing"],
            write_quorum=_number(values, "clnt_write_quorum", 1, MOST_QUORUM),
            rdma_devices=tuple(part.strip() for part in devices.split(",") if part.strip()),
        )


def _number(values: dict[str, str], name: str, least: int, most: int) -> int:
    number: Optional[int] = None
    try:
        number = int(values[name])
    except ValueError:
        pass
    if number is None or not least <= number <= most:
        raise InvalidArgument(f"flag {name}={values[name]!r} is not a number of {least} to {most}")
    return number


def _choice(values: dict[str, str], name: str, allowed: tuple[str, ...]) -> None:
    if values[name] not in allowed:
        raise InvalidArgument(f"flag {name}={values[name]!r}: allowed: {', '.join(allowed)}")


def _addresses(values: dict[str, str]) -> tuple[str, ...]:
    ip, port = values["cm_primary_node_ip"], values["cm_primary_node_port"]
    if not ip and not port:
        named = os.environ.get("SIMM_CLUSTER_MANAGER", "")
        if not named:
            raise InvalidArgument(
                "no manager: set_flag('cm_primary_node_ip', ...) and "
                "set_flag('cm_primary_node_port', '30001'), or set SIMM_CLUSTER_MANAGER"
            )
        return tuple(part.strip() for part in named.split(",") if part.strip())
    if not ip or ip == "[":
        raise InvalidArgument(
            f"flag cm_primary_node_ip={ip!r} is no address (IPv6 is written without brackets)"
        )
    number = _number(values, "cm_primary_node_port", 1, 65535)
    bare = ip.strip("[]")
    return (f"[{bare}]:{number}" if ":" in bare else f"{bare}:{number}",)


class LogFile:
    """Where flag clnt_log_file wants the log: the loggers "simm.*" from INFO on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path = ""
        self._handler: Optional[logging.Handler] = None

    def follow(
        self, path: str, make: Callable[[str], logging.Handler] = logging.FileHandler
    ) -> None:
        """Opens the file and its folder if it is another one; goes without where it may not."""
        with self._lock:
            if path == self._path:
                return
            self._path = path
            logger = logging.getLogger("simm")
            if self._handler is not None:
                logger.removeHandler(self._handler)
                self._handler.close()
                self._handler = None
            if not path:
                return
            try:
                os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
                handler = make(path)
            except OSError as error:
                _log.warning("no log file: %s; choose another with flag clnt_log_file", error)
                return
            handler.setFormatter(
                logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
            )
            handler.setLevel(logging.INFO)
            logger.addHandler(handler)
            if logger.level == logging.NOTSET:
                logger.setLevel(logging.INFO)
            self._handler = handler

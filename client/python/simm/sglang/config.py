"""The settings of the HiCache backend: where they come from and what they may be.

Precedence, key by key: `--hicache-storage-backend-extra-config`; the JSON file that
SGLANG_HICACHE_SIMM_CONFIG_PATH names (or its alias DEFAULT_SIMM_CONFIG_PATH_ENV); the environment
variable SIMM_CLUSTER_MANAGER for the managers' addresses; the defaults below.
"""

import difflib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

logger = logging.getLogger("simm.sglang")

FILE_VARIABLES = ("SGLANG_HICACHE_SIMM_CONFIG_PATH", "DEFAULT_SIMM_CONFIG_PATH_ENV")
ADDRESS_VARIABLE = "SIMM_CLUSTER_MANAGER"

# Keys that stand in extra_config for SGLang itself: those of its loader of dynamic backends, which
# stay there, and those that its tree cache and controller take out, which some releases leave.
OF_SGLANG = {
    "backend_name",
    "module_path",
    "class_name",
    "interface_v1",
    "tp_lcm_size",
    "prefetch_threshold",
    "prefetch_timeout_base",
    "prefetch_timeout_per_ki_token",
    "prefetch_timeout_max",
    "hicache_storage_pass_prefix_keys",
}
EXTRA_CONFIG = "--hicache-storage-backend-extra-config"
# Settings of the backend that SGLang ships; one file may serve both. They change nothing here.
OF_THE_OTHER_BACKEND = {"clnt_threadpool_size"}


class ConfigError(ValueError):
    """A setting that cannot work. The message names the key, the value and what is allowed."""


@dataclass(frozen=True)
class Config:
    """Checked settings. Times in seconds, sizes in bytes."""

    # "host:port" of managers, data servers or both; IPv6 hosts in brackets.
    manager_address: tuple[str, ...] = ()
    # Separates deployments that must not share pages.
    extra_backend_tag: str = ""
    # Names the model in place of the path that the server was started with, so that servers that
    # keep the same model in different folders share pages.
    model_id: str = ""
    # Names the format of the values where the stored type does not: both fp8 formats are bytes.
    kv_dtype: str = ""
    # A get or exists ends by then. Well below SGLang's shortest prefetch timeout of 2 s, because
    # a get that outlives it blocks the one reader.
    deadline_s: float = 1.5
    # A set ends by then; nobody waits for it but the next backup.
    set_deadline_s: float = 5.0
    connect_timeout_s: float = 10.0
    transport: str = "auto"
    verify: str = "always"
    max_lanes_per_server: int = 16
    # RDMA devices; empty: those near the host pool's memory.
    devices: tuple[str, ...] = ()
    # How long a page whose get has failed counts as missing; 0: not at all.
    negative_ttl_s: float = 1.0
    # A batch is moved in steps of about this size, first pages first: what the deadline cuts off
    # is the end of the prefix.
    step_bytes: int = 128 << 20
    # Whether ranks of one host that read the same pages (MLA) copy them from each other: "auto",
    # where they would come over tcp; "on"; "off".
    share_reads: str = "auto"
    # Logs each transfer with its duration.
    enable_profile: bool = False


_ALLOWED = {
    "transport": ("auto", "shm", "tcp", "verbs"),
    "verify": ("always", "sampled", "off"),
    "share_reads": ("auto", "on", "off"),
}
_RANGES = {
    "deadline_s": (0.01, 60.0),
    "set_deadline_s": (0.01, 600.0),
    "connect_timeout_s": (0.1, 600.0),
    "negative_ttl_s": (0.0, 600.0),
    "max_lanes_per_server": (1, 16),
    "step_bytes": (1 << 20, 4 << 30),
}


def load(extra_config: Mapping[str, Any] | None, environ: Mapping[str, str]) -> Config:
    """Reads and checks the settings. ConfigError: one of them cannot work."""
    given: dict[str, tuple[Any, str]] = {}
    if environ.get(ADDRESS_VARIABLE):
        given["manager_address"] = (environ[ADDRESS_VARIABLE], ADDRESS_VARIABLE)
    given.update(_from_file(environ))
    given.update(_own_keys(extra_config or {}, EXTRA_CONFIG, OF_SGLANG))
    if "manager_address" not in given:
        raise ConfigError(
            f"manager_address is missing: name the cluster's managers in {EXTRA_CONFIG} "
            '(\'{"manager_address": "10.0.0.1:30001"}\'), '
            f"in the JSON file that {FILE_VARIABLES[0]} names, or in {ADDRESS_VARIABLE}"
        )
    return Config(**{key: _checked(key, value, source) for key, (value, source) in given.items()})


def _from_file(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    for variable in FILE_VARIABLES:
        path = environ.get(variable)
        if not path:
            continue
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{variable}={path}: cannot be read as JSON ({error}); it must hold an object "
                'such as {"manager_address": "10.0.0.1:30001"}'
            ) from error
        if not isinstance(content, dict):
            raise ConfigError(f"{variable}={path}: holds {content!r}, not a JSON object")
        for key in OF_SGLANG & content.keys():
            raise ConfigError(
                f"{variable}={path}: {key!r} is SGLang's own, which does not read this file; "
                f"it belongs into {EXTRA_CONFIG}"
            )
        return _own_keys(content, f"{variable}={path}", set())
    return {}


def _own_keys(
    content: Mapping[str, Any], source: str, foreign: set[str]
) -> dict[str, tuple[Any, str]]:
    """`foreign`: keys that may stand there and are not the backend's."""
    known = [field.name for field in fields(Config)]
    own = {}
    for key, value in content.items():
        if key in known:
            own[key] = (value, source)
        elif key in OF_THE_OTHER_BACKEND:
            logger.info("%s: %s=%r has no effect on simm.sglang", source, key, value)
        elif key not in foreign:
            (close,) = difflib.get_close_matches(str(key), [*known, *foreign], n=1, cutoff=0.0)
            raise ConfigError(
                f"{source}: unknown key {key!r}; did you mean {close!r}? "
                f"simm.sglang knows {', '.join(known)}"
            )
    return own


def _checked(key: str, value: Any, source: str) -> Any:
    if key == "manager_address":
        return addresses(value, source)
    wrong = f"{source}: {key}={value!r}"
    if key in _ALLOWED:
        if value not in _ALLOWED[key]:
            raise ConfigError(f"{wrong}: must be one of {', '.join(_ALLOWED[key])}")
        return value
    if key in _RANGES:
        return _number(key, value, wrong)
    if key == "devices":
        return _names(value, wrong)
    if key == "enable_profile":
        if not isinstance(value, bool):
            raise ConfigError(f"{wrong}: must be true or false")
        return value
    if not isinstance(value, str) or len(value) > 256:
        raise ConfigError(f"{wrong}: must be text of at most 256 characters")
    return value


def _number(key: str, value: Any, wrong: str) -> int | float:
    low, high = _RANGES[key]
    whole = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ConfigError(f"{wrong}: must be a{' whole' if whole else ''} number")
    if not low <= value <= high:
        raise ConfigError(f"{wrong}: must be from {low} to {high}")
    return value if whole else float(value)


def _names(value: Any, wrong: str) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f'{wrong}: must be a list such as ["mlx5_0", "mlx5_1"] or "mlx5_0,mlx5_1"'
        )
    return tuple(name.strip() for name in names if name.strip())


def addresses(value: Any, source: str) -> tuple[str, ...]:
    """Splits and checks "host:port[,host:port...]" or a list of "host:port".

    IPv6 hosts stand in brackets. ConfigError: one of them is not an address.
    """
    wrong = f"{source}: manager_address={value!r}"
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts:
        raise ConfigError(f'{wrong}: must be "host:port", several joined by commas, or a list')
    return tuple(_address(part, wrong) for part in parts)


def _address(part: Any, wrong: str) -> str:
    if not isinstance(part, str) or not part.strip():
        raise ConfigError(f"{wrong}: {part!r} is not an address; write host:port")
    address: str = part.strip()
    host, colon, port = address.rpartition(":")
    if address.startswith("["):
        host, bracket, port = address.partition("]")
        host, colon, port = host[1:], port[:1], port[1:]
        if not bracket or ":" not in host:
            raise ConfigError(f"{wrong}: {address!r} is not an IPv6 address; write [::1]:30001")
    elif ":" in host:
        raise ConfigError(f"{wrong}: an IPv6 host stands in brackets; write [{host}]:{port}")
    if colon != ":" or not host:
        raise ConfigError(
            f"{wrong}: {address!r} names no port; write host:port, e.g. {address}:30001"
        )
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        raise ConfigError(f"{wrong}: port {port!r} must be a number from 1 to 65535")
    return address

"""SiMM, a distributed in-memory cache for AI inference.

``simm.Client`` and ``simm.AsyncClient`` are the interface of this package; ``simm.kv`` is the one
that programs written for SiMM's first release import. Log lines go to the loggers "simm.*".
"""

from simm import errors
from simm._native import VERSION as __version__
from simm.aio import AsyncClient
from simm.client import Client, Registration
from simm.errors import BatchError, SimmError

__all__ = [
    "AsyncClient",
    "BatchError",
    "Client",
    "Registration",
    "SimmError",
    "__version__",
    "errors",
]

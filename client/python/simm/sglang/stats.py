"""Counts of the HiCache backend, in SGLang's own class for its metrics."""

import threading
from collections.abc import Callable
from typing import Any

# Samples kept for SGLang's histograms when nobody fetches them.
MAX_SAMPLES = 1024


def _storage_metrics() -> Callable[[], Any] | None:
    try:
        from sglang.srt.observability.metrics_collector import StorageMetrics
    except ImportError:
        return None  # a release that has no such metrics
    made: Callable[[], Any] = StorageMetrics
    return made


class Counters:
    """Thread-safe. `enabled`: SGLang was started with --enable-metrics."""

    def __init__(self, enabled: bool):
        self._lock = threading.Lock()
        self._metrics = _storage_metrics() if enabled else None
        self._samples = self._metrics() if self._metrics else None
        self._totals = dict.fromkeys(
            (
                "pages_asked",
                "pages_found",
                "pages_read",
                "pages_not_read",
                "pages_written",
                "pages_not_written",
                "bytes_read",
                "bytes_written",
                "calls_refused",
                "calls_failed",
            ),
            0,
        )

    def asked(self, pages: int, found: int) -> None:
        with self._lock:
            self._totals["pages_asked"] += pages
            self._totals["pages_found"] += found

    def moved(self, what: str, pages: int, results: list[bool], moved: int, seconds: float) -> None:
        """One transfer ("get" or "set") of `moved` bytes; pages that were there moved none."""
        done = results.count(True)
        past = "read" if what == "get" else "written"
        with self._lock:
            self._totals[f"pages_{past}"] += done
            self._totals[f"pages_not_{past}"] += pages - done
            self._totals[f"bytes_{past}"] += moved
            if self._samples is None:
                return
            if what == "get":
                counts, rates = self._samples.prefetch_pgs, self._samples.prefetch_bandwidth
            else:
                counts, rates = self._samples.backup_pgs, self._samples.backup_bandwidth
            if len(counts) < MAX_SAMPLES:
                counts.append(done)
                if moved:
                    rates.append(moved / max(seconds, 1e-9) / 1e9)  # GB/s

    def rejected(self, what: str) -> None:
        with self._lock:
            self._totals["calls_refused"] += 1

    def failed(self, what: str) -> None:
        with self._lock:
            self._totals["calls_failed"] += 1

    def totals(self) -> dict[str, int]:
        with self._lock:
            return dict(self._totals)

    def take(self) -> Any:
        """The samples since the last take; None: metrics are off."""
        if self._metrics is None:
            return None
        fresh = self._metrics()
        with self._lock:
            taken, self._samples = self._samples, fresh
        return taken

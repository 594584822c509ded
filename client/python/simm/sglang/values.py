"""One value by name: the older calls of SGLang's storage interface, beside those for pages."""

import ctypes
from typing import Any

from simm.sglang import hits


class NamedValues:
    """Puts and gets of tensors, or of memory given by address and size. Thread-safe.

    These raise; the backend turns that into a miss.
    """

    def __init__(self, client: Any, codes: dict[str, int]):
        self._client = client
        self._ok = codes["OK"]
        self._stored = (codes["OK"], codes["EXISTS"])
        self._byte = ctypes.c_char(b"1")

    @staticmethod
    def _memory(places: Any, sizes: Any) -> tuple[list[int], list[int]]:
        if places is None:
            raise ValueError("neither tensors nor target_locations are given")
        if all(isinstance(place, int) for place in places):
            if sizes is None or len(sizes) != len(places):
                raise ValueError("target_sizes must name the size of each of target_locations")
            return list(places), list(sizes)
        for place in places:
            if not place.is_contiguous():
                raise ValueError("a tensor is not contiguous: give tensor.contiguous()")
        addresses = [place.data_ptr() for place in places]
        return addresses, [place.numel() * place.element_size() for place in places]

    @staticmethod
    def _names(keys: list[str]) -> list[str]:
        return [f"value/{key}" for key in keys]

    def put(self, keys: list[str], places: Any, sizes: Any, deadline_ms: int) -> bool:
        """True: all of them are there now."""
        addresses, sizes = self._memory(places, sizes)
        codes = self._client.put(self._names(keys), addresses, sizes, deadline_ms)
        return all(code in self._stored for code in codes)

    def get(self, keys: list[str], places: Any, sizes: Any, deadline_ms: int) -> list[Any]:
        """For each key its tensor (True for an address), or None: a miss, or another length."""
        addresses, sizes = self._memory(places, sizes)
        codes, lengths = self._client.get(self._names(keys), addresses, sizes, deadline_ms)
        found = []
        for place, code, length, size in zip(places, codes, lengths, sizes, strict=True):
            good = code == self._ok and length == size
            found.append((True if isinstance(place, int) else place) if good else None)
        return found

    def exists(self, key: str, page: list[str], deadline_ms: int) -> bool:
        """Whether the value is there, or else all the keys of a page."""
        codes = self._client.exists([*self._names([key]), *page], deadline_ms)
        there = [code == self._ok for code in codes]
        return there[0] or (bool(page) and all(there[1:]))

    def probe(self, keys: int, deadline_ms: int) -> bool:
        """Whether any data server takes a value: puts a byte under `keys` keys."""
        names = [f"probe/{i}" for i in range(keys)]
        addresses = [ctypes.addressof(self._byte)] * keys
        codes = self._client.put(names, addresses, [1] * keys, deadline_ms)
        return any(code in self._stored for code in codes)


def leading_found(found: list[Any]) -> int:
    return hits.leading([value is not None for value in found])

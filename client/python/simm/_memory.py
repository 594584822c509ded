"""Where the bytes of a Python object lie: torch tensors, numpy arrays, whatever is a buffer."""

from __future__ import annotations

from typing import Any, NamedTuple

from simm import _native
from simm.errors import InvalidArgument


class Span(NamedTuple):
    """``size`` bytes at ``address``; they stay there as long as ``owner`` lives."""

    address: int
    size: int
    owner: object


def is_tensor(value: object) -> bool:
    """A torch tensor, found out without importing torch."""
    return hasattr(value, "data_ptr") and hasattr(value, "element_size")


def _tensor_span(tensor: Any) -> Span:
    if tensor.device.type != "cpu":
        raise InvalidArgument(
            f"the tensor is on {tensor.device}: copy it to host memory first (tensor.cpu())"
        )
    if not tensor.is_contiguous():
        raise InvalidArgument(
            f"the tensor of shape {tuple(tensor.shape)} and strides {tuple(tensor.stride())} is "
            "not contiguous: use tensor.contiguous()"
        )
    return Span(tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor)


def span_of(value: object, *, writable: bool) -> Span:
    """The bytes of a tensor, an array or a buffer (bytes, bytearray, memoryview, mmap ...).

    Raises InvalidArgument for memory that is not contiguous, not on the host, or read-only where
    ``writable`` is asked for; TypeError for what has no memory.
    """
    if is_tensor(value):
        return _tensor_span(value)
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            "a value is a torch tensor, a numpy array or a buffer such as bytes, not "
            f"{type(value).__name__}"
        ) from None
    if not view.c_contiguous:
        raise InvalidArgument(
            f"the array of shape {view.shape} and strides {view.strides} is not contiguous: use "
            "numpy.ascontiguousarray(array)"
        )
    if writable and view.readonly:
        raise InvalidArgument(f"the {type(value).__name__} is read-only: nothing can go into it")
    return Span(_native.buffer_address(view), view.nbytes, view)

"""CIFAR's pickled batches, read by an unpickler that can build containers, bytes and uint8 arrays and nothing else."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashdeploy.errors import UserError


class _Dtype:
    """Stands in for numpy.dtype: uint8 or an error."""

    def __init__(self, code: bytes | str, align: object = False, copy: object = False) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of dtype {code!r}; only uint8 is read")

    def __setstate__(self, state: object) -> None:
        """Byte order and fields: nothing that a uint8 needs."""


class _Array:
    """Stands in for numpy.ndarray: checks the pickled state and builds the array without numpy's own hooks."""

    def __init__(self) -> None:
        self.value: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array whose state is not bytes of uint8")
        self.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran_order else "C")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    """Stands in for numpy's own: an empty array of no subtype, whose state follows."""
    return _Array()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # its name since numpy 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return _ALLOWED[module, name]


def read_pickle(content: bytes, *, where: str) -> dict[bytes, Any]:
    """The dict in one pickled CIFAR file; Python 2's strings come as bytes, arrays as uint8 NDArrays.

    Args:
        content: the file, out of an archive whose checksum is the published one.
        where: names the file in messages.

    Raises:
        UserError: it holds anything but plain containers, numbers, bytes and uint8 arrays, or no dict.
    """
    try:
        tree = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    # A damaged pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise UserError(f"{where}: refused or damaged pickle: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{where}: holds a {type(tree).__name__}, expected a dict")
    return {key: value.value if isinstance(value, _Array) else value for key, value in tree.items()}

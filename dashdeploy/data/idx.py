"""IDX files, the format of MNIST and its relatives: a short big-endian header, then bytes in row-major order."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from dashdeploy.errors import UserError

UNSIGNED_BYTE = 0x08
MAX_BYTES = 1 << 28
"""The most bytes that are read from one file; MNIST's largest relative has 47 MB."""
_CHUNK_BYTES = 1 << 20


def read_idx(path: Path, *, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes; a file whose name ends in `.gz` is decompressed.

    Memory grows with the bytes in the file, never with what its header claims.

    Args:
        path: the file.
        item_shape: the shape that every item must have: ``(28, 28)`` for images, ``()`` for labels.

    Returns:
        (N, *item_shape) uint8, N ≥ 1.

    Raises:
        UserError: the file cannot be read, is no IDX file of such items, or is shorter or longer than its header says.
    """
    try:
        with _open(path) as stream:
            shape = _read_header(stream, path, item_shape)
            payload = _read_payload(stream, math.prod(shape))
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path}: the gzip data is truncated or damaged ({error}); download the file again") from error
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error})") from error
    expected = math.prod(shape)
    if len(payload) != expected:
        got = f"only {len(payload)}" if len(payload) < expected else "more"
        raise UserError(f"{path}: the header promises {expected} bytes {shape}, the file holds {got}")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _read_header(stream: BinaryIO, path: Path, item_shape: tuple[int, ...]) -> tuple[int, ...]:
    ndim = 1 + len(item_shape)
    header = stream.read(4 + 4 * ndim)
    magic = bytes([0, 0, UNSIGNED_BYTE, ndim])
    if header[:4] != magic:
        raise UserError(
            f"{path}: starts with {header[:4].hex() or 'nothing'}, but an IDX file of unsigned bytes in {ndim} "
            f"dimension{'s' if ndim > 1 else ''} starts with {magic.hex()}"
        )
    if len(header) < 4 + 4 * ndim:
        raise UserError(f"{path}: ends inside its header, after {len(header)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
    if shape[1:] != item_shape:
        raise UserError(f"{path}: its items are {_by(shape[1:])}, not {_by(item_shape)}")
    if not 0 < math.prod(shape) <= MAX_BYTES:
        most = MAX_BYTES // math.prod(item_shape)
        raise UserError(f"{path}: the header claims {shape[0]} items; expected 1 to {most}")
    return shape


def _read_payload(stream: BinaryIO, expected: int) -> bytes:
    """Up to `expected` + 1 bytes: the last one shows that the file is longer than its header says."""
    payload = io.BytesIO()
    while (wanted := expected + 1 - payload.tell()) > 0:
        chunk = stream.read(min(_CHUNK_BYTES, wanted))
        if not chunk:
            break
        payload.write(chunk)
    return payload.getvalue()


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in shape)

"""What may be loaded of an artifact: bytes that its manifest vouches for, and a manifest that a key has signed.

Only the standard library, and `cryptography` where a key is given: Triton's package carries this file as it is. Every
function raises a ValueError whose text is one line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MANIFEST = "manifest.json"
SIGNATURE = MANIFEST + ".minisig"
"""Beside the manifest; the name that `minisign -V -m manifest.json` looks for."""
PUBLIC_KEY = "DASHDEPLOY_PUBLIC_KEY"
"""Environment variable: where it is set, only what this key has signed is opened."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MOST_TEXT = 1 << 16
"""Bytes of a key or a signature."""

# ModelProto and what is in it (onnx.proto): message -> field -> the message that the field holds.
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "external": {},
}
OP_TYPE, KEY, VALUE = 4, 1, 2
"""Fields: a node's operator; key and value of an entry of external_data."""
OTHER_CODE = b"EPContext"
"""An operator that holds, or names the file of, code that was compiled for one device."""
DEEPEST = 64


class GraphBytes(NamedTuple):
    """A graph's file and the weights beside it, by name, as they were read."""

    model: bytes
    weights: dict[str, bytes]


def read(folder: Path, name: str, hashes: Mapping[str, str] | None) -> bytes:
    """The bytes of a file of a folder. Its name cannot leave the folder; it may be a link to a file anywhere.

    Args:
        hashes: SHA-256 by name; the bytes must have theirs. None: nothing vouches for the folder.
    """
    path = folder / name
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{folder}: {name[:100]!r} is not the name of a file inside of it. Export it again.")
    if hashes is not None and name not in hashes:
        raise ValueError(f"{path}: {MANIFEST} does not list it. Export it again.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Export it again.") from error
    if hashes is not None and hashlib.sha256(data).hexdigest() != hashes[name]:
        raise ValueError(f"{path}: damaged or changed since it was made (its SHA-256 differs from {MANIFEST}'s).")
    return data


def read_graph(folder: Path, file: str, files: Collection[str], hashes: Mapping[str, str] | None) -> GraphBytes:
    """A graph whose files are `files`, to be loaded from memory: what is loaded is what was hashed.

    An ONNX graph may name no other file. An .xml must be OpenVINO's, which names none.
    """
    graph = GraphBytes(read(folder, file, hashes), {name: read(folder, name, hashes) for name in files if name != file})
    if file.endswith(".xml"):
        if not graph.model.startswith(b"<"):
            raise ValueError(f"{folder / file}: not a graph of OpenVINO. Export it again.")
    elif file.endswith(".onnx"):
        for name in external_files(graph.model, source=folder / file):
            if name not in graph.weights:
                raise ValueError(
                    f"{folder / file}: its weights lie in {name[:100]!r}, which is none of its files. Export it again."
                )
    return graph


def external_files(model: bytes, *, source: object) -> set[str]:
    """The files that an ONNX model says its tensors lie in, wherever in it they are."""
    found: set[str] = set()
    try:
        _walk(memoryview(model), "model", found, 0)
    except ValueError as error:
        raise ValueError(f"{source}: not a whole ONNX model ({error}). Export it again.") from error
    return found


def _walk(message: memoryview, kind: str, found: set[str], depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    entry: dict[int, bytes] = {}
    for field, part in _fields(message):
        if field in MESSAGES[kind]:
            _walk(part, MESSAGES[kind][field], found, depth + 1)
        elif kind == "node" and field == OP_TYPE and bytes(part) == OTHER_CODE:
            raise ValueError("it holds an EPContext node, code for one device")
        elif kind == "external":
            entry[field] = bytes(part)
    if kind == "external" and entry.get(KEY) == b"location":
        found.add(entry.get(VALUE, b"").decode("utf-8", "surrogateescape"))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, bytes) of the fields with a length, in protobuf's wire format; numbers are passed over."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            _, at = _varint(message, at)
            continue
        if wire in (1, 5):
            at += 8 if wire == 1 else 4
            continue
        if wire != 2:
            raise ValueError("its encoding is unknown")
        size, at = _varint(message, at)
        if size > len(message) - at:
            raise ValueError("it ends too early")
        yield key >> 3, message[at : at + size]
        at += size
    if at > len(message):
        raise ValueError("it ends too early")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("it ends too early")


class PublicKey(NamedTuple):
    """An ed25519 key with its number, as minisign has them."""

    number: bytes
    key: bytes


def public_key(given: str) -> PublicKey:
    """A minisign public key: the text itself, as in RWQ…, or the name of a file that holds it."""
    text = given.strip()
    if not re.fullmatch(r"[A-Za-z0-9+/]{56}", text):
        lines = [line for line in _text(Path(given)).splitlines() if line.strip()]
        text = lines[-1].strip() if lines else ""
    data = _decoded(text, f"{given}: not a minisign public key")
    if len(data) != 42 or not data.startswith(b"Ed"):
        raise ValueError(f"{given}: not a minisign public key: expected a file of two lines, or 56 characters RW…")
    return PublicKey(data[2:10], data[10:])


def check_signature(folder: Path, manifest: bytes, key: str) -> str:
    """Whether the folder's signature is this key's, of these bytes; returns the trusted comment, which is signed too.

    Args:
        manifest: manifest.json as it was read: all else is checked against it.
        key: see `public_key`.
    """
    wanted, path = public_key(key), folder / SIGNATURE
    if not path.is_file():
        raise ValueError(
            f"{path}: missing, and with a public key only what is signed is opened. Sign it: "
            "dashdeploy export RUN --to TARGET --sign KEY, or minisign -S -m manifest.json"
        )
    lines = _text(path).split("\n")
    trusted = "trusted comment: "
    if len(lines) < 4 or not lines[0].startswith("untrusted comment:") or not lines[2].startswith(trusted):
        raise ValueError(f"{path}: not a signature of minisign. Sign {MANIFEST} again.")
    what = f"{path}: not a signature of minisign"
    data, outer, comment = _decoded(lines[1], what), _decoded(lines[3], what), lines[2].removeprefix(trusted)
    if len(data) != 74 or len(outer) != 64 or data[:2] not in (b"ED", b"Ed"):
        raise ValueError(f"{what}. Sign {MANIFEST} again.")
    number, signature = data[2:10], data[10:]
    if number != wanted.number:
        raise ValueError(
            f"{path}: signed by the key {shown(number)}, and the public key given is {shown(wanted.number)}."
        )
    signed = hashlib.blake2b(manifest).digest() if data[:2] == b"ED" else manifest
    if not _is_signed(wanted.key, signature, signed):
        raise ValueError(f"{path}: not this key's signature of {MANIFEST}: one of the two was changed, or made anew.")
    if not _is_signed(wanted.key, outer, signature + comment.rstrip("\r").encode("utf-8", "surrogateescape")):
        raise ValueError(f"{path}: its trusted comment was changed since it was signed.")
    return comment.rstrip("\r")


def configured_key(given: str | None = None) -> str | None:
    """The public key that was given, else that of the environment; None: signatures are not asked for."""
    return given or os.environ.get(PUBLIC_KEY) or None


def shown(number: bytes) -> str:
    """A key's number as minisign prints it."""
    return number[::-1].hex().upper()


def _is_signed(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise ValueError(
            f"a public key is given, and to check signatures the Python package cryptography is needed ({error}). "
            "Install it with: pip install cryptography"
        ) from error
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MOST_TEXT).decode("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:  # a ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: cannot be read ({reason}). Expected a file of minisign.") from error


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{what} (not base64).") from error

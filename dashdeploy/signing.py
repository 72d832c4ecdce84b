"""Key pairs, and signatures of manifest.json, in minisign's format: https://jedisct1.github.io/minisign/.

A manifest lists the SHA-256 of every file, so that its signature is the whole folder's. The same key and manifest give
the same signature.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, NamedTuple

from dashdeploy import checked, stages
from dashdeploy.errors import UserError, shown, telling_the_user
from dashdeploy.files import write_whole
from dashdeploy.lazy import require

KDF_NONE, CHECKSUM = b"\0\0", b"B2"
SECRET_BYTES = 158
"""Three names of 2 bytes, salt 32, limits 16, number 8, seed 32, public key 32, checksum 32."""
NUMBER, SEED = slice(54, 62), slice(62, 94)


class SecretKey(NamedTuple):
    """An ed25519 private key and the number that its public key has too."""

    number: bytes
    seed: bytes


def make_key_pair(name: Path) -> tuple[Path, Path]:
    """Write NAME.key, which stays secret and has no password, and NAME.pub; `minisign` takes both.

    Raises:
        UserError: one of them is there already, or cannot be written.
    """
    if name.name in ("", ".."):
        raise UserError(f"{shown(name)}: names a folder, and NAME.key and NAME.pub need a name, as in {name / 'mine'}.")
    secret, public = (name.with_name(f"{name.name}.{end}") for end in ("key", "pub"))
    for path in (secret, public):
        if path.exists():
            raise UserError(f"{path}: there is a file already, and keys are not written over. Choose another name.")
    key = SecretKey(secrets.token_bytes(8), secrets.token_bytes(32))
    half = _public_bytes(key)
    whole = b"Ed" + KDF_NONE + CHECKSUM + bytes(48) + key.number + key.seed + half + bytes(32)
    number = checked.shown(key.number)
    try:
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"untrusted comment: minisign secret key {number}\n{_encoded(whole)}\n")
    except OSError as error:
        raise UserError(f"{secret}: cannot be written ({error.strerror}).") from error
    try:
        write_whole(public, f"untrusted comment: minisign public key {number}\n{_encoded(b'Ed' + key.number + half)}\n")
    except BaseException:
        secret.unlink()  # half a pair is of no use, and would be in the way of the next
        raise
    return secret, public


def read_secret_key(path: Path) -> SecretKey:
    """A secret key without a password; that cryptography is there to sign with it is looked at too.

    Raises:
        UserError: there is none, it is something else, it has a password, or cryptography is not installed.
    """
    _ed25519()
    try:
        lines = path.read_text().splitlines()
        data = base64.b64decode(lines[1] if len(lines) > 1 else "", validate=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a secret key ({error}). Make one: dashdeploy keygen NAME") from error
    if len(data) != SECRET_BYTES or data[:2] != b"Ed" or data[4:6] != CHECKSUM:
        raise UserError(f"{path}: not a secret key of minisign. Make one: dashdeploy keygen NAME")
    if data[2:4] != KDF_NONE:
        raise UserError(
            f"{path}: it has a password, and dashdeploy signs with keys without one. Sign the finished folder with "
            f"minisign -S -s {path} -m {stages.MANIFEST}, or make another key: dashdeploy keygen NAME"
        )
    return SecretKey(data[NUMBER], data[SEED])


def sign(stage: stages.Stage, key: SecretKey) -> Path:
    """Write the signature of a finished stage beside its manifest.

    Raises:
        UserError: cryptography is not installed, or the folder cannot be written to.
    """
    path = stage.folder / checked.SIGNATURE
    comment = f"file:{stages.MANIFEST}\thashed\tstage:{stage.manifest['stage']}"
    with telling_the_user():
        message = hashlib.blake2b(checked.read(stage.folder, stages.MANIFEST, None)).digest()
    signature = _private(key).sign(message)
    outer = _private(key).sign(signature + comment.encode())
    write_whole(
        path,
        f"untrusted comment: signature of dashdeploy, key {checked.shown(key.number)}\n"
        f"{_encoded(b'ED' + key.number + signature)}\ntrusted comment: {comment}\n{_encoded(outer)}\n",
    )
    return path


def verify(stage: stages.Stage, key: str) -> str:
    """Check the signature of a stage whose files `stages.read_stage` has checked; returns its trusted comment.

    Args:
        key: a minisign public key, or its file.

    Raises:
        UserError: no signature, another key's, of another manifest, or changed.
    """
    with telling_the_user():
        manifest = checked.read(stage.folder, stages.MANIFEST, None)
        comment = checked.check_signature(stage.folder, manifest, key)
    if json.loads(manifest) != stage.manifest:
        raise UserError(f"{stage.folder / stages.MANIFEST}: changed while it was opened.")
    return comment


def _private(key: SecretKey) -> Any:
    return _ed25519().Ed25519PrivateKey.from_private_bytes(key.seed)


def _public_bytes(key: SecretKey) -> bytes:
    raw: bytes = _private(key).public_key().public_bytes_raw()
    return raw


def _ed25519() -> Any:
    return require("cryptography.hazmat.primitives.asymmetric.ed25519", extra="sign")


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()

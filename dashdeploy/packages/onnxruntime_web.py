"""The files of onnxruntime-web that a package of the kind web carries: pinned, fetched once by npm, and checked."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

from dashdeploy import locate, stages
from dashdeploy.errors import UserError, reading
from dashdeploy.files import write_whole
from dashdeploy.terminal import say

VERSION = "1.30.0"
SPEC = f"onnxruntime-web@{VERSION}"
NAMES = "ort.json"
PACKED = ".gzip"
"""Added to a WASM file's name: servers do not take it for a compressed answer, as they do with .gz."""
TIMEOUT_S = 900
Backend = Literal["wasm", "webgpu"]


class Files(NamedTuple):
    """What one back end of onnxruntime-web is made of; `module` finds nothing by itself, the WASM is handed to it."""

    module: str
    wasm: str


BACKENDS: dict[Backend, Files] = {
    "wasm": Files("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": Files("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
SHA256 = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
"""Of the files in dist/ of the pinned version."""


def write(destination: Path, backends: tuple[Backend, ...], own: Path | None) -> None:
    """Write the files of these back ends, WASM packed by gzip, and ort.json, which lists them, into a new folder.

    Args:
        own: a folder with the npm package or its dist; None: the cache, which npm fills at the first time.

    Raises:
        UserError: they are not there, are of another version, or npm cannot fetch them.
    """
    needed = [name for backend in backends for name in BACKENDS[backend]]
    found = _own(own, needed) if own is not None else _cached(needed)
    destination.mkdir()
    hashes = {}
    for name, data in found.items():
        content = gzip.compress(data, 9, mtime=0) if name.endswith(".wasm") else data
        (destination / placed(name)).write_bytes(content)
        hashes[placed(name)] = hashlib.sha256(content).hexdigest()
    listed = {backend: {key: placed(name) for key, name in BACKENDS[backend]._asdict().items()} for backend in backends}
    described = {"version": VERSION, "backends": listed, "files": hashes}
    (destination / NAMES).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def placed(name: str) -> str:
    """What a file is called in the package: servers do not know .mjs, and browsers take no module of another type."""
    return name + PACKED if name.endswith(".wasm") else f"{name.removesuffix('.mjs')}.js"


def refuse(backends: tuple[Backend, ...], own: Path | None) -> None:
    """Refuse early what `write` could not write: its files are not here, and cannot be fetched.

    Raises:
        UserError: see `write`; what npm says is not known yet.
    """
    needed = [name for backend in backends for name in BACKENDS[backend]]
    if own is not None:
        _own(own, needed)
    elif len(_kept(_folder(), needed)) < len(needed):
        _npm()


def _own(folder: Path, needed: list[str]) -> dict[str, bytes]:
    """The files of the user's copy; another version may look the same and compute otherwise."""
    inner = folder / "dist" if (folder / "dist").is_dir() else folder
    found = {}
    for name in needed:
        path = inner / name
        if not path.is_file():
            raise UserError(f"onnxruntime_web: {path}: no such file. Give a folder with the npm package {SPEC}.")
        with reading(path, "file of onnxruntime-web"):
            found[name] = path.read_bytes()
        if not _fits(name, found[name]):
            raise UserError(f"onnxruntime_web: {path}: not the file of {SPEC} (its SHA-256 differs).")
    return found


def _cached(needed: list[str]) -> dict[str, bytes]:
    """The files of the cache; it is filled, or mended, by npm."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    with stages.in_turn(folder / "fetching.lock", what=SPEC):
        found = _kept(folder, needed)
        if len(found) < len(needed):
            _fetch(folder)
            found = _kept(folder, needed)
    return found


def _folder() -> Path:
    return locate.cache_folder() / f"onnxruntime-web-{VERSION}"


def _kept(folder: Path, needed: list[str]) -> dict[str, bytes]:
    """Those that are there and undamaged."""
    data = {name: (folder / name).read_bytes() for name in needed if (folder / name).is_file()}
    return {name: content for name, content in data.items() if _fits(name, content)}


def _fetch(folder: Path) -> None:
    """Put the pinned files into a folder, each whole, by npm. None of the package's scripts is run."""
    npm = _npm()
    say(f"fetching {SPEC} by npm; it is kept in {folder}")
    with tempfile.TemporaryDirectory(prefix="dashdeploy-") as name:
        command = [npm, "pack", SPEC, "--ignore-scripts", "--silent", "--pack-destination", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=name, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"npm did not fetch {SPEC} in {TIMEOUT_S} s. Look at your connection, and try again."
            ) from error
        archives = list(Path(name).glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            reason = " ".join((done.stderr or done.stdout).split())[:300]
            raise UserError(
                f"npm cannot fetch {SPEC} ({reason or 'it gave no reason'}). Look at your connection and npm's "
                "registry, or put onnxruntime_web: FOLDER with a copy of that npm package into the package's YAML file."
            )
        with reading(archives[0], "npm package"), tarfile.open(archives[0]) as archive:
            for file in SHA256:
                member = archive.extractfile(f"package/dist/{file}")
                content = member.read() if member is not None else b""
                if not _fits(file, content):
                    raise UserError(f"npm fetched another {SPEC}: the SHA-256 of its {file} differs. It was not kept.")
                write_whole(folder / file, content)


def _npm() -> str:
    """The program.

    Raises:
        UserError: it is not here.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"a package of the kind web carries {SPEC}, which npm fetches, and npm is not here. Install Node.js, or "
            "put onnxruntime_web: FOLDER with a copy of that npm package into the package's YAML file."
        )
    return npm


def _fits(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256[name]

"""Signatures in C++: the right key's is taken, and anything else is refused with its reason."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import seal
from library import Library, Model, StatusError

from dashdeploy import checked, signing, stages

pytestmark = pytest.mark.slow


@pytest.fixture
def signed(artifact: Path, tmp_path: Path, keys: dict[str, tuple[Path, Path]]) -> Path:
    folder = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    signing.sign(stages.read_stage(folder), signing.read_secret_key(keys["mine"][0]))
    return folder


def edited(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return change


def made_anew(folder: Path) -> None:
    manifest = json.loads((folder / stages.MANIFEST).read_text())
    manifest["seed"] += 1
    seal(folder, json.dumps(manifest).encode())


def flipped(folder: Path) -> None:
    lines = (folder / checked.SIGNATURE).read_text().split("\n")
    lines[1] = lines[1][:60] + ("A" if lines[1][60] != "A" else "B") + lines[1][61:]
    (folder / checked.SIGNATURE).write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (made_anew, "damaged", "not this key's signature of manifest.json"),
        (flipped, "damaged", "not this key's signature of manifest.json"),
        (edited(checked.SIGNATURE, b"hashed", b"hashes"), "damaged", "its trusted comment was changed"),
        (edited(checked.SIGNATURE, b"\ntrusted", b"\ndistrusted"), "damaged", "not a signature of minisign"),
        (lambda folder: (folder / checked.SIGNATURE).write_bytes(b"\xff" * 1000), "damaged", "not a signature of"),
        (lambda folder: (folder / checked.SIGNATURE).unlink(), "not_found", "manifest.json.minisig: missing"),
    ],
)
def test_what_the_key_has_not_signed_is_refused(
    library: Library, signed: Path, keys: dict[str, tuple[Path, Path]], change: Callable, status: str, text: str
) -> None:
    change(signed)
    with pytest.raises(StatusError) as caught:
        Model(library, signed, public_key=str(keys["mine"][1]).encode())
    assert (caught.value.status, text in caught.value.text) == (status, True), caught.value.text


def test_its_own_signature_is_taken_by_file_and_by_text_and_another_key_s_is_not(
    library: Library, released: Path, signed: Path, keys: dict[str, tuple[Path, Path]]
) -> None:
    public = keys["mine"][1]
    for key in (str(public), public.read_text().splitlines()[1]):
        with Model(library, signed, public_key=key.encode()) as model:
            assert model.info.num_classes == 10
    with pytest.raises(StatusError, match=r"signed by the key [0-9A-F]{16}, and the public key given is [0-9A-F]{16}"):
        Model(library, signed, public_key=str(keys["other"][1]).encode())
    command = [released / "dashdeploy-sample", signed, "--info", "--key"]
    assert subprocess.run([*command, public], check=False).returncode == 0
    refused = subprocess.run([*command, keys["other"][1]], check=False, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (13, 1)


def test_without_a_key_a_signature_does_not_matter(library: Library, signed: Path) -> None:
    flipped(signed)
    with Model(library, signed) as model:
        assert model.info.num_classes == 10

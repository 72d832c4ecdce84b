"""Signatures: what a key has signed is taken, whatever was changed is refused, and the minisign program agrees."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import dashdeploy.runtime
from dashdeploy import checked, signing, stages
from dashdeploy.cli.app import main
from dashdeploy.errors import UserError
from dashdeploy.packages import schema
from dashdeploy.packages.stage import carry_out
from dashdeploy.target import load_target

pytest.importorskip("cryptography", reason="pip install 'dashdeploy[sign]'")


@pytest.fixture
def signed(tiny_run: Path, tmp_path: Path, keys: dict[str, tuple[Path, Path]]) -> Path:
    """A signed copy of the artifact."""
    folder = Path(shutil.copytree(tiny_run / "artifacts" / "onnx-cpu", tmp_path / "artifact"))
    signing.sign(stages.read_stage(folder), signing.read_secret_key(keys["mine"][0]))
    return folder


def test_half_a_pair_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(signing, "write_whole", full)
    with pytest.raises(UserError):
        signing.make_key_pair(tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def minisign(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("minisign")
    if program is None:
        pytest.skip("the program minisign is not here (Debian: apt-get install minisign)")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)


def made_anew(folder: Path) -> None:
    """Another manifest that is whole in itself."""
    manifest = json.loads((folder / stages.MANIFEST).read_text())
    manifest["seed"] += 1
    (folder / stages.MANIFEST).write_text(json.dumps(manifest))
    (folder / stages.SIDECAR).write_bytes(stages.sidecar_text(folder / stages.MANIFEST))


def flipped(line: int, at: int) -> Callable[[Path], None]:
    """One character of a line of the signature changed."""

    def change(folder: Path) -> None:
        lines = (folder / checked.SIGNATURE).read_text().split("\n")
        lines[line] = lines[line][:at] + ("A" if lines[line][at] != "A" else "B") + lines[line][at + 1 :]
        (folder / checked.SIGNATURE).write_text("\n".join(lines))

    return change


def test_verify_takes_the_right_key_by_file_and_by_text(
    signed: Path, keys: dict[str, tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    public = keys["mine"][1]
    for key in (str(public), public.read_text().splitlines()[1]):
        with pytest.raises(SystemExit) as stopped:
            main(["verify", str(signed), "--key", key])
        assert not stopped.value.code
        assert "manifest.json is signed (file:manifest.json" in capsys.readouterr().out
    assert stat.S_IMODE(keys["mine"][0].stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (made_anew, "not this key's signature of manifest.json"),
        (flipped(1, 60), "not this key's signature of manifest.json"),
        (flipped(1, 5), "signed by the key"),
        (flipped(2, 20), "its trusted comment was changed"),
        (flipped(3, 20), "its trusted comment was changed"),
        (flipped(2, 0), "not a signature of minisign"),
        (lambda folder: (folder / checked.SIGNATURE).write_bytes(b"\xff\n" * 4), "not a signature of minisign"),
        (lambda folder: (folder / checked.SIGNATURE).unlink(), "missing, and with a public key only what is signed"),
        (lambda folder: (folder / "step.onnx").write_bytes(b""), "step.onnx: damaged or changed"),
    ],
)
def test_what_the_key_has_not_signed_is_refused_in_a_line(
    signed: Path, keys: dict[str, tuple[Path, Path]], change: Callable[[Path], object], message: str
) -> None:
    change(signed)
    with pytest.raises(UserError) as caught:
        dashdeploy.runtime.open(signed, public_key=str(keys["mine"][1]))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_with_a_key_in_the_environment_every_opening_asks_for_its_signature(
    signed: Path, tiny_run: Path, keys: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(checked.PUBLIC_KEY, str(keys["mine"][1]))
    for path in (signed, signed / "guided.onnx"):
        dashdeploy.runtime.open(path, threads=1).close()
    for path, message in (
        (tiny_run / "artifacts" / "onnx-cpu", "manifest.json.minisig: missing"),
        (tiny_run / "artifacts" / "onnx-cpu" / "guided.onnx", "manifest.json.minisig: missing"),
        (tiny_run / "student", "manifest.json.minisig: missing"),
    ):
        with pytest.raises(UserError, match=message):
            dashdeploy.runtime.open(path)
    bare = signed.parent / "bare.onnx"
    shutil.copy(signed / "guided.onnx", bare)
    with pytest.raises(UserError, match="not an artifact, and with a public key"):
        dashdeploy.runtime.open(bare)
    monkeypatch.setenv(checked.PUBLIC_KEY, str(keys["other"][1]))
    with pytest.raises(UserError, match=r"signed by the key [0-9A-F]{16}, and the public key given is [0-9A-F]{16}"):
        dashdeploy.runtime.open(signed)


def test_a_signature_stays_with_its_manifest_and_packages_carry_it(
    tiny_run: Path, tmp_path: Path, keys: dict[str, tuple[Path, Path]]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "tiny"))
    secret, public = signing.read_secret_key(keys["mine"][0]), str(keys["mine"][1])
    stage = carry_out(run, load_target("onnx-cpu"), sign_with=secret)
    first = (stage.folder / checked.SIGNATURE).read_bytes()
    carry_out(run, load_target("onnx-cpu"))  # nothing is made: the signature stays
    signing.verify(stage, public)
    for name, inner in (("triton", "model_repository/tiny/1/artifact"), ("triton-onnxruntime", None)):
        package = carry_out(run, schema.load(name), sign_with=secret)
        signing.verify(stages.read_stage(package.folder), public)
        if inner:
            assert (package.folder / inner / checked.SIGNATURE).read_bytes() == first
            signing.verify(stages.read_stage(package.folder / inner), public)
        before = (package.folder / stages.MANIFEST).stat().st_ino
        assert (carry_out(run, schema.load(name)).folder / stages.MANIFEST).stat().st_ino == before
    (stage.folder / checked.SIGNATURE).unlink()
    unsigned = carry_out(run, schema.load("triton"))
    assert not list(unsigned.folder.rglob(checked.SIGNATURE))


def test_the_program_minisign_takes_our_signatures_and_we_take_its(
    signed: Path, tmp_path: Path, keys: dict[str, tuple[Path, Path]]
) -> None:
    manifest = signed / stages.MANIFEST
    assert minisign("-V", "-p", keys["mine"][1], "-m", manifest).returncode == 0
    assert minisign("-V", "-p", keys["other"][1], "-m", manifest).returncode != 0
    assert minisign("-G", "-W", "-p", tmp_path / "its.pub", "-s", tmp_path / "its.key").returncode == 0
    for options in ((), ("-l",)):  # -l: of the text, as older versions sign
        done = minisign("-S", *options, "-s", tmp_path / "its.key", "-m", manifest)
        assert done.returncode == 0, done.stderr
        signing.verify(stages.read_stage(signed), str(tmp_path / "its.pub"))
    signing.sign(stages.read_stage(signed), signing.read_secret_key(tmp_path / "its.key"))
    assert minisign("-V", "-p", tmp_path / "its.pub", "-m", manifest).returncode == 0
    done = minisign("-S", "-s", keys["mine"][0], "-m", manifest)
    assert done.returncode == 0, done.stderr
    signing.verify(stages.read_stage(signed), str(keys["mine"][1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "{artifact}"], "verify needs a public key"),
        (["verify", "{artifact}", "--key", "nowhere.pub"], "nowhere.pub: cannot be read"),
        (["verify", "{artifact}", "--key", "{secret}"], "not a minisign public key"),
        (["verify", "{artifact}", "--key", "A" * 56], "not a minisign public key"),
        (["verify", "nowhere", "--key", "{public}"], "nowhere: no such folder"),
        (["export", "{run}", "--sign", "{public}"], "not a secret key of minisign"),
        (["export", "{run}", "--sign", "nowhere"], "nowhere: not a secret key"),
        (["keygen", "{name}"], "there is a file already, and keys are not written over"),
        (["keygen", "nowhere/mine"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(
    tiny_run: Path,
    keys: dict[str, tuple[Path, Path]],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    secret, public = keys["mine"]
    names = {"run": tiny_run, "artifact": tiny_run / "artifacts" / "onnx-cpu", "secret": secret, "public": public}
    names["name"] = secret.with_suffix("")
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(**names) for argument in arguments])
    errors = capsys.readouterr().err
    assert stopped.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors


def test_a_key_with_a_password_is_told(keys: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    import base64

    lines = keys["mine"][0].read_text().splitlines()
    data = bytearray(base64.b64decode(lines[1]))
    data[2:4] = b"Sc"  # scrypt
    (tmp_path / "its.key").write_text(f"{lines[0]}\n{base64.b64encode(data).decode()}\n")
    with pytest.raises(UserError, match="it has a password, and dashdeploy signs with keys without one"):
        signing.read_secret_key(tmp_path / "its.key")

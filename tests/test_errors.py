from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dashdeploy.errors import MEANINGS, Interrupted, UserError, fault, printable, reading, shown, writing

DEVICE_FULL = Path("/dev/full")


@pytest.mark.parametrize("number", MEANINGS)
def test_every_number_names_the_file_and_a_way_out(number: int) -> None:
    line = fault(OSError(number, os.strerror(number), "data/x.npz"))
    assert line is not None and line.startswith("data/x.npz: ")
    assert line.count(". ") >= 1 or " or " in line or "(" in line
    assert "\n" not in line and line.endswith(".")


def test_another_number_is_told_in_the_systems_words() -> None:
    assert fault(OSError(errno.ESRCH, "No such process")) == "No such process."


def test_a_name_that_is_not_known_is_added() -> None:
    assert fault(OSError(errno.ENOSPC, "No space left on device"), path="runs/x").startswith("runs/x: the disk is full")


@pytest.mark.skipif(not DEVICE_FULL.exists(), reason="no /dev/full here")
def test_what_torch_and_safetensors_say_of_a_full_disk(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(1 << 16)}
    with (
        pytest.raises(UserError, match=r"^/dev/full: .*disk is full"),
        writing(DEVICE_FULL),
        DEVICE_FULL.open("wb") as file,
    ):
        torch.save(tensors, file)
    with pytest.raises(UserError, match=r"^/dev/full: .*disk is full"), writing(DEVICE_FULL):
        torch.save(tensors, DEVICE_FULL)
    with (
        pytest.raises(UserError, match=rf"^{tmp_path}/x: "),
        writing(tmp_path / "x"),
    ):
        save_file(tensors, tmp_path / ("x" * 300))


def test_memory_that_is_not_there_is_one_line() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, np.uint8)
    for error in (torchs.value, numpys.value):
        line = fault(error)
        assert line is not None and line.startswith("not enough memory"), line
        assert "1152921504606846976" in line or "1.00 EiB" in line


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), RuntimeError("mat1 and mat2 shapes"), AssertionError(), BrokenPipeError()]
)
def test_a_defect_stays_one(error: Exception, tmp_path: Path) -> None:
    assert fault(error) is None
    with pytest.raises(type(error)), writing(tmp_path):
        raise error


@pytest.mark.parametrize("text", ["can't start new thread", "pool INTERNAL ASSERT FAILED at x: Invalid thread pool!"])
def test_a_system_without_threads_to_give_is_told(text: str) -> None:
    assert fault(RuntimeError(text)) == MEANINGS[errno.EAGAIN]


DAMAGED = {
    "json": (b"{", lambda path: json.loads(path.read_bytes())),
    "deep json": (b"[" * 100_000, lambda path: json.loads(path.read_bytes())),
    "text": (b"\xff\xfe", lambda path: path.read_text(encoding="utf-8")),
    "zip": (b"PK\x03\x04", lambda path: zipfile.ZipFile(path).namelist()),
    "npz": (b"PK\x03\x04", lambda path: np.load(path)),
    "safetensors": (b"\xff" * 16, lambda path: load_file(path)),
    "checkpoint": (b"\x80\x02", lambda path: torch.load(path, weights_only=True)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_whatever_a_decoder_raises_is_about_the_file(kind: str, tmp_path: Path) -> None:
    content, read = DAMAGED[kind]
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(UserError) as told, reading(path, "file of mine", again="Get another."):
        read(path)
    assert str(told.value).startswith(f"{path}: not a whole file of mine (")
    assert str(told.value).endswith(" Get another.") and "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"), reading(tmp_path / "x", "file"):
        (tmp_path / "x").read_bytes()


@pytest.mark.parametrize("error", [UserError("mine"), Interrupted("mine")])
def test_what_is_told_already_passes(error: Exception, tmp_path: Path) -> None:
    for block in (reading(tmp_path, "file"), writing(tmp_path)):
        with pytest.raises(type(error), match=r"^mine$"), block:
            raise error


def test_names_and_messages_steer_no_terminal() -> None:
    assert shown("a b/é.png") == "a b/é.png"
    assert shown("a\x1b[31m\n") == r"'a\x1b[31m\n'"
    assert printable("a\x1b[31m\n  b\udcff") == "a\\x1b[31m\n  b\\udcff"

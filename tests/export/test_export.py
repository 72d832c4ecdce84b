from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dashdeploy.errors import UserError
from dashdeploy.export import parity
from dashdeploy.export.export import export
from dashdeploy.target import ParityLimits, load_target


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_run, folder)
    return folder


def test_an_artifact_that_is_there_is_not_made_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "check", lambda *a, **k: pytest.fail("exported again"))
    stage = export(copied, load_target("onnx-cpu"))
    assert stage.figures["parity"]["worst"]["relative_error"] < 1e-4


def test_a_failed_parity_leaves_no_artifact(copied: Path) -> None:
    strict = load_target("onnx-cpu").model_copy(update={"name": "strict", "parity": ParityLimits(relative_error=1e-12)})
    with pytest.raises(UserError, match="parity failed"):
        export(copied, strict)
    assert sorted(p.name for p in (copied / "artifacts").iterdir()) == ["onnx-cpu"]


def test_group_norm_in_its_instance_form_passes_parity_too(copied: Path) -> None:
    other = load_target("onnx-cpu").model_copy(update={"name": "instance", "group_norm": "instance"})
    assert export(copied, other).figures["parity"]["worst"]["relative_error"] < 1e-4


def test_a_run_without_a_student_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Run the command that makes it first"):
        export(tmp_path, load_target("onnx-cpu"))


def test_a_student_that_was_tampered_with_is_refused(copied: Path) -> None:
    path = copied / "student" / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(UserError, match="damaged or changed"):
        export(copied, load_target("onnx-cpu"))

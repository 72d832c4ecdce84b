"""Packages: an artifact with what builds or serves it, made once, described by a manifest of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
from jinja2 import UndefinedError

from dashdeploy import stages
from dashdeploy.artifact import Backend
from dashdeploy.cli.app import main
from dashdeploy.errors import UserError
from dashdeploy.locate import available, data_root
from dashdeploy.packages import schema
from dashdeploy.packages.cpp import SDKS
from dashdeploy.packages.stage import carry_out, place, refuse_same_names, summary
from dashdeploy.packages.template import render
from dashdeploy.target import Target

CPP = "name: mine\ndescription: for a test\nartifact: onnx-cpu\npackage: {kind: cpp}\n"


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    return tmp_path / "runs" / "tiny"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A package file of a user's own: C++ around the artifact that is there already."""
    path = tmp_path / "mine.yaml"
    path.write_text(CPP)
    return path


def test_it_carries_the_artifact_whole_and_every_source(copied: Path, mine: Path) -> None:
    stage = carry_out(copied, schema.load(str(mine)))
    assert stage.folder == copied / "packages" / "mine"
    carried = stages.read_stage(stage.folder / "artifact")
    assert carried.manifest == stages.read_stage(copied / "artifacts" / "onnx-cpu").manifest
    sources = data_root("exporters") / "cpp"
    for path in (p for p in sources.rglob("*") if p.is_file() and p.name != "README.md"):
        assert (stage.folder / path.relative_to(sources)).read_bytes() == path.read_bytes()
    text = (stage.folder / "README.md").read_text()
    assert "-DDASHDEPLOY_BACKENDS=onnxruntime" in text and "--labels 0-9" in text
    assert "{{" not in text
    assert summary(stage).endswith("its README.md says how to use it")


def test_it_is_made_once_and_again_when_something_changed(copied: Path, mine: Path) -> None:
    first = carry_out(copied, schema.load(str(mine))).folder.stat().st_ino
    assert carry_out(copied, schema.load(str(mine))).folder.stat().st_ino == first
    mine.write_text(CPP.replace("for a test", "for another test"))
    assert carry_out(copied, schema.load(str(mine))).folder.stat().st_ino != first


def test_the_command_writes_packages_beside_artifacts(
    copied: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(copied), "--to", "onnx-cpu", "--to", str(mine), "--json"])
    assert not stopped.value.code
    rows = json.loads(capsys.readouterr().out)["made"]
    assert [Path(row["folder"]).relative_to(copied) for row in rows] == [
        Path("artifacts/onnx-cpu"),
        Path("packages/mine"),
    ]


def test_a_backend_that_no_runtime_has_is_refused(copied: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stages.read_stage(copied / "artifacts" / "onnx-cpu")
    stage.manifest["artifact"]["backend"] = "abacus"
    monkeypatch.setattr("dashdeploy.export.export.export", lambda *_, **__: stage)
    with pytest.raises(UserError, match=r"manifest\.json: artifact\.backend: must be 'onnxruntime', .*got 'abacus'"):
        carry_out(copied, schema.load(str(mine)))
    assert set(SDKS) == set(get_args(Backend))


def test_two_targets_of_one_name_are_refused(mine: Path) -> None:
    what = schema.load(str(mine))
    with pytest.raises(UserError, match="two targets are called mine"):
        refuse_same_names([what, what])


def test_a_template_that_uses_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# {{model}}, {{modle}}\n")
    with pytest.raises(UndefinedError, match="modle"):
        render(tmp_path, "README.md", {"model": "m"})


def test_an_artifact_of_another_solver_is_refused_by_every_package_and_says_which_graphs_are_ddims(
    copied: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stages.read_stage(copied / "artifacts" / "onnx-cpu")
    assert "DDIM" not in summary(stage)
    stage.manifest["artifact"]["sampling"]["solver"] = "dpmpp_2m"
    assert summary(stage).endswith("dpmpp_2m loops over guided on the host: step and sampler hold DDIM's update")
    monkeypatch.setattr("dashdeploy.export.export.export", lambda *_, **__: stage)
    for what in (str(mine), "triton", "triton-onnxruntime"):
        with pytest.raises(UserError, match=r"samples with dpmpp_2m, and packages run DDIM.*Set sampling.solver"):
            carry_out(copied, schema.load(what))
    assert not (copied / "packages").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CPP.replace("cpp", "cppp"), "did you mean 'cpp'?"),
        (CPP.replace("artifact: onnx-cpu\n", ""), "artifact is missing: a package of kind cpp carries one"),
        (CPP.replace("package:", "opset: 22\npackage:"), "opset: unknown key"),
        (CPP.replace("{kind: cpp}", "{kind: triton, max_batch_size: 0}"), "max_batch_size: must be ≥ 1, got 0"),
        (CPP.replace("{kind: cpp}", "cpp"), "package"),
        (CPP.replace("{kind: cpp}", "{kind: diffusers}"), "carries the student itself: leave out artifact"),
    ],
)
def test_a_package_that_is_not_valid_is_told_as_recipes_are(mine: Path, text: str, expected: str) -> None:
    mine.write_text(text)
    with pytest.raises(UserError) as caught:
        schema.load(str(mine))
    assert expected in str(caught.value)
    assert "mine.yaml: 1 problem" in str(caught.value)


def test_an_artifact_that_is_no_target_is_refused(copied: Path, mine: Path) -> None:
    mine.write_text(CPP.replace("onnx-cpu", "cpp"))
    with pytest.raises(UserError, match=r"cpp\.yaml: it has `package`, so it is a package; expected an export target"):
        carry_out(copied, schema.load(str(mine)))


def test_every_package_that_ships_names_a_target_that_ships() -> None:
    found = {name: schema.load(name) for name in available("exporters")}
    for what in found.values():
        if isinstance(what, schema.Package) and what.package.kind != "diffusers":
            assert isinstance(found[what.artifact], Target)
            assert place(what) == "packages"

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from dashdeploy import manifest
from dashdeploy.artifact import BatchRange
from dashdeploy.errors import UserError
from dashdeploy.export.checks import parity
from dashdeploy.export.export import export, refuse, summary
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Data
from dashdeploy.runtime.opening import open_path
from dashdeploy.target import Calibration, Engine, GateLimits, ParityLimits, Profile, SamplerGraph, Target, load_target
from tests.limits import HARDLY_TRAINED
from tests.made import SEGMENTS


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_run, folder)
    return folder


def test_an_artifact_that_is_there_is_not_made_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "check", lambda *a, **k: pytest.fail("exported again"))
    stage = export(copied, load_target("onnx-cpu"))
    assert manifest.read(stage).figures.parity.worst.relative_error < 1e-4


def test_a_failed_parity_leaves_no_artifact(copied: Path) -> None:
    strict = loose(parity=ParityLimits(relative_error=1e-12, batch_sizes=(1, 3), t_bins=2))
    with pytest.raises(UserError, match="parity failed"):
        export(copied, strict)
    assert sorted(p.name for p in (copied / "artifacts").iterdir()) == ["onnx-cpu"]


def test_group_norm_in_its_native_form_passes_parity_too(copied: Path) -> None:
    other = Target(name="native", description="test", group_norm="native")
    assert manifest.read(export(copied, other)).figures.parity.worst.relative_error < 1e-4


def test_a_run_without_a_student_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Run the command that makes it first"):
        export(tmp_path, load_target("onnx-cpu"))


def test_a_student_that_was_tampered_with_is_refused(copied: Path) -> None:
    path = copied / "student" / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(UserError, match="damaged or changed"):
        export(copied, load_target("onnx-cpu"))


def loose(**changes) -> Target:
    """A target for a student that is hardly trained."""
    fields = {"name": "trial", "description": "test", "group_norm": "instance", "gate": HARDLY_TRAINED}
    return Target(**{**fields, "parity": ParityLimits(batch_sizes=(1, 3), t_bins=2), **changes})


@pytest.mark.slow
def test_int8_is_calibrated_on_trajectories_and_passes_a_ladder(copied: Path) -> None:
    stage = export(copied, loose(precision="int8", opset=20, calibration=Calibration(num_images=4, num_steps=2)))
    checks = manifest.read(stage).figures
    assert checks.int8.float_layers[0] == "conv_in" and checks.int8.calibration_draws == 8
    plain, quantized = checks.gate.rungs
    assert (plain.name, quantized.name) == ("ONNX fp32", "onnxruntime int8")
    assert plain.overall.cond_error < 1e-4 < quantized.overall.cond_error
    assert len(quantized.bins) == 2


def test_int8_at_a_newer_opset_is_refused_with_the_reason(copied: Path) -> None:
    with pytest.raises(UserError, match="needs opset ≤ 20, got 22"):
        export(copied, loose(precision="int8"))
    assert sorted(p.name for p in (copied / "artifacts").iterdir()) == ["onnx-cpu"]


@pytest.mark.slow
def test_float16_past_the_gate_fails_with_the_table_and_the_worst_layer(copied: Path) -> None:
    strict = loose(precision="fp16", gate=GateLimits(branch_error=1e-5, num_draws=32, t_bins=2))
    with pytest.raises(
        UserError, match=r"(?s)guidance gate failed at onnxruntime fp16.*gap cos.*The worst layer is \w+"
    ):
        export(copied, strict)
    assert sorted(p.name for p in (copied / "artifacts").iterdir()) == ["onnx-cpu"]


@pytest.mark.slow
def test_a_target_for_a_provider_that_is_not_here_is_checked_on_the_cpu_and_says_so(copied: Path) -> None:
    stage = export(copied, loose(precision="fp16", providers=("CUDAExecutionProvider",)))
    assert "CUDAExecutionProvider itself was not run here" in manifest.read(stage).figures.verified
    assert "CUDAExecutionProvider itself" in summary(stage)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_tensorrt_where_it_is_missing_says_so_in_one_line_with_a_way_out(copied: Path) -> None:
    with pytest.raises(UserError) as caught:
        export(copied, load_target("tensorrt"))
    assert "\n" not in str(caught.value)
    assert "pip install 'dashdeploy[tensorrt]'" in str(caught.value) and "--to rtx" in str(caught.value)


def test_a_provider_that_onnx_runtime_does_not_know_is_refused_with_the_nearest(copied: Path) -> None:
    target = loose(providers=("CUDAExecutionProvidr", "CPUExecutionProvider"))
    with pytest.raises(UserError, match=r"'CUDAExecutionProvidr'\. Did you mean 'CUDAExecutionProvider'") as caught:
        export(copied, target)
    assert "target trial" in str(caught.value) and "\n" not in str(caught.value)
    assert not (copied / "artifacts" / "trial").exists()


def test_a_provider_that_is_not_here_is_exported_and_the_output_says_where_it_was_checked(copied: Path) -> None:
    import onnxruntime

    provider = "NvTensorRTRTXExecutionProvider"  # not in the list of every build
    if provider in onnxruntime.get_available_providers():
        pytest.skip("it is here")
    stage = export(copied, loose(providers=(provider, "CPUExecutionProvider")))
    assert f"checked in ONNX Runtime on the CPU; {provider} itself was not run here" in summary(stage)


def test_bytes_are_not_made_of_latents_but_their_values_are(tiny_recipe) -> None:
    latents = tiny_recipe.model_copy(update={"data": Data(name="latents", path="x.npz")})
    whole = ("guided", "step", "sampler")
    with pytest.raises(UserError, match=r"ends in bytes.*latents.*sampler\.output to float32"):
        refuse(loose(graphs=whole, sampler=SamplerGraph(output="uint8")), latents, Path("run"))
    refuse(loose(graphs=whole), latents, Path("run"))
    refuse(loose(graphs=whole, sampler=SamplerGraph(output="uint8")), tiny_recipe, Path("run"))


def test_a_sampler_graph_of_steps_that_a_few_step_student_does_not_make_is_told_before(tiny_text: str) -> None:
    few = load_text(tiny_text, name="few", overrides=[*SEGMENTS, "distill.timestep_weights.kind=uniform"])
    whole = ("guided", "sampler")
    for steps in (2, 4, None):
        refuse(loose(graphs=whole, sampler=SamplerGraph(num_inference_steps=steps)), few, Path("run"))
    with pytest.raises(UserError, match=r"num_inference_steps is 3, and the student of run makes 4 or 2\."):
        refuse(loose(graphs=whole, sampler=SamplerGraph(num_inference_steps=3)), few, Path("run"))


@pytest.mark.slow
def test_an_rtx_target_leaves_engines_whose_types_are_in_the_manifest(copied: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = Engine(profiles=(Profile(min=1, opt=2, max=4),), compute_capabilities=("8.9",))
    stage = export(copied, loose(backend="tensorrt_rtx", precision="fp16", engine=engine))
    graph = manifest.read(stage).artifact.graphs["guided"]
    assert (graph.file, graph.onnx) == ("guided.plan", "guided.onnx")
    assert set(graph.engine.layers.heavy["convolution"]) == {"float16"}
    assert graph.engine.profiles == (BatchRange(min=1, opt=2, max=4),)
    with pytest.raises(UserError, match="need an NVIDIA GPU"):
        open_path(stage.folder)
    plan = stage.folder / "guided.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"\x00")
    with pytest.raises(UserError, match=r"guided\.plan: damaged or changed"):
        open_path(stage.folder)


@pytest.mark.slow
def test_weights_beside_the_graph_are_vouched_for_too(copied: Path) -> None:
    stage = export(copied, loose(single_file_mb=0))
    data = stage.folder / "guided.onnx.data"
    with open_path(stage.folder, threads=1) as model:
        assert model.file_bytes > data.stat().st_size
    data.write_bytes(data.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match=r"guided\.onnx\.data: damaged or changed"):
        open_path(stage.folder)

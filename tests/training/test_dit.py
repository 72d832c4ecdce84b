"""A DiT with learned variance as the teacher: distilled into students of both kinds, exported, opened in diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel

from dashdeploy.errors import UserError
from dashdeploy.export.export import export, refuse_network
from dashdeploy.recipe.architecture import DiT
from dashdeploy.recipe.load import load_text
from dashdeploy.runtime.opening import open_path
from dashdeploy.stages import open_run
from dashdeploy.target import Calibration, GateLimits, ParityLimits, Target
from dashdeploy.teachers import dit, formats, networks
from dashdeploy.training import distill
from tests.limits import HARDLY_TRAINED

RECIPE = """
name: dit
data: {name: digits}
student: {compression: 2.0}
distill: {steps: 2, batch_size: 8, warmup_steps: 1, ema_decay: 0.5, threads: 1}
sampling: {num_inference_steps: 4}
"""
PARITY = ParityLimits(batch_sizes=(1, 3), t_bins=2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dit-teacher")
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=1,
        out_channels=2,
        num_layers=3,
        sample_size=8,
        num_embeds_ada_norm=10,
    )
    network.save_pretrained(folder / "transformer")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    return folder


def recipe_for(teacher: Path, *overrides: str):
    return load_text(RECIPE, name="dit", overrides=[f"teacher.path={teacher}", "teacher.check=false", *overrides])


@pytest.fixture(scope="module")
def run_folder(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = open_run(tmp_path_factory.mktemp("runs"), "dit")
    distill.distill(recipe_for(teacher), folder)
    return folder


def test_a_dit_is_distilled_into_a_smaller_dit_that_plain_diffusers_opens(run_folder: Path) -> None:
    student = DiTTransformer2DModel.from_pretrained(run_folder / "student", subfolder="transformer").eval()
    assert student.config.out_channels == 1
    ours = formats.load(run_folder / "student", role="student")
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([7, 10])
    with torch.no_grad():
        assert torch.equal(ours(x, t, y), student(x, timestep=t, class_labels=y).sample)
    assert DDIMScheduler.from_pretrained(run_folder / "student", subfolder="scheduler").config.prediction_type == (
        "epsilon"
    )


@pytest.mark.parametrize(
    "student",
    [
        "{dit: {num_layers: 1, num_attention_heads: 2, attention_head_dim: 8}}",
        "{architecture: {block_out_channels: [8, 16], layers_per_block: 1, norm_num_groups: 4}}",
    ],
)
def test_an_explicit_student_of_either_kind_learns_from_a_dit(teacher: Path, tmp_path: Path, student: str) -> None:
    stage = distill.distill(recipe_for(teacher, f"student={student}"), open_run(tmp_path, "dit"))
    assert stage.figures["imitation"] > 0
    assert stage.figures["parameters"] == sum(
        p.numel() for p in formats.load(stage.folder, role="student").unet.parameters()
    )


def test_both_branches_are_the_same_in_onnx_runtime_at_two_batch_sizes(run_folder: Path) -> None:
    stage = export(run_folder, Target(name="onnx", description="test", parity=PARITY, graphs=("guided",)))
    assert stage.figures["parity"]["worst"]["relative_error"] < 1e-4
    student = formats.load(run_folder / "student", role="student")
    x, t, y = torch.randn(5, 1, 8, 8), torch.arange(0, 1000, 200), torch.arange(5)
    w = torch.full((5,), 3.0)
    with open_path(stage.folder, threads=1) as model, torch.no_grad():
        torch.testing.assert_close(model.denoiser.guided(x, t, y, w), student.guided(x, t, y, w), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_half_precision_keeps_the_norms_in_float32_and_passes_the_gate(run_folder: Path) -> None:
    limits = HARDLY_TRAINED.model_copy(update={"branch_error": 0.05})
    stage = export(run_folder, Target(name="half", description="test", precision="fp16", parity=PARITY, gate=limits))
    assert 1e-6 < stage.figures["gate"]["rungs"][-1]["overall"]["cond_error"] < 0.05


def test_an_int8_engine_which_is_of_convolutions_is_refused(run_folder: Path) -> None:
    target = Target(name="int8", description="test", precision="int8", opset=20, backend="tensorrt")
    with pytest.raises(UserError, match=r"int8 engines of TensorRT are of convolutions.*fp16 or bf16"):
        refuse_network(target, "DiTTransformer2DModel", run_folder)


LOOSE = GateLimits(
    **{name: 2.0 for name in ("branch_error", "gap_relative_error", "gap_relative_error_bin", "guided_error")},
    **{name: 2.0 for name in ("step_error", "image_error")},
    gap_cosine=0.1,
    num_draws=32,
    t_bins=2,
)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "quantizer"), [("onnxruntime", "onnxruntime"), ("openvino", "nncf")])
def test_int8_rounds_the_linear_layers_of_the_tokens_and_no_others(
    run_folder: Path, backend: Any, quantizer: Any
) -> None:
    calibration = Calibration(quantizer=quantizer, num_images=8, num_steps=3, float_layers=1)
    settings: dict[str, Any] = {"backend": backend, "parity": PARITY, "gate": LOOSE, "calibration": calibration}
    stage = export(run_folder, Target(name=backend, description="test", precision="int8", opset=20, **settings))
    found = stage.figures["gate"]["rungs"][-1]["overall"]
    assert 1e-4 < found["guided_error"] < 0.5
    if backend == "openvino":
        return
    graph = onnx.load(stage.folder / "guided.onnx")
    stored = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    made_by = {out: node for node in graph.graph.node for out in node.output}
    rounded, plain = [], []
    for node in graph.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        made = made_by.get(node.input[1])
        is_int8 = made is not None and made.op_type == "DequantizeLinear"
        (rounded if is_int8 else plain).append(node)
        if is_int8:
            assert made is not None and stored[made.input[0]] == onnx.TensorProto.INT8
            shape = next(t.dims for t in graph.graph.initializer if t.name == made.input[1])
            assert len(shape) == 1 and shape[0] > 1  # a scale for each output channel
    # Query, key, value, the attention's output, and the two layers of the MLP.
    depth = formats.load(run_folder / "student", role="student").unet.config.num_layers
    assert len(rounded) == 6 * depth and {node.op_type for node in rounded} == {"MatMul"}
    assert {node.op_type for node in plain} == {"MatMul", "Gemm", "Conv"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.image_size=16"], r"its images are \(1, 8, 8\).*\(1, 16, 16\).*data\.image_size.*8"),
        (["student={compression: 999}"], "Lower compression"),
        (["distill.objective={kind: fitnets}"], "a DiTTransformer2DModel has no middle block"),
    ],
)
def test_what_does_not_fit_the_teacher_is_refused(teacher: Path, tmp_path: Path, overrides, message: str) -> None:
    with pytest.raises(UserError, match=message):
        distill.distill(recipe_for(teacher, *overrides), open_run(tmp_path, "dit"))


def test_a_teacher_of_another_class_count_is_refused_with_what_to_do(tmp_path: Path) -> None:
    config = dit.dit_config(
        DiT(num_layers=1, num_attention_heads=1, attention_head_dim=8),
        image_shape=(1, 8, 8),
        num_classes=7,
    )
    networks.save(
        networks.create(config, network=networks.DIT),
        networks.schedules.from_scheduler_config({}, source="x"),
        tmp_path / "other",
    )
    with pytest.raises(UserError, match=r"it has 7 classes and the data 10.*one folder a class"):
        distill.distill(recipe_for(tmp_path / "other"), open_run(tmp_path, "dit"))

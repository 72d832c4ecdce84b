"""Engines are really built, by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import UNet2DModel
from onnx import TensorProto, helper, numpy_helper

from dashdeploy.artifact import BatchRange, EngineRecord
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError
from dashdeploy.export.engine import build as engine_build
from dashdeploy.export.engine import cache as engine_cache
from dashdeploy.export.engine import worker as engine_worker
from dashdeploy.export.engine.build import build
from dashdeploy.export.graph import onnx_file, rewrite
from dashdeploy.export.graph.compose import student_graphs
from dashdeploy.runtime.tensorrt_library import Here, has_driver
from dashdeploy.stages import file_sha256
from dashdeploy.target import Engine, Profile

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None or importlib.util.find_spec("polygraphy") is None,
    reason="needs tensorrt_rtx and polygraphy",
)
needs_no_gpu = pytest.mark.skipif(has_driver(), reason="is about machines without a GPU")
ADA = Engine(compute_capabilities=("8.9",))


@pytest.fixture(scope="module")
def denoiser() -> TorchDenoiser:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 48),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=11,
        attention_head_dim=None,
    )
    schedule = NoiseSchedule(np.linspace(1e-4, 0.02, 1000))
    return TorchDenoiser(unet, Interface(num_classes=10, image_shape=(1, 8, 8), schedule=schedule))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def exported(denoiser: TorchDenoiser, folder: Path, precision: str, opset: int = 22) -> Path:
    rewritten = rewrite.for_export(denoiser, group_norm="native", precision=precision)
    [(_, model)] = student_graphs(rewritten, ["guided"], clip_sample=True, opset=opset)
    return onnx_file.save(model, folder / f"guided-{precision}-{opset}.onnx", metadata={}, single_file_mb=100)


@pytest.fixture(scope="module")
def fp32(denoiser: TorchDenoiser, folder: Path) -> Path:
    return exported(denoiser, folder, "fp32")


@pytest.fixture(scope="module")
def int8(denoiser: TorchDenoiser, folder: Path) -> Path:
    """Convolutions in symmetric int8, but for conv_out."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    shape_inference = pytest.importorskip("onnxruntime.quantization.shape_inference")
    source = exported(denoiser, folder, "fp32", opset=20)
    draw = np.random.default_rng(0)
    feeds = [
        {
            "x": draw.normal(size=(4, 1, 8, 8)).astype(np.float32),
            "t": np.arange(4) * 200,
            "y": np.arange(4),
            "w": np.full(4, 2, np.float32),
        }
        for _ in range(2)
    ]
    prepared, quantized = folder / "prepared.onnx", folder / "guided-int8.onnx"
    shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    last = next(n.name for n in onnx.load(prepared).graph.node if "conv_out.weight" in "".join(n.input))

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            return feeds.pop() if feeds else None

    quantization.quantize_static(
        str(prepared),
        str(quantized),
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=[last],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return quantized


@pytest.fixture(scope="module")
def cache(folder: Path) -> Path:
    return folder / "cache"


@pytest.fixture(scope="module")
def record(fp32: Path, folder: Path, cache: Path) -> EngineRecord:
    """What the first build of the float32 graph returned; its plan is fp32.plan."""
    return build(fp32, folder / "fp32.plan", ADA, flavour="tensorrt_rtx", precision="fp32", cache=cache)


@needs_rtx
def test_the_record_says_what_was_built(record: EngineRecord, fp32: Path, folder: Path) -> None:
    assert EngineRecord.model_validate_json(record.model_dump_json(), strict=True) == record
    plan = folder / "fp32.plan"
    assert record.plan_sha256 == file_sha256(plan) and record.plan_bytes == plan.stat().st_size
    assert record.onnx_sha256 == file_sha256(fp32)
    assert record.compute_capabilities == ("8.9",) and record.from_cache is False
    assert record.profiles == (BatchRange(min=1, opt=8, max=64),)
    inputs = {"x": ("float32", 1, 8, 8), "t": ("int64",), "y": ("int64",), "w": ("float32",)}
    assert {each.name: (each.dtype, *each.shape[1:]) for each in record.inputs} == inputs
    assert [(each.name, each.dtype, each.shape) for each in record.outputs] == [("eps", "float32", ("batch", 1, 8, 8))]
    assert record.layers.heavy == {"convolution": {"float32": 25}, "matmul": {"float32": 32}}
    assert record.build_s > 0 and record.build_peak_mib > 100
    assert record.tensorrt.startswith("1.") and record.flags.strongly_typed


@needs_rtx
def test_the_same_build_comes_from_the_cache(
    record: EngineRecord, fp32: Path, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "_worker", lambda *a: pytest.fail("it was built again"))
    again = build(fp32, folder / "again.plan", ADA, flavour="tensorrt_rtx", precision="fp32", cache=cache)
    assert again == record.model_copy(update={"from_cache": True})
    assert file_sha256(folder / "again.plan") == record.plan_sha256


@needs_rtx
def test_a_damaged_plan_in_the_cache_is_built_again(record: EngineRecord, fp32: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = build(fp32, tmp_path / "a.plan", ADA, flavour="tensorrt_rtx", precision="fp32", cache=cache)
    kept = cache / f"{first.plan_sha256}.plan"
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    second = build(fp32, tmp_path / "b.plan", ADA, flavour="tensorrt_rtx", precision="fp32", cache=cache)
    assert second.from_cache is False
    assert file_sha256(tmp_path / "b.plan") == second.plan_sha256


@needs_rtx
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_half_graphs_compute_in_half(
    precision: str, dtype: str, denoiser: TorchDenoiser, folder: Path, cache: Path
) -> None:
    path = exported(denoiser, folder, precision)
    got = build(path, folder / f"{precision}.plan", ADA, flavour="tensorrt_rtx", precision=precision, cache=cache)
    assert got.layers.heavy == {"convolution": {dtype: 25}, "matmul": {dtype: 32}}
    assert got.inputs[0].dtype == got.outputs[0].dtype == "float32"
    with pytest.raises(UserError, match=f"fp32 was asked for, but 57 of 57 .* {dtype} convolution"):
        build(path, folder / "no.plan", ADA, flavour="tensorrt_rtx", precision="fp32", cache=cache)
    assert not (folder / "no.plan").exists()


@needs_rtx
def test_a_float32_graph_sold_as_fp16_is_refused_before_it_is_built(fp32: Path, tmp_path: Path) -> None:
    phases: list[str] = []
    with pytest.raises(UserError, match=r"25 float32 convolution.*denoiser\.unet\.conv_in") as error:
        build(
            fp32,
            tmp_path / "x.plan",
            ADA,
            flavour="tensorrt_rtx",
            precision="fp16",
            cache=tmp_path / "cache",
            on_progress=lambda phase, share: phases.append(phase),
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.plan").exists() and list((tmp_path / "cache").iterdir()) == []
    assert phases == ["Parsing"]


@needs_rtx
def test_the_cache_does_not_hide_a_wrong_precision(record: EngineRecord, fp32: Path, folder: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="fp16 was asked for"):
        build(fp32, folder / "lie.plan", ADA, flavour="tensorrt_rtx", precision="fp16", cache=cache)
    assert not (folder / "lie.plan").exists()


@needs_rtx
def test_int8_convolutions_are_counted_and_float_ones_must_be_declared(int8: Path, folder: Path, cache: Path) -> None:
    plan = folder / "int8.plan"
    with pytest.raises(UserError, match=r"1 of 25 .* 1 float32 convolution \(\S+ of denoiser.unet.conv_out\)"):
        build(int8, plan, ADA, flavour="tensorrt_rtx", precision="int8", cache=cache)
    got = build(
        int8, plan, ADA, flavour="tensorrt_rtx", precision="int8", cache=cache, float_layers=["conv_out", "conv_in"]
    )
    assert got.layers.heavy["convolution"] == {"float32": 1, "int8": 24}


@needs_rtx
def test_several_profiles_and_gpus_in_one_engine(fp32: Path, folder: Path, cache: Path) -> None:
    config = Engine(
        profiles=(Profile(min=1, opt=1, max=1), Profile(min=2, opt=8, max=64)),
        compute_capabilities=("8.6", "12.0"),
        optimization_level=1,
        workspace_mib=2048,
    )
    shares: list[float] = []
    got = build(
        fp32,
        folder / "many.plan",
        config,
        flavour="tensorrt_rtx",
        precision="fp32",
        cache=cache,
        on_progress=lambda phase, share: shares.append(share),
    )
    assert got.compute_capabilities == ("8.6", "12.0") and len(got.profiles) == 2
    assert got.flags.workspace_mib == 2048
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(set(shares)) > 3


def looped(path: Path) -> Path:
    """x -> three convolutions by an ONNX Loop."""
    image = ["batch", 4, 8, 8]
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["v", "k"], ["v_out"], name="conv_in_loop", pads=[1, 1, 1, 1]),
            helper.make_node("Identity", ["go"], ["go_out"], name="go_on"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, image),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, image),
        ],
        initializer=[numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "k")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "true", "x"], ["out"], name="loop", body=body)],
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, image)],
        initializer=[numpy_helper.from_array(np.asarray(3), "n"), numpy_helper.from_array(np.asarray(True), "true")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@needs_rtx
def test_a_loop_builds_and_its_body_is_counted(tmp_path: Path) -> None:
    path = looped(tmp_path / "loop.onnx")
    got = build(path, tmp_path / "p", ADA, flavour="tensorrt_rtx", precision="fp32", cache=tmp_path / "cache")
    assert got.layers.heavy == {"convolution": {"float32": 1}}
    with pytest.raises(UserError, match="conv_in_loop"):
        build(path, tmp_path / "p2", ADA, flavour="tensorrt_rtx", precision="bf16", cache=tmp_path / "cache")


@needs_rtx
def test_ctrl_c_stops_the_builder_and_leaves_nothing(fp32: Path, tmp_path: Path) -> None:
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def popen(*args: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(real(*args, **options))
        return started[-1]

    def interrupt(phase: str, share: float) -> None:
        if phase != "Parsing":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_build.subprocess, "Popen", popen)
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            build(
                fp32,
                tmp_path / "x.plan",
                ADA,
                flavour="tensorrt_rtx",
                precision="fp32",
                cache=tmp_path / "cache",
                on_progress=interrupt,
            )
    assert time.monotonic() - begun < engine_build.CANCEL_S
    assert [p.returncode for p in started] == [0], "it ended by itself"
    assert not (tmp_path / "x.plan").exists() and list((tmp_path / "cache").iterdir()) == []


@needs_rtx
def test_a_builder_that_crashes_is_an_error_message(
    fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[str]:
        crash = "import os, sys; print('it hurts', flush=True); sys.stdin.readline(); os.abort()"
        return real([command[0], "-c", crash], **options)

    monkeypatch.setattr(engine_build.subprocess, "Popen", popen)
    with pytest.raises(UserError, match=r"killed by SIGABRT .* last words: it hurts\..*What to do"):
        build(fp32, tmp_path / "x", ADA, flavour="tensorrt_rtx", precision="fp32", cache=tmp_path / "cache")


def test_compute_capabilities_that_rtx_does_not_build_for_are_refused() -> None:
    with pytest.raises(UserError, match=r"does not build for compute capability 9\.0; it knows 7\.5, .*tensorrt"):
        engine_build.place(Engine(), Here("tensorrt_rtx", "1.7", "13", "13.0", "H100", "9.0"))
    here = Here("tensorrt_rtx", "1.7", "13", "13.0", "RTX 4090", "8.9")
    assert engine_build.place(Engine(), here) == ["8.9"]


def test_without_a_gpu_the_message_says_what_to_do() -> None:
    with pytest.raises(UserError, match="--to rtx"):
        engine_build.place(Engine(), Here("tensorrt", "11.0.0.1"))
    with pytest.raises(UserError, match="List the compute capabilities"):
        engine_build.place(Engine(), Here("tensorrt_rtx", "1.7.1.116"))


@needs_no_gpu
@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="is about machines without tensorrt")
def test_plain_tensorrt_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip install 'dashdeploy\[tensorrt\]', or export with `--to rtx`"):
        build(tmp_path / "x.onnx", tmp_path / "p", Engine(), flavour="tensorrt", precision="fp32", cache=tmp_path)


@needs_rtx
def test_a_missing_onnx_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such ONNX file"):
        build(tmp_path / "x.onnx", tmp_path / "p", ADA, flavour="tensorrt_rtx", precision="fp32", cache=tmp_path)


def test_weights_beside_a_graph_are_part_of_its_hash(tmp_path: Path) -> None:
    graph = tmp_path / "g.onnx"
    graph.write_bytes(b"graph")
    alone = engine_build.graph_sha256(graph)
    assert alone == file_sha256(graph)
    graph.with_name("g.onnx.data").write_bytes(b"weights")
    assert engine_build.graph_sha256(graph) != alone


def test_the_timing_cache_belongs_to_one_device_and_version(tmp_path: Path) -> None:
    names = {
        engine_build._timing_cache(Engine(), tmp_path, Here("tensorrt", version, "13", "13.0", "A", cc))
        for version, cc in (("11.0", "8.9"), ("11.1", "8.9"), ("11.0", "9.0"))
    }
    assert len(names) == 3 and None not in names
    assert engine_build._timing_cache(Engine(), tmp_path, Here("tensorrt_rtx")) is None
    own = engine_build._timing_cache(Engine(timing_cache=f"{tmp_path}/a/b"), tmp_path, Here("tensorrt"))
    assert own == f"{tmp_path}/a/b" and os.path.isdir(f"{tmp_path}/a")


@needs_rtx
def test_plain_tensorrts_settings_reach_the_builder(
    fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTX's library under plain TensorRT's name: near-identical APIs, and the one that builds without a GPU."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(
        "from tensorrt_rtx import *\nfrom tensorrt_rtx import ILogger, IProgressMonitor\n__version__ = '11.1.0.1'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    timing_cache = tmp_path / "timing.cache"
    timing_cache.write_bytes(b"damaged")
    job = {
        **Engine(hardware_compatibility="ampere_plus", workspace_mib=512).model_dump(mode="json"),
        "flavour": "tensorrt",
        "onnx": str(fp32),
        "plan": str(tmp_path / "g.plan"),
        "timing_cache": str(timing_cache),
    }
    events = list(engine_build._worker(job, tmp_path / "output.txt", "TensorRT"))
    assert events[-1]["event"] == "done", events[-1]
    assert next(e["version"] for e in events if e["event"] == "network") == "11.1.0.1"
    assert (tmp_path / "g.plan").stat().st_size > 1000
    assert timing_cache.read_bytes() != b"damaged", "it was replaced by this build's"
    job["version_compatible"] = True  # its lean runtime is plain TensorRT's
    failed = list(engine_build._worker(job, tmp_path / "output.txt", "TensorRT"))[-1]
    assert failed["event"] == "failed" and "libnvinfer_lean" in failed["errors"][0]["text"]


def test_progress_in_nested_phases_only_grows() -> None:
    phases = engine_worker.Phases()
    phases.start("all", None, 2)
    phases.start("first", "all", 4)
    assert [phases.step("first", i) for i in range(4)] == [0.125, 0.25, 0.375, 0.5]
    phases.finish("first")
    assert phases.step("all", 0) == 0.5
    phases.start("second", "all", 1)
    phases.start("deep", "second", 2)
    assert phases.step("deep", 0) == 0.75
    phases.start("stray", "never opened", 1)
    phases.finish("never opened")
    assert phases.step("unknown", 3) == 0.75
    assert phases.step("second", 0) == 1.0


def test_identity_never_fails_and_follows_what_an_engine_depends_on() -> None:
    assert engine_cache.identity("tensorrt", Engine())["flavour"] == "tensorrt"
    own = engine_cache.identity("tensorrt_rtx", Engine())
    listed = engine_cache.identity("tensorrt_rtx", ADA)
    assert "device_name" in own and "device_name" not in listed

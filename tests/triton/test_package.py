"""The triton package: its configs as Triton's protobuf reads them, compared with the artifact's manifest."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import triton_to_np_dtype

import dashdeploy.runtime
from dashdeploy import locate, stages
from dashdeploy import manifest as manifests
from dashdeploy.artifact import Artifact, BatchRange
from dashdeploy.diffusion import noise, sampling
from dashdeploy.errors import UserError
from dashdeploy.export import describe
from dashdeploy.packages import schema, triton_config
from dashdeploy.packages import triton as package_triton
from dashdeploy.packages.schema import Triton
from dashdeploy.packages.stage import write_package
from dashdeploy.recipe.schema import Recipe, Sampling, Tag
from tests.records import engine_record

TEMPLATES = locate.data_root("exporters") / "triton"


def config_of(folder: Path) -> Any:
    """The only model's config of a package."""
    (path,) = (folder / "model_repository").glob("*/config.pbtxt")
    return text_format.Parse(path.read_text(), pb.ModelConfig())


def writer(name: str, **changes: Any) -> package_triton.TritonWriter:
    """The writer of a package of exporters/ with some settings changed."""
    package = schema.load(name)
    assert isinstance(package, schema.Package)
    settings = package.package.model_copy(update=changes)
    return package_triton.TritonWriter(package.model_copy(update={"package": settings}), TEMPLATES)


def artifact_of(tiny_run: Path) -> stages.Stage:
    return stages.read_stage(tiny_run / "artifacts" / "onnx-cpu")


def as_tensorrt(artifact: stages.Stage, folder: Path, *, first: int = 1) -> stages.Stage:
    """A float32 ONNX artifact edited to look like a TensorRT one: its engines are stand-ins of 4 bytes.

    first: the smallest batch of the wider profile.
    """
    shutil.copytree(artifact.folder, folder)
    manifest = json.loads((folder / stages.MANIFEST).read_text())
    profiles = (BatchRange(min=1, opt=4, max=8), BatchRange(min=first, opt=8, max=64))
    engine = engine_record("tensorrt", profiles=profiles).model_dump(mode="json")
    manifest["artifact"] |= {"backend": "tensorrt", "providers": []}
    for name, graph in manifest["artifact"]["graphs"].items():
        (folder / f"{name}.plan").write_bytes(b"plan")
        manifest["files"][f"{name}.plan"] = stages.file_sha256(folder / f"{name}.plan")
        graph |= {"file": f"{name}.plan", "files": [*graph["files"], f"{name}.plan"], "engine": engine}
    return stages.Stage(folder, manifest)


def check(maker: package_triton.TritonWriter, artifact: stages.Stage) -> None:
    """Whether a package can carry an artifact."""
    described = manifests.read(artifact).artifact
    engines = [graph.engine for graph in described.graphs.values() if graph.engine is not None]
    maker.fits(str(artifact.folder), described.backend, described.graphs, engines[0].profiles if engines else ())


def write(maker: package_triton.TritonWriter, folder: Path, artifact: stages.Stage) -> Any:
    """Check and write a package; its parsed config."""
    folder.mkdir()
    check(maker, artifact)
    maker.write(folder, artifact.folder, manifests.read(artifact))
    return config_of(folder)


def contract_of(tiny_run: Path) -> Artifact:
    """The artifact's part of the manifest, typed."""
    return manifests.read(artifact_of(tiny_run)).artifact


def sampled(tiny_run: Path, section: Sampling) -> Artifact:
    """The same with another sampling section."""
    with dashdeploy.runtime.open(tiny_run / "student") as student:
        plan = describe.sampling_plan(section, student.denoiser.interface)
    return contract_of(tiny_run).model_copy(update={"sampling": plan})


def parsed_config(settings: Triton, artifact: Artifact) -> Any:
    """The config of an artifact as Triton's protobuf reads it."""
    message = triton_config.config(settings, artifact, package_triton.schedule(artifact, settings), name="m")
    return text_format.Parse(triton_config.text(message), pb.ModelConfig())


def inputs_of(config: Any, batch: int) -> dict[str, tuple[str, list[int]]]:
    """Name -> (numpy type, shape that the backend gets) of a config's inputs."""
    inputs = {}
    for tensor in config.input:
        dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
        kind = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        dtype = triton_to_np_dtype("BYTES" if kind == "STRING" else kind)
        inputs[tensor.name] = (np.dtype(dtype).name, [batch, *dims])
    return inputs


def manifest_inputs(artifact: stages.Stage, batch: int) -> dict[str, tuple[str, list[int]]]:
    """The same of the manifest's sampler graph."""
    entries = artifact.manifest["artifact"]["graphs"]["sampler"]["inputs"]
    return {e["name"]: (e["dtype"], [batch if d == "batch" else d for d in e["shape"]]) for e in entries}


def check_common(config: Any, folder: Path, artifact: stages.Stage) -> None:
    """What the three kinds share."""
    described = artifact.manifest["artifact"]
    assert config.name == "tiny" and config.max_batch_size == 64
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert config.version_policy.latest.num_versions == 1
    assert [group.count for group in config.instance_group] == [1]
    assert [(w.name, w.batch_size) for w in config.model_warmup] == [("one image", 1), ("full batch", 64)]
    for warm_up in config.model_warmup:
        assert set(warm_up.inputs) == {tensor.name for tensor in config.input if not tensor.optional}
    (output,) = config.output
    assert list(output.dims) == described["image_shape"]
    assert json.loads(config.parameters["guidance"].string_value) == [2.0] * 4
    model = folder / "model_repository" / "tiny"
    assert (model / "labels.txt").read_text().splitlines() == described["classes"]
    assert json.loads(config.parameters["classes"].string_value) == described["classes"]
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".md", ".py", ".yaml", ""):
            assert not re.search(r"\{\{|\{%", path.read_text()), path


def test_the_python_package_carries_the_artifact_whole_and_takes_a_label_and_a_seed(
    python_package: stages.Stage, tiny_run: Path
) -> None:
    artifact, folder = artifact_of(tiny_run), python_package.folder
    config = config_of(folder)
    check_common(config, folder, artifact)
    assert config.backend == "python"
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert config.parameters["threads"].string_value == "2"
    image = [1, *artifact.manifest["artifact"]["image_shape"]]
    assert inputs_of(config, 1) == {
        "label": ("int64", [1, 1]),
        "guidance": ("float32", [1, -1]),
        "seed": ("uint64", [1, 1]),
        "index": ("uint64", [1, 1]),
        "noise": ("float32", image),
        "steps": ("int64", [1, 1]),
        "solver": ("object", [1, 1]),
    }
    assert [tensor.name for tensor in config.input if not tensor.optional] == ["label"]
    version = folder / "model_repository" / "tiny" / "1"
    assert stages.read_stage(version / "artifact").sha256 == artifact.sha256
    assert (version / "noise.py").read_bytes() == Path(noise.__file__).read_bytes()
    assert stages.read_stage(folder).figures == {"model": "tiny", "backend": "python", "num_inference_steps": 4}


def test_the_onnxruntime_config_declares_the_sampler_graph_and_the_graph_runs_on_it(
    graph_package: stages.Stage, tiny_run: Path
) -> None:
    artifact, folder = artifact_of(tiny_run), graph_package.folder
    config = config_of(folder)
    check_common(config, folder, artifact)
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert inputs_of(config, 3) == manifest_inputs(artifact, 3)
    version = folder / "model_repository" / "tiny" / "1"
    session = onnxruntime.InferenceSession(str(version / config.default_model_filename))
    generator = np.random.default_rng(0)
    feeds: dict[str, Any] = {
        name: generator.standard_normal(shape).astype(dtype) if dtype == "float32" else np.arange(3)
        for name, (dtype, shape) in inputs_of(config, 3).items()
    }
    feeds["w"] = np.full_like(feeds["w"], 3.0)
    (images,) = session.run([config.output[0].name], feeds)
    assert list(images.shape) == [3, *config.output[0].dims] and images.dtype == np.float32
    described = artifact.manifest["artifact"]
    plan = sampling.plan(Recipe.model_validate(artifact.manifest["recipe"]).sampling, 1000, scale=3.0)
    assert list(plan.timesteps) == described["sampler"]["timesteps"]
    with dashdeploy.runtime.open(tiny_run / "student") as student:  # torch's own loop
        expected = student.sample(torch.from_numpy(feeds["noise"]), torch.from_numpy(feeds["y"]), plan)
    assert np.abs(images - expected.numpy()).max() < 1e-4


def test_weights_beside_the_graph_are_carried_along(tiny_run: Path, tmp_path: Path) -> None:
    whole = artifact_of(tiny_run)
    shutil.copytree(whole.folder, tmp_path / "artifact")
    path, weights = tmp_path / "artifact" / "sampler.onnx", "sampler.onnx.data"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=weights)
    artifact = stages.Stage(tmp_path / "artifact", json.loads((tmp_path / "artifact" / stages.MANIFEST).read_text()))
    artifact.manifest["artifact"]["graphs"]["sampler"]["files"].append(weights)
    for name in (path.name, weights):
        artifact.manifest["files"][name] = stages.file_sha256(path.with_name(name))
    config = write(writer("triton-onnxruntime"), tmp_path / "package", artifact)
    version = tmp_path / "package" / "model_repository" / "tiny" / "1"
    assert {file.name for file in version.iterdir()} == {config.default_model_filename, weights}
    onnxruntime.InferenceSession(str(version / config.default_model_filename))


def test_the_tensorrt_config_declares_the_engine_and_its_widest_profile(tiny_run: Path, tmp_path: Path) -> None:
    artifact = as_tensorrt(artifact_of(tiny_run), tmp_path / "artifact")
    config = write(writer("triton-tensorrt"), tmp_path / "package", artifact)
    check_common(config, tmp_path / "package", artifact)
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert inputs_of(config, 5) == manifest_inputs(artifact, 5)
    (group,) = config.instance_group
    assert group.kind == pb.ModelInstanceGroup.KIND_GPU and list(group.profile) == ["1"]
    version = tmp_path / "package" / "model_repository" / "tiny" / "1"
    assert [path.name for path in version.iterdir()] == [config.default_model_filename] == ["model.plan"]
    assert "nvidia.com/gpu" in (tmp_path / "package" / "kubernetes" / "inferenceservice.yaml").read_text()


def test_the_graph_output_may_be_bytes(tiny_run: Path) -> None:
    described = contract_of(tiny_run).model_dump()
    described["sampler"]["output"] = described["graphs"]["sampler"]["outputs"][0]["dtype"] = "uint8"
    parsed = parsed_config(writer("triton-onnxruntime").settings, Artifact.model_validate(described))
    assert parsed.output[0].data_type == pb.TYPE_UINT8


def test_artifacts_that_a_backend_cannot_run_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    plain = artifact_of(tiny_run)
    engine = as_tensorrt(plain, tmp_path / "engine")
    with pytest.raises(UserError, match=r"tensorrt_plan runs artifacts for tensorrt, and this one is for onnxruntime"):
        check(writer("triton-tensorrt"), plain)
    with pytest.raises(UserError, match=r"python runs artifacts for onnxruntime, and this one is for tensorrt\b.*onnx"):
        check(writer("triton"), engine)
    with pytest.raises(UserError, match=r"onnxruntime_onnx runs artifacts for onnxruntime"):
        check(writer("triton-onnxruntime"), engine)
    with pytest.raises(UserError, match=r"up to 65 images into a batch.* at most 64\. Lower max_batch_size"):
        check(writer("triton-tensorrt", max_batch_size=65), engine)
    with pytest.raises(UserError, match=r"profile begins at 2 images. Set min to 1"):
        check(writer("triton-tensorrt"), as_tensorrt(plain, tmp_path / "late", first=2))
    del engine.manifest["artifact"]["graphs"]["sampler"]
    with pytest.raises(
        UserError, match=r"runs the sampler graph, and this artifact has guided, cond, step. Add sampler"
    ):
        check(writer("triton-tensorrt"), engine)


@pytest.fixture
def changed(tiny_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the artifact with a changed manifest, sealed again."""

    def make(change: Callable[[dict[str, Any]], object]) -> Path:
        folder = tmp_path / "artifact"
        shutil.copytree(tiny_run / "artifacts" / "onnx-cpu", folder)
        path = folder / stages.MANIFEST
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
        (folder / stages.SIDECAR).write_bytes(stages.sidecar_text(path))
        return folder

    return make


@pytest.mark.parametrize("number", [stages.FORMAT - 1, stages.FORMAT + 1])
def test_the_model_refuses_another_format_in_a_line(
    changed: Callable[..., Path], model_sampler: Any, number: int
) -> None:
    folder = changed(lambda manifest: manifest.update(format=number))
    with pytest.raises(ValueError) as caught:
        model_sampler.Sampler(folder, threads=1)
    expected = f"format {number}; this model reads {stages.FORMAT}. Export the package again."
    assert str(caught.value) == f"{folder / stages.MANIFEST}: {expected}"


@pytest.mark.parametrize("small", [True, False])
def test_the_model_takes_its_plan_and_its_threads_from_the_manifest(
    changed: Callable[..., Path], model_sampler: Any, small: bool
) -> None:
    steps, scales = [900, 500, 3], [1.5, 4.0, 0.5]

    def change(manifest: dict[str, Any]) -> None:
        manifest["artifact"]["sampling"].update(timesteps=steps, guidance_scales=scales)
        manifest["artifact"]["host"].update(small=small)

    sampler = model_sampler.Sampler(changed(change), threads=2)
    assert (sampler.timesteps, sampler.guidance_scales.tolist()) == (steps, scales)
    assert (sampler.whole is sampler.part) == small
    sampler.close()


def test_a_public_key_is_the_python_backend_s_parameter(tiny_run: Path) -> None:
    key = "RW" + "A" * 54
    parsed = parsed_config(writer("triton", public_key=key).settings, contract_of(tiny_run))
    assert parsed.parameters["public_key"].string_value == key
    with pytest.raises(UserError, match=r"onnxruntime_onnx does not check signatures, and triton-onnxruntime has"):
        check(writer("triton-onnxruntime", public_key=key), artifact_of(tiny_run))


def test_a_queue_may_have_a_limit(tiny_run: Path) -> None:
    parsed = parsed_config(writer("triton", max_queue_size=7).settings, contract_of(tiny_run))
    assert parsed.dynamic_batching.default_queue_policy.max_queue_size == 7


def test_guidance_over_time_becomes_the_default_of_each_step(tiny_run: Path) -> None:
    recipe = Recipe.model_validate(artifact_of(tiny_run).manifest["recipe"])
    tag = recipe.sampling.model_copy(update={"guidance": Tag()})
    artifact = sampled(tiny_run, tag)
    steps = package_triton.schedule(artifact, writer("triton").settings)
    plan = sampling.plan(tag, 1000)
    assert (steps.timesteps, steps.guidance_scales) == (plan.timesteps, plan.weights)
    assert len(set(steps.guidance_scales)) == 4


def test_the_steps_are_those_of_the_graph_that_triton_runs(tiny_run: Path) -> None:
    recipe = Recipe.model_validate(artifact_of(tiny_run).manifest["recipe"])
    more = recipe.sampling.model_copy(update={"num_inference_steps": 8})
    artifact = sampled(tiny_run, more)
    for name, num_steps in (("triton", 8), ("triton-onnxruntime", 4), ("triton-tensorrt", 4)):
        assert len(package_triton.schedule(artifact, writer(name).settings).timesteps) == num_steps


def test_class_names_of_any_kind_survive_the_config(tiny_run: Path) -> None:
    names = ['a "quoted" name', "Lokomotive über Brücke", "back\\slash", "\U0001f642"]
    artifact = contract_of(tiny_run).model_copy(update={"classes": names})
    parsed = parsed_config(writer("triton").settings, artifact)
    assert json.loads(parsed.parameters["classes"].string_value) == names


def test_a_config_that_triton_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"m/config.pbtxt: Triton does not read it .*max_batch"):
        triton_config.check("max_batch: 3", source="m/config.pbtxt")


def test_a_package_is_written_again_only_when_it_changes(tiny_run: Path, python_package: stages.Stage) -> None:
    manifest = python_package.folder / stages.MANIFEST
    before = manifest.stat().st_mtime_ns
    same = schema.Package.model_validate(python_package.manifest["inputs"]["package"])
    assert write_package(tiny_run, same).sha256 == python_package.sha256
    assert manifest.stat().st_mtime_ns == before
    other = same.model_copy(update={"name": "other", "package": same.package.model_copy(update={"model_name": "m"})})
    assert (write_package(tiny_run, other).folder / "model_repository" / "m").is_dir()

"""An artifact's manifest is what its type says, or is refused with the file, the key and the reason on one line."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dashdeploy import manifest, stages
from dashdeploy.errors import UserError
from dashdeploy.figures import Rung
from tests.records import engine_record, with_value


@pytest.fixture(scope="module")
def written(tiny_run: Path) -> dict[str, Any]:
    """What the export wrote."""
    return json.loads((tiny_run / "artifacts" / "onnx-cpu" / "manifest.json").read_text())


def changed(written: dict[str, Any], path: str, value: Any) -> str:
    """The manifest with one value set, or removed where value is KeyError; path as in artifact.graphs.step.file."""
    return json.dumps(with_value(written, path.split("."), value))


def test_what_export_wrote_reads_back_equal(written: dict[str, Any]) -> None:
    contents = manifest.parse(json.dumps(written), source="m")
    assert contents.model_dump(mode="json") == written
    assert written["files"].keys() == {file for graph in contents.artifact.graphs.values() for file in graph.files}


def test_the_plan_of_every_step_is_in_the_manifest(written: dict[str, Any]) -> None:
    artifact = manifest.parse(json.dumps(written), source="m").artifact
    assert artifact.sampling.timesteps == artifact.sampler.timesteps == (999, 749, 499, 249)
    assert artifact.sampling.guidance_scales == artifact.sampler.guidance_scales == (2.0,) * 4
    assert artifact.host.small and 0 < artifact.host.cond_gain < artifact.host.cond_gain_few < 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 4, "format: must be greater than or equal to 5, got '4'"),
        ("artifact", KeyError, "artifact: is missing"),
        ("artifact.macs", KeyError, "artifact.macs: is missing"),
        ("artifact.backend", "abacus", "artifact.backend: must be 'onnxruntime', 'openvino', 'tensorrt' or"),
        ("artifact.prediction_type", "flow", "prediction_type: must be 'epsilon', 'v_prediction' or 'sample'"),
        (
            "artifact.prediction_type",
            "v_prediction",
            "graphs.guided.outputs must be v float32 [batch, 1, 8, 8], got eps",
        ),
        ("artifact.branches", KeyError, "artifact.branches: is missing"),
        ("artifact.branches", 3, "artifact.branches: must be 1 or 2"),
        ("artifact.branches", 1, "artifact: guidance_range is of a student of one branch, and null of one of two"),
        ("artifact.guidance_range", [1.0, 4.0], "artifact: guidance_range is of a student of one branch"),
        ("artifact.grids", [[999, 749]], "artifact: sampling.timesteps must be one of grids"),
        (
            "artifact.sampling.solver",
            "consistency",
            "sampling.solver consistency is of a few-step student, and grids is",
        ),
        ("artifact.grids", [[1000, 749]], "artifact: grids must be below num_train_timesteps, 1000"),
        ("artifact.grids", [[249, 749]], "artifact.grids.0: must descend"),
        ("artifact.opset", 22.0, "artifact.opset: must be a valid integer, got '22.0'"),
        ("artifact.opset", True, "artifact.opset: must be a valid integer"),
        ("artifact.opset", "22", "artifact.opset: must be a valid integer"),
        ("artifact.parameters", -1, "artifact.parameters: must be greater than or equal to 0"),
        ("artifact.betas.3", 1, "artifact: betas must be between 0 and 1; the last may be 1 where"),
        ("artifact.betas.999", 1, "the last may be 1 where prediction_type is not epsilon"),
        ("artifact.betas.3", 1.5, "artifact.betas.3: must be less than or equal to 1"),
        ("artifact.betas.3", 0, "artifact.betas.3: must be greater than 0"),
        ("artifact.betas.3", math.nan, "artifact.betas.3: must be a finite number"),
        ("artifact.betas", [0.1], "artifact: betas has 1 values for 1000 timesteps"),
        ("artifact.classes", [], "artifact: classes has 0 names for 10 classes"),
        ("artifact.null_class", 9, "artifact: null_class must be num_classes, 10, got 9"),
        ("artifact.image_shape", [1, 8], "artifact.image_shape.2: is missing"),
        ("artifact.image_shape", [1, 8, 9], "artifact: graphs.guided.inputs must be x float32 [batch, 1, 8, 9]"),
        ("artifact.image_shape", [65536, 65536, 2], "artifact: image_shape has more than 268435456 values"),
        ("artifact.providers", [], "artifact: providers is empty"),
        ("artifact.sampler", None, "artifact: graphs has a sampler, and sampler does not say its timesteps"),
        ("artifact.sampler.output", "uint8", "artifact: graphs.sampler.outputs must be images uint8"),
        ("artifact.sampler.timesteps", [999, 749, 499], "artifact.sampler: guidance_scales has 4 values for 3 steps"),
        ("artifact.sampling.timesteps", [999, 749, 749, 1], "artifact.sampling.timesteps: must descend"),
        ("artifact.sampling.timesteps", [1000, 749, 499, 1], "sampling.timesteps must be below num_train_timesteps"),
        ("artifact.sampling.guidance_scales.0", -1, "guidance_scales.0: must be greater than or equal to 0"),
        ("artifact.sampling.solver", "euler", "artifact.sampling.solver: must be 'ddim', 'dpmpp_2m' or 'consistency'"),
        ("artifact.host.cond_gain", math.nan, "artifact.host.cond_gain: must be a finite number"),
        ("artifact.host.small", 1, "artifact.host.small: must be a valid boolean"),
        ("artifact.graphs.guided", KeyError, "artifact: graphs has no guided graph"),
        (
            "artifact.graphs.other",
            {},
            "artifact.graphs.other.[key]: must be 'guided', 'cond', 'step', 'sampler' or 'decoder'",
        ),
        ("artifact.graphs.step.file", "../step.onnx", "artifact.graphs.step.file: must match pattern"),
        ("artifact.graphs.step.file", "cond.onnx", "artifact.graphs.step: files does not list 'cond.onnx'"),
        ("artifact.graphs.step.inputs.0.dtype", "float16", "artifact: graphs.step.inputs must be x float32"),
        ("artifact.graphs.step.inputs.0.shape.0", 4, "artifact: graphs.step.inputs must be x float32 [batch,"),
        (
            "artifact.graphs.step.engine",
            "engine",
            "graphs.step.engine is tensorrt, and backend is onnxruntime",
        ),
        ("files", {}, "the manifest: artifact.graphs.guided.files names 'guided.onnx', which files does not list"),
        ("files", {"a/b": "0" * 64}, "files.a/b.[key]: must match pattern"),
        ("files", {"b": "0"}, "files.b: must match pattern"),
        ("figures", {}, "figures.verified: is missing"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_key(
    written: dict[str, Any], path: str, value: Any, message: str
) -> None:
    if value == "engine":
        value = engine_record("tensorrt").model_dump(mode="json")
    with pytest.raises(UserError) as caught:
        manifest.parse(changed(written, path, value), source="a/manifest.json")
    text = str(caught.value)
    assert text.startswith("a/manifest.json: ") and message in text and text.endswith("Export it again.")
    assert "\n" not in text


def few_step(written: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a student of one branch that predicts v, in four steps or two, from zero SNR."""
    edited = copy.deepcopy(written)
    artifact = edited["artifact"]
    artifact |= {"prediction_type": "v_prediction", "branches": 1, "guidance_range": [1.0, 4.0]}
    artifact["grids"] = [[999, 749, 499, 249], [984, 484]]
    artifact["betas"][-1] = 1.0
    del artifact["graphs"]["cond"]
    artifact["graphs"]["guided"]["outputs"][0]["name"] = "v"
    return edited


def test_an_artifact_of_one_branch_and_few_steps_reads_back_equal(written: dict[str, Any]) -> None:
    edited = few_step(written)
    contents = manifest.parse(json.dumps(edited), source="m")
    assert contents.model_dump(mode="json") == edited
    assert contents.artifact.guidance_range == (1.0, 4.0) and contents.artifact.betas[-1] == 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("guidance_range", None, "guidance_range is of a student of one branch"),
        ("guidance_range", [4.0, 1.0], "guidance_range must be two scales, the lower one first"),
        ("guidance_range", [2.0, 2.0], "guidance_range must be two scales, the lower one first"),
        ("guidance_range", [2.5, 4.0], "sampling.guidance_scales must be within guidance_range"),
        ("guidance_range", [-1.0, 4.0], "guidance_range.0: must be greater than or equal to 0"),
        ("sampling.guidance_scales.2", 4.5, "sampling.guidance_scales must be within guidance_range"),
        ("sampler.guidance_scales.2", 0.5, "sampler.guidance_scales must be within guidance_range"),
        ("sampler.timesteps", [999, 749, 499, 248], "sampler.timesteps must be one of grids"),
        ("graphs.guided.outputs.0.name", "eps", "graphs.guided.outputs must be v float32"),
        ("prediction_type", "sample", "graphs.guided.outputs must be x_0 float32 [batch, 1, 8, 8], got v"),
    ],
)
def test_an_artifact_of_one_branch_that_contradicts_itself_is_refused(
    written: dict[str, Any], path: str, value: Any, message: str
) -> None:
    edited = with_value(few_step(written), ["artifact", *path.split(".")], value)
    with pytest.raises(UserError) as caught:
        manifest.parse(json.dumps(edited), source="m")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_one_branch_has_no_cond_graph(written: dict[str, Any]) -> None:
    edited = few_step(written)
    edited["artifact"]["graphs"]["cond"] = copy.deepcopy(written["artifact"]["graphs"]["cond"])
    edited["artifact"]["graphs"]["cond"]["outputs"][0]["name"] = "v"
    with pytest.raises(UserError, match="graphs has a cond graph, and a student of one branch has none"):
        manifest.parse(json.dumps(edited), source="m")


def test_a_key_of_a_later_version_is_passed_over(written: dict[str, Any]) -> None:
    contents = manifest.parse(changed(written, "artifact.news", {"a": 1}), source="m")
    assert contents == manifest.parse(json.dumps(written), source="m")


def test_a_student_is_not_an_artifact(tiny_run: Path) -> None:
    with pytest.raises(UserError, match=r"student/manifest\.json: not an artifact's manifest; its stage is student"):
        manifest.read(stages.read_stage(tiny_run / "student"))


def test_figures_that_are_not_finite_are_null_in_json_and_nan_when_read(written: dict[str, Any]) -> None:
    row = {"t_low": 0, "t_high": 10, "num": 1}
    row |= dict.fromkeys(("rho", "relative_error", "energy_cosine", "mean_cosine", "slope", "mse"), math.nan)
    row |= dict.fromkeys(("guided_error", "uncond_error", "cond_error"), 0.5)
    rung = Rung(name="fp16", overall=row, bins=(), excess=math.inf)
    text = json.dumps(rung.model_dump(mode="json"), allow_nan=False)
    again = Rung.model_validate_json(text, strict=True)
    assert math.isnan(again.excess) and math.isnan(again.overall.rho) and again.overall.cond_error == 0.5

"""Single .onnx files draw what their artifact draws, or say which file to give; NaN in any graph is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import dashdeploy
from dashdeploy.errors import UserError
from dashdeploy.export.graph import sampler_graph
from dashdeploy.stages import MANIFEST, SIDECAR, file_sha256, sidecar_text

NAMES = ("guided", "cond", "step", "sampler")
LABELS = (1, 5, 9)


@pytest.fixture(scope="module")
def artifact(tiny_run: Path) -> Path:
    return tiny_run / "artifacts" / "onnx-cpu"


@pytest.fixture
def loose(artifact: Path, tmp_path: Path):
    """A function: a graph's file in a folder without a manifest."""
    return lambda name: Path(shutil.copy2(artifact / f"{name}.onnx", tmp_path))


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal but for the rounding of bytes."""
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_each_file_draws_the_artifacts_images(artifact: Path, loose, name: str) -> None:
    with dashdeploy.open(artifact, threads=1) as whole, dashdeploy.open(loose(name), threads=1) as alone:
        assert alone.sampling == whole.sampling and alone.classes == whole.classes
        assert close(alone.sample(LABELS, seed=3), whole.sample(LABELS, seed=3))
        assert close(alone.sample(LABELS, guidance=1), whole.sample(LABELS, guidance=1))
        assert close(alone.sample(LABELS, guidance="3@0.2-0.7"), whole.sample(LABELS, guidance="3@0.2-0.7"))


@pytest.mark.parametrize("name", ["guided", "cond", "step"])
def test_all_but_the_sampler_draw_in_any_number_of_steps(artifact: Path, loose, name: str) -> None:
    with dashdeploy.open(artifact, threads=1) as whole, dashdeploy.open(loose(name), threads=1) as alone:
        assert close(alone.sample(LABELS, steps=7), whole.sample(LABELS, steps=7))
        if name != "step":
            asked = {"solver": "dpmpp_2m", "guidance": 3.0}
            assert close(alone.sample(LABELS, **asked), whole.sample(LABELS, **asked))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sampler", {"steps": 7}, r"the sampler graph holds 4 steps, and 7 were asked for: leave the number out"),
        ("sampler", {"solver": "dpmpp_2m"}, "the sampler graph holds DDIM's update, and dpmpp_2m was asked for"),
        ("step", {"solver": "dpmpp_2m"}, "the step graph holds DDIM's update"),
    ],
)
def test_what_a_file_cannot_draw_is_one_line_with_the_file_to_give(loose, name: str, options, message: str) -> None:
    with (
        dashdeploy.open(loose(name), threads=1) as model,
        pytest.raises(UserError, match=message + r".*Give guided\.onnx or the artifact's folder"),
    ):
        model.sample(0, **options)


def test_a_single_prediction_of_a_step_graph_says_which_file_has_it(loose) -> None:
    import torch

    with dashdeploy.open(loose("step"), threads=1) as opened:
        x, t = torch.zeros(1, 1, 8, 8), torch.tensor([5])
        with pytest.raises(UserError, match=r"holds the step graph, and this needs the guided graph"):
            opened.model.denoiser(x, t, t)


def test_a_file_of_an_older_export_is_refused_in_one_line(loose) -> None:
    path = loose("sampler")
    model = onnx.load(path)
    kept = [p for p in model.metadata_props if p.key != "dashdeploy.sampling"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"metadata: sampling: is missing.*Export it again"):
        dashdeploy.open(path)


@pytest.fixture
def spoiled(artifact: Path, tmp_path: Path):
    """A function: a copy of the artifact with NaN in a weight of some graphs, and hashes that fit."""

    def make(*names: str, uint8: bool = False) -> Path:
        folder = tmp_path / "spoiled"
        shutil.copytree(artifact, folder)
        manifest = json.loads((folder / MANIFEST).read_text())
        if uint8:
            step, plan = onnx.load(folder / "step.onnx"), manifest["artifact"]["sampler"]
            onnx.save(
                sampler_graph.assemble(step, plan["timesteps"], form=plan["form"], output="uint8"),
                folder / "sampler.onnx",
            )
            plan["output"] = manifest["artifact"]["graphs"]["sampler"]["outputs"][0]["dtype"] = "uint8"
        for name in names:
            model = onnx.load(folder / f"{name}.onnx")
            graphs = [model.graph, *(a.g for node in model.graph.node for a in node.attribute if a.HasField("g"))]
            tensors = [tensor for graph in graphs for tensor in graph.initializer]
            bias = next(tensor for tensor in tensors if tensor.name.endswith("conv_in.bias"))
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32("nan"), bias.name))
            onnx.save(model, folder / f"{name}.onnx")
        manifest["files"] = {name: file_sha256(folder / name) for name in manifest["files"]}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        (folder / SIDECAR).write_bytes(sidecar_text(folder / MANIFEST))
        return folder

    return make


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("names", "uint8", "options", "message"),
    [
        (NAMES, False, {}, r"step 1 of 4 \(t = 999, w = 2\): the network gave NaN or Inf"),  # found by the step graph
        (NAMES, True, {}, r"step 1 of 4 \(t = 999, w = 2\)"),
        (("sampler",), False, {}, "the sampler graph gave NaN or Inf, and the same steps one by one do not"),
        (("step",), False, {"steps": 5}, r"step 1 of 5 \(t = 999, w = 2\)"),
        (("cond",), False, {"guidance": 1, "steps": 5}, r"step 1 of 5 \(t = 999, w = 1\)"),
        (("guided",), False, {"solver": "dpmpp_2m"}, r"step 1 of 4 \(t = 999, w = 2\)"),
    ],
)
def test_nan_in_a_graph_is_an_error_that_names_the_step(
    spoiled, names: tuple[str, ...], uint8: bool, options: dict, message: str, threads: int
) -> None:
    with (
        dashdeploy.open(spoiled(*names, uint8=uint8), threads=threads) as model,
        pytest.raises(UserError, match=rf"^student \(ONNX Runtime\): {message}"),
    ):
        model.sample(LABELS, **options)


def test_a_sampler_file_alone_says_that_it_does_not_show_the_step(spoiled, tmp_path: Path) -> None:
    path = shutil.move(spoiled("sampler") / "sampler.onnx", tmp_path / "sampler.onnx")
    with (
        dashdeploy.open(path) as model,
        pytest.raises(UserError, match="the sampler graph gave NaN or Inf, and does not show at which step"),
    ):
        model.sample(LABELS)


def test_bytes_of_a_sound_sampler_graph_come_through(spoiled, artifact: Path) -> None:
    with dashdeploy.open(spoiled(uint8=True), threads=1) as bytes_, dashdeploy.open(artifact, threads=1) as floats:
        assert close(bytes_.sample(LABELS), floats.sample(LABELS))

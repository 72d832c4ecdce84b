"""An artifact's graphs behind the Denoiser and Sampler contracts: which one runs, and that all give the same images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dashdeploy.runtime
from dashdeploy.diffusion.sampling import SOLVERS, ddim, plan
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import GuidanceInterval, Sampling, Tag
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.sessions import Chunked
from dashdeploy.stages import SIDECAR, sidecar_text
from dashdeploy.teachers import formats

STEPS = 4


def steps(guidance, **changes):
    return plan(Sampling(num_inference_steps=STEPS, guidance=guidance, **changes), 1000)


@pytest.fixture(scope="module")
def student(tiny_run: Path):
    return formats.load(tiny_run / "student", role="student")


@pytest.fixture(scope="module")
def start() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 5, 9])


@pytest.fixture
def without(tiny_run: Path, tmp_path: Path):
    """A copy of the artifact without some of its graphs."""

    def make(*names: str) -> Path:
        folder = tmp_path / "artifact"
        shutil.copytree(tiny_run / "artifacts" / "onnx-cpu", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in names:
            del manifest["artifact"]["graphs"][name]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / SIDECAR).write_bytes(sidecar_text(folder / "manifest.json"))
        return folder

    return make


def test_the_public_function_opens_by_the_manifest_alone_and_closes(tiny_run: Path, start) -> None:
    with dashdeploy.runtime.open(tiny_run / "artifacts" / "onnx-cpu", threads=1) as model:
        assert (model.runtime, model.precision, model.device) == ("onnxruntime", "fp32", "cpu")
        assert model.sample(*start, steps(2.0)).shape == (3, 1, 8, 8)
    assert model.resources == []


@pytest.mark.parametrize(
    ("guidance", "changes", "way"),
    [
        (2.0, {}, "sampler"),
        (Tag(), {}, "sampler"),
        (1.0, {}, "step"),  # without guidance the cond graph does half the work
        (GuidanceInterval(w=3, low=0.3, high=0.7), {}, "step"),
        (2.0, {"clip_sample": False}, "guided"),
        (2.0, {"solver": "dpmpp_2m"}, "guided"),  # the step and sampler graphs hold DDIM's update
        (GuidanceInterval(w=3, low=0.3, high=0.7), {"solver": "dpmpp_2m"}, "guided"),
    ],
)
def test_the_fastest_graph_that_fits_runs_and_gives_torchs_images(
    tiny_run: Path, student, start, guidance, changes, way: str
) -> None:
    run = steps(guidance, **changes)
    with dashdeploy.runtime.open(tiny_run / "artifacts" / "onnx-cpu", threads=1) as model:
        assert model.graph_for(run) == way
        torch.testing.assert_close(
            model.sample(*start, run), SOLVERS[run.solver](student, *start, run), rtol=1e-3, atol=1e-4
        )


def test_other_timesteps_than_the_sampler_graphs_take_the_step_graph(tiny_run: Path, student, start) -> None:
    run = plan(Sampling(num_inference_steps=7), 1000)
    with dashdeploy.runtime.open(tiny_run / "artifacts" / "onnx-cpu", threads=1) as model:
        assert model.graph_for(run) == "step"
        torch.testing.assert_close(model.sample(*start, run), ddim(student, *start, run), rtol=1e-3, atol=1e-4)


def test_an_artifact_with_fewer_graphs_falls_back_and_says_how(without, student, start) -> None:
    with dashdeploy.runtime.open(without("sampler", "step"), threads=1) as model:
        assert model.graph_for(steps(2.0)) == "guided"
        torch.testing.assert_close(
            model.sample(*start, steps(2.0)), ddim(student, *start, steps(2.0)), rtol=1e-3, atol=1e-4
        )


class Counting:
    def __init__(self, inner) -> None:
        self.inner, self.calls = inner, 0

    def __call__(self, *inputs):
        self.calls += 1
        return self.inner(*inputs)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize(("solver", "graphs"), [("ddim", ()), ("ddim", ("step", "sampler")), ("dpmpp_2m", ())])
def test_steps_without_guidance_run_the_cond_graph_alone(without, start, solver, graphs: tuple[str, ...]) -> None:
    run = replace(steps(2.0, solver=solver), weights=(1.0, 3.0, 3.0, 1.0))
    with dashdeploy.runtime.open(without(*graphs), threads=1) as model:
        assert isinstance(model.sampler, GraphSampler)
        assert model.sampler.narrow is not None and model.sampler.threads == 1
        opened = model.sampler.narrow
        guided = "guided" if graphs or solver != "ddim" else "step"
        counts = {name: Counting(opened[name]) for name in ("cond", guided)}
        opened._sessions.update(counts)
        told: list[int] = []
        model.sample(*start, run, on_step=told.append)
    assert {name: count.calls for name, count in counts.items()} == {"cond": 2, guided: 2}
    assert told == [0, 1, 2, 3]


def test_a_small_network_saves_by_the_cond_graph_only_where_the_batch_is_not_tiny(tiny_run: Path) -> None:
    half = replace(steps(2.0), weights=(1.0, 3.0, 3.0, 1.0))  # saves a quarter
    with dashdeploy.runtime.open(tiny_run / "artifacts" / "onnx-cpu", threads=4) as model:
        assert [model.graph_for(half, size) for size in (1, 3, 4, None)] == ["sampler", "sampler", "step", "step"]
        assert model.graph_for(steps(1.0), 1) == "step"


def test_progress_is_told_by_the_sampler_graph_too(tiny_run: Path, start) -> None:
    told: list[int] = []
    with dashdeploy.runtime.open(tiny_run, threads=1) as model:
        model.sample(*start, steps(2.0), on_step=told.append)
    assert told == list(range(STEPS))


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (
            "artifacts/onnx-cpu",
            {"provider": "CUDAExecutionProvider"},
            r"has no CUDAExecutionProvider; it has .*\[gpu\]",
        ),
        ("artifacts/onnx-cpu", {"device": "cuda"}, "CPUExecutionProvider does not run on cuda"),
        ("artifacts/onnx-cpu", {"provider": "NoSuch"}, "has no NoSuch"),
        ("artifacts/onnx-cpu/guided.onnx", {"device": "cuda"}, r"an \.onnx file runs on the CPU"),
        ("student", {"provider": "CPUExecutionProvider"}, "a provider is ONNX Runtime's"),
        ("student", {"device": "cuda"}, "torch sees no CUDA device"),
    ],
)
def test_what_is_not_here_is_refused_and_never_replaced(tiny_run: Path, part: str, options, message: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=message):
        dashdeploy.runtime.open(tiny_run / part, **options)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(("guidance", "solver"), [(2.0, "ddim"), (1.0, "ddim"), (2.0, "dpmpp_2m")])
def test_a_batch_cut_over_threads_gives_the_same_images(tiny_run: Path, small: bool, guidance: float, solver) -> None:
    folder = tiny_run / "artifacts" / "onnx-cpu"
    noise = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y, run = torch.arange(5), steps(guidance, solver=solver)
    with dashdeploy.runtime.open(folder, threads=1) as one, dashdeploy.runtime.open(folder, threads=3) as three:
        assert isinstance(three.sampler, GraphSampler)
        three.sampler.host = three.sampler.host.model_copy(update={"small": small})
        for size in (1, 2, 3, 5):
            told: list[int] = []
            found = three.sample(noise[:size], y[:size], run, on_step=told.append)
            expected = one.sample(noise[:size], y[:size], run)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            assert told == list(range(STEPS))


def test_a_larger_batch_than_an_engine_takes_runs_in_parts() -> None:
    sizes: list[int] = []

    class Double:
        def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
            sizes.append(len(inputs[0]))
            return inputs[0] * 2 + inputs[1].view(-1, 1)

        def close(self) -> None:
            sizes.append(-1)

    session = Chunked(Double(), 4)
    x, y = torch.randn(10, 3), torch.arange(10)
    torch.testing.assert_close(session(x, y), x * 2 + y.view(-1, 1))
    assert sizes == [4, 4, 2]
    session.close()
    assert sizes[-1] == -1

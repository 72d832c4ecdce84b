"""OpenVINO artifacts: written as IR, opened by their manifest, equal to torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import dashdeploy.runtime
from dashdeploy import manifest
from dashdeploy.diffusion.sampling import ddim, plan
from dashdeploy.errors import UserError
from dashdeploy.export.export import export
from dashdeploy.recipe.schema import Sampling
from dashdeploy.target import Calibration, Target
from dashdeploy.teachers import formats
from tests.limits import HARDLY_TRAINED

pytestmark = pytest.mark.slow

pytest.importorskip("openvino", reason="pip install 'dashdeploy[openvino]'")


@pytest.fixture(scope="module")
def artifact(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino") / "tiny"
    shutil.copytree(tiny_run, folder)
    target = Target(
        name="ov", description="test", backend="openvino", graphs=("guided", "sampler"), group_norm="instance"
    )
    return export(folder, target).folder


def test_an_artifact_is_ir_files_that_passed_parity(artifact: Path) -> None:
    assert sorted(p.name for p in artifact.iterdir()) == [
        *("guided.bin", "guided.xml", "manifest.json", "manifest.json.sha256", "sampler.bin", "sampler.xml")
    ]


def test_it_gives_torchs_images(artifact: Path, tiny_run: Path) -> None:
    student = formats.load(tiny_run / "student", role="student")
    noise, y = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 5, 9])
    run = plan(Sampling(num_inference_steps=4), 1000)
    with dashdeploy.runtime.open(artifact, threads=1) as model:
        assert (model.runtime, model.graph_for(run)) == ("openvino", "sampler")
        torch.testing.assert_close(model.sample(noise, y, run), ddim(student, noise, y, run), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_threads_that_share_a_batch_draw_what_one_draws(artifact: Path, count: int) -> None:
    noise, y = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(count)
    run = plan(Sampling(num_inference_steps=4), 1000)
    images = []
    for threads in (1, 2, 3):
        with dashdeploy.runtime.open(artifact, threads=threads) as model:
            images.append(model.sample(noise, y, run))
    for other in images[1:]:
        torch.testing.assert_close(other, images[0], rtol=0, atol=1e-5)


def test_a_device_that_it_does_not_run_on_is_refused(artifact: Path) -> None:
    with pytest.raises(UserError, match="run on the CPU here, not on cuda"):
        dashdeploy.runtime.open(artifact, device="cuda")


def test_a_changed_byte_is_refused(artifact: Path, tmp_path: Path) -> None:
    copied = tmp_path / "ov"
    shutil.copytree(artifact, copied)
    data = bytearray((copied / "guided.bin").read_bytes())
    data[100] ^= 1
    (copied / "guided.bin").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"guided\.bin: damaged or changed"):
        dashdeploy.runtime.open(copied)


def test_the_order_of_a_targets_graphs_does_not_matter_to_nncf(tiny_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="pip install 'dashdeploy[openvino]'")
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_run, folder)
    target = Target(
        name="ov8",
        description="test",
        backend="openvino",
        graphs=("cond", "guided"),
        precision="int8",
        opset=20,
        group_norm="instance",
        calibration=Calibration(quantizer="nncf", num_images=4, num_steps=2),
        gate=HARDLY_TRAINED,
    )
    stage = export(folder, target)
    contents = manifest.read(stage)
    assert list(contents.artifact.graphs) == ["cond", "guided"]
    assert contents.figures.int8.float_layers[0] == "conv_in"

"""The paper's CIFAR recipes from data to report, on few images and steps: every stage by the real command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from dashdeploy.cli.app import main
from dashdeploy.data import load_dataset
from dashdeploy.data.cifar import CIFAR10, CIFAR100, Layout
from dashdeploy.locate import find
from dashdeploy.metrics import features
from dashdeploy.recipe.schema import Data
from dashdeploy.stages import file_sha256

pytestmark = pytest.mark.slow

IMAGES = 200
SHRUNK = (
    *("teach.architecture.block_out_channels=[32,64,64,64]", "teach.steps=2", "teach.batch_size=4"),
    *("student.architecture.block_out_channels=[32,32,32,32]", "distill.steps=2", "distill.batch_size=4"),
    *("teach.log_every=1", "distill.log_every=1", "teach.threads=1", "distill.threads=1"),
    *("sampling.num_inference_steps=2", "bench.latency.batch_sizes=[1]", "bench.latency.threads=1"),
    *("bench.latency.repeats=3", "bench.latency.warmup=0", "bench.latency.sampler_repeats=1"),
    *("bench.quality.num_images=16", "bench.quality.guidance=[{kind: tag}]", "bench.quality.bootstrap=2"),
    *("bench.fidelity.num_pairs=100", "bench.fidelity.bins=2"),
)


def write_binary(folder: Path, layout: Layout) -> None:
    """The published binary version's files with few records: label bytes, then the R, G and B planes."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    each = IMAGES // len(layout.batches)
    for name in layout.batches:
        labels = rng.integers(0, len(layout.classes), (each, layout.label_bytes))
        labels[:, :-1] %= 20  # CIFAR-100's coarse labels
        pixels = rng.integers(0, 256, (each, 3072))
        (folder / name).write_bytes(np.concatenate([labels, pixels], axis=1).astype(np.uint8).tobytes())
    (folder / layout.meta).write_text("\n".join(layout.classes) + "\n")


@pytest.fixture
def small_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a feature network for RGB images, with random weights: Inception's cannot be shipped."""
    torch.manual_seed(0)
    save_file(features.FeatureNet(channels=3, num_classes=10, width=8).state_dict(), tmp_path / "rgb.safetensors")
    spec = features.NetworkSpec(
        "rgb.safetensors",
        file_sha256(tmp_path / "rgb.safetensors"),
        image_size=32,
        channels=3,
        classes=tuple("abcdefghij"),
        width=8,
    )
    monkeypatch.setattr(features, "NETWORKS", tmp_path)
    monkeypatch.setitem(features.SPECS, "rgb", spec)
    return "rgb"


@pytest.mark.parametrize("layout", [CIFAR10, CIFAR100], ids=lambda layout: layout.name)
def test_a_paper_recipe_runs_end_to_end_at_a_quarter_of_its_width_for_two_steps(
    tmp_path: Path, small_features: str, layout: Layout
) -> None:
    torch.set_num_threads(1)
    write_binary(tmp_path / layout.folder, layout)
    # Tracing and checking the target's four graphs would take longer than everything else.
    target = yaml.safe_load(find("exporters", "onnx-cpu").read_text())
    target |= {"graphs": ["guided"], "parity": {**target["parity"], "batch_sizes": [1, 3]}}
    (tmp_path / "onnx-cpu.yaml").write_text(yaml.safe_dump(target))
    changes = (
        f"data.path={tmp_path}",
        f"export=[{tmp_path}/onnx-cpu.yaml]",
        f"bench.quality.features={small_features}",
    )
    settings = [part for change in (*changes, *SHRUNK) for part in ("--set", change)]
    with pytest.raises(SystemExit) as stopped:
        main(["run", f"{layout.name}-paper", "--run-dir", str(tmp_path / "runs"), *settings])
    assert not stopped.value.code
    run = tmp_path / "runs" / f"{layout.name}-paper"
    stages = [json.loads((run / name / "manifest.json").read_text()) for name in ("teacher", "student")]
    assert [stage["inputs"]["data"] for stage in stages] == [
        load_dataset(Data(name=layout.name, path=str(tmp_path))).sha256
    ] * 2
    assert len(stages[0]["figures"]["classes"]) == len(layout.classes)
    record = json.loads((run / "bench" / "bench.json").read_text())
    rows = record["quality"]["rows"]
    assert {row["model"] for row in rows} == {"teacher", "student", "student-onnx-cpu"}
    assert all(math.isfinite(row["fid"]["value"]) for row in rows)
    assert record["quality"]["num_reference"] == 0.9 * IMAGES

"""Shared fixtures: one thread, and a tiny run (teacher, student, artifact) made once a session."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

import pytest

TOGETHER = ("cpp", "triton", "web")
"""Folders whose tests share what takes long to make, a build or a server: with several workers they go to one."""
FIRST = ("cpp", "web", "training", "export", "cli", "bench", "runtime")
"""Folders whose tests take longest: they begin first, so that no worker is left with them at the end."""


def folder_of(path: Path) -> str:
    """The folder of tests/ that a file lies in, or its name."""
    return path.relative_to(Path(__file__).parent).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders of FIRST first, in that order; else as collected."""
    items.sort(key=lambda item: [*FIRST, folder := folder_of(item.path)].index(folder))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers (pytest -n 2) the tests of a file go to one, and so do those of a folder in TOGETHER."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = folder_of(config.rootpath / file)
            return folder if folder in TOGETHER else file

    config.option.loadscopereorder = False  # the order of the tests is FIRST's, not by their number
    return ByFile(config, log)


TINY = """
name: tiny
seed: 3
data: {name: digits}
teach:
  architecture: {block_out_channels: [8, 16], layers_per_block: 1, norm_num_groups: 4, attention_levels: [1]}
  steps: 12
  batch_size: 16
  warmup_steps: 2
  log_every: 2
  ema_decay: 0.5
  timestep_weights: {kind: tirt}
  threads: 1
student:
  compression: 2.0
distill:
  steps: 12
  batch_size: 16
  warmup_steps: 2
  log_every: 1
  checkpoint_every: 4
  ema_decay: 0.5
  timestep_weights: {kind: tirt}
  threads: 1
sampling: {num_inference_steps: 4}
bench:
  latency: {batch_sizes: [1, 2], warmup: 1, repeats: 3, sampler_repeats: 1, threads: 1}
  quality: {num_images: 40, guidance: [1.0, 2.0, {kind: tag}], bootstrap: 4, batch_size: 16}
  fidelity: {num_pairs: 100, bins: 4}
"""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The tiny recipe's YAML."""
    return TINY


@pytest.fixture
def tiny_yaml(tmp_path: Path) -> Path:
    """A recipe file that trains in about a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_recipe():
    """The same recipe, loaded."""
    from dashdeploy.recipe.load import load_text

    return load_text(TINY, name="tiny")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe) -> Path:
    """A run folder with teacher, student and artifact; do not change it, copy it."""
    import torch

    from dashdeploy.export.export import export
    from dashdeploy.stages import open_run
    from dashdeploy.target import load_target
    from dashdeploy.training.distill import distill
    from dashdeploy.training.teach import teach

    torch.set_num_threads(1)
    folder = open_run(tmp_path_factory.mktemp("runs"), "tiny")
    teach(tiny_recipe, folder)
    distill(tiny_recipe, folder)
    export(folder, load_target("onnx-cpu"))
    return folder


@pytest.fixture(scope="session")
def latent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the owner of a latent DiT has, see tests/latent.py: images, pipeline, recipe.yaml; do not change it."""
    from tests import latent

    folder = tmp_path_factory.mktemp("latent")
    latent.save_images(folder / "images")
    latent.save_pipeline(folder / "pipeline")
    (folder / "recipe.yaml").write_text(latent.RECIPE.format(folder=folder))
    for name, backend in (("onnx", "onnxruntime"), ("vino", "openvino")):
        (folder / f"{name}.yaml").write_text(latent.TARGET.format(name=name, backend=backend))
    return folder


@pytest.fixture(scope="session")
def latent_run(latent_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run folder with a student and an artifact for ONNX Runtime; do not change it, copy it."""
    import torch

    from dashdeploy import locate
    from dashdeploy.export.export import export
    from dashdeploy.recipe.load import load_recipe
    from dashdeploy.stages import open_run
    from dashdeploy.target import load_target
    from dashdeploy.training.distill import distill

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locate, "cache_folder", lambda: tmp_path_factory.getbasetemp() / "cache")
        recipe = load_recipe(latent_folder / "recipe.yaml")
        folder = open_run(tmp_path_factory.mktemp("latent-runs"), recipe.name)
        distill(recipe, folder)
        export(folder, load_target(str(latent_folder / "onnx.yaml")))
    return folder


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Key pairs that sign artifacts: (secret, public) files by name."""
    from dashdeploy import signing

    folder = tmp_path_factory.mktemp("keys")
    return {name: signing.make_key_pair(folder / name) for name in ("mine", "other")}

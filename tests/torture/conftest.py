"""A tiny run, warm modules, and what each case starts from."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import pytest

WARM = (
    *("diffusers", "onnx", "onnxruntime", "matplotlib", "rich.progress", "accelerate"),
    *("dashdeploy.pipeline", "dashdeploy.bench.bench", "dashdeploy.show.look", "dashdeploy.compare.compare"),
    *("dashdeploy.runtime.opening", "dashdeploy.runtime.onnxruntime_model", "dashdeploy.runtime.torch_model"),
    *(
        "dashdeploy.training.distill",
        "dashdeploy.training.teach",
        "dashdeploy.training.adopt",
        "dashdeploy.packages.stage",
    ),
    *("dashdeploy.teachers.unet2d", "dashdeploy.teachers.dit", "dashdeploy.packages.schema", "dashdeploy.manifest"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("DASHDEPLOY_TORTURE") != "1":
        for item in items:
            if item.get_closest_marker("torture"):
                item.add_marker(pytest.mark.skip(reason="part of the whole campaign: make torture"))


@pytest.fixture(scope="session")
def warm() -> None:
    """What a command would import, once for all children."""
    import torch

    torch.set_num_threads(1)
    for name in WARM:
        importlib.import_module(name)


@pytest.fixture(scope="session")
def whole_run(tiny_run: Path, warm: None) -> Path:
    """The tiny run: teacher, student, one artifact; do not change it, copy parts of it."""
    return tiny_run


@pytest.fixture
def copied(whole_run: Path):
    """A function: a part of the run, as in "teacher", and a folder -> its copy there."""

    def copy(part: str, folder: Path) -> Path:
        return Path(shutil.copytree(whole_run / part, folder / Path(part).name))

    return copy

"""Load times are of processes that have not opened the model before, without their imports."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashdeploy.bench.measure import loading
from dashdeploy.recipe.schema import Recipe

pytestmark = pytest.mark.slow


def test_each_model_is_opened_and_called_in_separate_processes(tiny_run: Path, tiny_recipe: Recipe) -> None:
    folders = {"student": tiny_run / "student", "artifact": tiny_run / "artifacts" / "onnx-cpu"}
    times = loading.load_times(
        folders, ["torch", "onnxruntime"], dict.fromkeys(folders, tiny_recipe.sampling), threads=1, repeats=2
    )
    assert times.keys() == folders.keys()
    for opened_ms, first_ms in times.values():
        # The import of torch takes more than a second.
        assert 0 < opened_ms < 900 and 0 < first_ms < 900


def test_a_model_that_cannot_be_opened_is_not_given_a_time(tmp_path: Path, tiny_recipe: Recipe) -> None:
    with pytest.raises(RuntimeError, match="no such file or folder"):
        loading.load_times({"x": tmp_path / "none"}, ["torch"], {"x": tiny_recipe.sampling}, threads=1, repeats=1)

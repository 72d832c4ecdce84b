"""Class names that a teacher's folder tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import dashdeploy
from dashdeploy.data import load_dataset
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Data
from dashdeploy.teachers import choose
from dashdeploy.teachers.names import class_names
from tests.made import save_teacher

NAMES = {str(label): f"digit {label}" for label in range(10)}


def write(folder: Path, held: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(held))
    return folder


def test_of_a_pipelines_id2label_and_of_a_teacher_made_here(tmp_path: Path) -> None:
    assert class_names(tmp_path, None, 10) == ()
    assert class_names(write(tmp_path, {"_class_name": "DiTPipeline"}), None, 10) == ()
    shuffled = dict(reversed(NAMES.items()))
    assert class_names(write(tmp_path, {"id2label": shuffled}), None, 10) == tuple(NAMES.values())
    assert class_names(tmp_path, {"figures": {"classes": ["a", "b"]}}, 2) == ("a", "b")


@pytest.mark.parametrize("held", [{"0": "a"}, {**NAMES, "10": "x"}, ["a"] * 10, {**NAMES, "9": "x", "09": "y"}])
def test_names_that_are_not_of_every_label_are_refused(tmp_path: Path, held: Any) -> None:
    with pytest.raises(UserError, match="id2label must name the labels 0 … 9, each once"):
        class_names(write(tmp_path, {"id2label": held}), None, 10)


def test_they_name_data_whose_classes_are_numbers_and_no_other(tiny_text: str, tmp_path: Path) -> None:
    teacher = save_teacher(tmp_path / "teacher", "epsilon")
    write(teacher, {"id2label": NAMES})
    recipe = load_text(
        tiny_text, name="t", overrides=[f"teacher={{path: {teacher}}}", "distill.timestep_weights.kind=uniform"]
    )
    opened = choose.open_teacher(teacher, recipe, load_dataset(Data(name="digits")))
    numbers = tuple(map(str, range(10)))
    assert opened.named(numbers) == tuple(NAMES.values())
    assert opened.named(("zero", *numbers[1:])) == ("zero", *numbers[1:])
    other = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"labels": (9, 1)})})
    with pytest.raises(UserError, match="has 2 classes and the data 10"):
        choose.open_teacher(teacher, other, load_dataset(Data(name="digits")))


def test_an_opened_pipeline_has_them(latent_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(latent_folder / "pipeline", tmp_path / "pipeline")
    with dashdeploy.open(tmp_path / "pipeline") as model:
        assert model.classes == ("0", "1", "2")
    write(tmp_path / "pipeline", {"id2label": {"0": "ant", "1": "bee", "2": "cat"}})
    with dashdeploy.open(tmp_path / "pipeline") as model:
        assert model.classes == ("ant", "bee", "cat")

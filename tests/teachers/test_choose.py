"""Which teacher it is: its hash follows links, and its classes are the data's in their order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dashdeploy import locate
from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.errors import UserError
from dashdeploy.preflight.examine import examine
from dashdeploy.recipe.load import load_text
from dashdeploy.teachers import choose, guidance_embedding, networks, unet2d
from dashdeploy.teachers.identity import as_taken
from tests.made import SMALL, schedule

DIGITS = locate.data_root("recipes") / "teachers" / "digits"
IDENTITY = "6e5c8e71ef1b8eec08ed1aacd43bcd8015dde5e3098d74dacaff2323b984f09f"
"""Of the committed teacher: committed students and records name it."""
RECIPE = "name: x\nteacher: {path: x}\nstudent: {compression: 2}\n"


@pytest.fixture
def data() -> LabelledImages:
    return load_dataset(load_text(RECIPE, name="x").data)


def own(tmp_path: Path) -> Path:
    """The digits teacher as somebody else's: without our manifest."""
    shutil.copytree(DIGITS / "unet", tmp_path / "own" / "unet")
    shutil.copytree(DIGITS / "scheduler", tmp_path / "own" / "scheduler")
    return tmp_path / "own"


def test_the_hash_of_the_committed_teacher_is_what_it_was() -> None:
    assert choose.sha256(DIGITS) == IDENTITY


def test_links_are_followed_and_a_link_to_other_weights_is_another_teacher(tmp_path: Path) -> None:
    folder = own(tmp_path)
    expected = choose.sha256(folder)
    (folder / "unet").rename(tmp_path / "elsewhere")
    (folder / "unet").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert choose.sha256(folder) == expected
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text() + " ")
    (folder / "unet").unlink()
    (folder / "unet").symlink_to(tmp_path / "other", target_is_directory=True)
    assert choose.sha256(folder) != expected


def test_a_folder_without_anything_to_identify_it_by_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a teacher")
    with pytest.raises(UserError, match="no files that could identify it"):
        choose.sha256(tmp_path)


def test_other_rows_are_another_teacher_and_the_rows_by_their_numbers_the_same(tmp_path: Path, data) -> None:
    folder = own(tmp_path)

    def identity(*overrides: str) -> str:
        recipe = load_text(RECIPE, name="x", overrides=overrides)
        opened = choose.open_teacher(folder, recipe, data).sha256
        assert as_taken(folder, recipe.teacher.model_dump(mode="json")) == opened
        return opened

    assert identity() == identity("teacher.null_class=10") == choose.sha256(folder)
    assert identity("teacher.labels=[0,1,2,3,4,5,6,7,8,9]") == identity()
    assert len({identity(), identity("teacher.null_class=0"), identity("teacher.labels=[1,0,2,3,4,5,6,7,8,9]")}) == 3


def test_classes_that_a_teachers_manifest_has_in_another_order_are_told_with_the_rows(data) -> None:
    names = ("1", "0", *data.classes[2:])
    other = LabelledImages("x", data.images, data.labels, names, horizontal_flip=False)
    with pytest.raises(UserError, match=r"another order than the data's .set teacher.labels to \[1, 0, 2, 3"):
        choose.open_teacher(DIGITS, load_text(RECIPE, name="x"), other)
    labels = "teacher.labels=[1,0,2,3,4,5,6,7,8,9]"
    assert choose.open_teacher(DIGITS, load_text(RECIPE, name="x", overrides=[labels]), other).rows[:2] == (1, 0)


def test_other_numbers_of_classes_are_told_with_what_to_do(tmp_path: Path, data) -> None:
    eleven = LabelledImages("x", data.images, data.labels, (*data.classes, "ten"), horizontal_flip=False)
    folder = own(tmp_path)
    with pytest.raises(UserError, match=r"has 10 classes and the data 11 .has it no null class\?"):
        choose.open_teacher(folder, load_text(RECIPE, name="x"), eleven)
    few = data.take((data.labels < 2).nonzero()[0])
    two = LabelledImages("x", few.images, few.labels, ("0", "1"), horizontal_flip=False)
    with pytest.raises(UserError, match=r"has 10 classes and the data 2 .*teacher\.labels"):
        choose.open_teacher(folder, load_text(RECIPE, name="x"), two)
    recipe = load_text(RECIPE, name="x", overrides=["teacher.labels=[0, 1]"])
    assert choose.open_teacher(folder, recipe, two).denoiser.interface.num_classes == 2


@pytest.mark.slow
def test_a_teacher_is_checked_unless_the_recipe_says_no_or_it_was_taught_here(tmp_path: Path, data) -> None:
    recipe = load_text(RECIPE, name="x")
    foreign = own(tmp_path)
    assert "labels help by" in str(choose.check(choose.open_teacher(foreign, recipe, data), recipe, data))
    assert choose.check(choose.open_teacher(DIGITS, recipe, data), recipe, data) is None
    moved = load_text(RECIPE, name="x", overrides=["teacher.null_class=0"])
    with pytest.raises(UserError, match="--no-check"):
        choose.check(choose.open_teacher(foreign, moved, data), moved, data)
    silent = load_text(RECIPE, name="x", overrides=["teacher.null_class=0", "teacher.check=false"])
    assert choose.check(choose.open_teacher(foreign, silent, data), silent, data) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet3D"}, "it is a UNet3D; supported"),
        ({"attn_norm_num_groups": 7}, "makes no network of its"),
    ],
)
def test_a_configuration_that_makes_no_network_is_told_before_anything_is_loaded(tmp_path, changes, message) -> None:
    path = own(tmp_path) / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message):
        choose.config_of(tmp_path / "own", load_text(RECIPE, name="x"))


def test_a_teacher_of_one_branch_is_refused_at_once_and_by_the_checks_before(
    tmp_path: Path, data: LabelledImages
) -> None:
    unet = unet2d.build(SMALL, image_shape=(1, 8, 8), num_classes=10, seed=0)
    networks.save(guidance_embedding.add(unet, (1.0, 4.0)), schedule(), tmp_path / "one")
    for kind in ("dash", "scratch", "guided"):
        branches = 1 if kind == "guided" else 2
        changes = [f"teacher.path={tmp_path}/one", f"distill.objective.kind={kind}", f"student.branches={branches}"]
        recipe = load_text(RECIPE, name="x", overrides=changes)
        with pytest.raises(UserError, match=r"it has one branch, .* and a teacher has two\. Give") as told:
            choose.open_teacher(tmp_path / "one", recipe, data)
        assert examine(recipe, tmp_path / "run").problems == [str(told.value)]

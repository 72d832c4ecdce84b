"""A relative path means what it says in its own file, wherever the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from dashdeploy.errors import UserError
from dashdeploy.recipe import paths
from dashdeploy.recipe.comparison import load_comparison, recipe_of
from dashdeploy.recipe.load import load_recipe, load_text, resolved_yaml
from dashdeploy.recipe.schema import Recipe
from dashdeploy.teachers import choose

BASE = """
name: base
data: {name: image_folder, path: flowers, vae: ../vae}
teacher: {path: models/unet}
student: {compression: 4}
sampling: {clip_sample: false}
export: [onnx-cpu, onnx-cpu.yaml, deploy/mine, other.yaml]
bench: {quality: {features: inception, features_weights: ~/inception.pth}}
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """deep/base.yaml; the working folder is another one."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "deep" / "base.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "deep" / "base.yaml"


@pytest.mark.parametrize("source", ["../deep/base.yaml", "{base}"])
def test_a_path_is_relative_to_the_recipes_file(base: Path, source: str) -> None:
    recipe, folder = load_recipe(source.format(base=base)), base.parent
    assert (recipe.data.path, recipe.data.vae) == (str(folder / "flowers"), str(folder.parent / "vae"))
    assert recipe.teacher.path == str(folder / "models" / "unet")
    assert recipe.bench.quality.features_weights == "~/inception.pth"


def test_the_run_that_a_student_begins_with_is_relative_to_the_recipes_file(base: Path) -> None:
    base.write_text(BASE.replace("{compression: 4}", "{compression: 4, init: {kind: run, path: runs/first}}"))
    assert load_recipe(str(base)).student.init.path == str(base.parent / "runs" / "first")
    by_override = load_recipe(str(base), overrides=["student.init.path=second"])
    assert by_override.student.init.path == str(Path.cwd() / "second")


def test_a_path_of_the_extended_recipe_is_relative_to_that_and_an_overrides_to_the_working_folder(base: Path) -> None:
    more = base.parent.parent / "more.yaml"
    more.write_text("extends: deep/base.yaml\nname: more\nteacher: {path: unet}\n")
    recipe = load_recipe(str(more), overrides=["data.vae=vae", "export.2=mine.yaml"])
    assert recipe.data.path == str(base.parent / "flowers")
    assert recipe.teacher.path == str(more.parent / "unet")
    assert recipe.data.vae == str(Path.cwd() / "vae")
    assert recipe.export[2:] == (str(Path.cwd() / "mine.yaml"), str(base.parent / "other.yaml"))
    section = load_recipe(str(more), overrides=["data={name: image_folder, path: here}"])
    assert section.data.path == str(Path.cwd() / "here")


def test_a_targets_file_is_found_beside_the_recipe_and_a_name_stays_a_name(base: Path) -> None:
    folder = base.parent
    files = (str(folder / "deploy/mine"), str(folder / "other.yaml"))
    assert load_recipe(str(base)).export == ("onnx-cpu", "onnx-cpu.yaml", *files)
    (folder / "onnx-cpu.yaml").touch()
    assert load_recipe(str(base)).export[:2] == ("onnx-cpu", str(folder / "onnx-cpu.yaml"))


def test_a_comparisons_changes_are_relative_to_its_file(base: Path) -> None:
    compared = base.parent.parent / "compared.yaml"
    compared.write_text(
        "name: compared\nrecipe: deep/base.yaml\nset: {data.vae: vae}\n"
        "variants:\n  a: {label: A, set: {teacher: {path: a}}}\n  b: {label: B}\n"
    )
    comparison = load_comparison(str(compared))
    a, b = (recipe_of(comparison, variant, 0) for variant in ("a", "b"))
    assert a.data.vae == b.data.vae == str(compared.parent / "vae")
    assert (a.teacher.path, b.teacher.path) == (str(compared.parent / "a"), str(base.parent / "models/unet"))


def test_a_teacher_that_ships_keeps_its_path_unless_one_lies_beside_the_recipe(base: Path) -> None:
    shipped = load_recipe("digits")
    assert shipped.teacher.path == "teachers/digits"
    base.write_text(BASE.replace("models/unet", "teachers/digits"))
    found = choose.find(load_recipe(str(base)), Path("nowhere"))
    assert found == choose.find(shipped, Path("nowhere")) and found is not None and found.is_dir()
    (base.parent / "teachers" / "digits").mkdir(parents=True)
    assert choose.find(load_recipe(str(base)), Path("nowhere")) == base.parent / "teachers" / "digits"


def test_a_step_up_behind_a_linked_folder_leads_where_the_file_system_says(base: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "linked").symlink_to(base.parent)
    found = load_recipe("linked/base.yaml").data.vae
    assert found is not None and Path(found).resolve() == tmp_path / "vae"


def test_the_resolved_text_loads_to_the_same_recipe_in_another_folder(base: Path, monkeypatch) -> None:
    recipe = load_recipe(str(base))
    monkeypatch.chdir(base.parent)
    assert load_text(resolved_yaml(recipe), name="resolved") == recipe


def test_a_missing_teacher_is_named_with_where_it_was_looked_for(base: Path) -> None:
    with pytest.raises(UserError, match=f"no such folder .tried {base.parent}/models/unet."):
        choose.find(load_recipe(str(base)), Path("nowhere"))


@pytest.mark.parametrize("path", ["/x", "x" * 300, "~nobody-of-this-name/x"])
def test_a_teacher_where_none_can_be_is_one_line(base: Path, path: str) -> None:
    recipe = load_recipe(str(base), overrides=[f'teacher.path="{path}"'])
    with pytest.raises(UserError) as caught:
        choose.find(recipe, Path("nowhere"))
    assert "\n" not in str(caught.value)


def test_a_path_that_no_system_takes_is_a_problem_of_its_key(base: Path) -> None:
    with pytest.raises(UserError, match=r"data.vae=.*: has the control character"):
        load_recipe(str(base), overrides=['data.vae="a\\0b"'])


def test_no_path_of_the_schema_was_forgotten() -> None:
    def text_keys(model: type, prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        found = set()
        for name, field in model.model_fields.items():
            parts = [field.annotation, *get_args(field.annotation)]
            for part in parts:
                if isinstance(part, type) and hasattr(part, "model_fields"):
                    found |= text_keys(part, (*prefix, name))
            words = (field.description or "").split()
            if any(word.strip(",:;") in ("folder", "file", "YAML") for word in words) and prefix != ():
                found.add((*prefix, name))
        return found

    assert text_keys(Recipe) == set(paths.PATHS)


def test_the_run_that_a_shipped_recipe_begins_with_is_where_the_user_is(base: Path) -> None:
    here = Path.cwd()
    assert load_recipe("digits-fast").student.init.path == str(here / "runs/digits")
    mine = here.parent / "deep" / "mine.yaml"
    mine.write_text("name: mine\nextends: digits-fast\n")
    assert load_recipe(mine).student.init.path == str(here / "runs/digits")
    mine.write_text("name: mine\nextends: digits-fast\nstudent: {init: {kind: run, path: runs/own}}\n")
    assert load_recipe(mine).student.init.path == str(mine.parent / "runs/own")

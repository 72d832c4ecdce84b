from __future__ import annotations

import json
from pathlib import Path

import pytest

from dashdeploy import locate
from dashdeploy.cli.app import main
from dashdeploy.recipe.load import load_recipe

VALID = "name: x\nteacher: {path: there}\nstudent: {compression: 4}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; the recipes that ship are `good` and `bad`."""
    shipped = tmp_path / "package" / "_data" / "recipes"
    shipped.mkdir(parents=True)
    shipped.with_name("exporters").mkdir()
    (shipped / "good.yaml").write_text(
        "# yaml-language-server: $schema=s.json\n# dashdeploy run good\n# FID 1.5 [measured]\n# third\n" + VALID
    )
    (shipped / "bad.yaml").write_text(VALID + "seed: -1\nexprt: []\n")
    monkeypatch.setattr(locate, "_PACKAGE", tmp_path / "package")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def recipes(folder: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run `dashdeploy recipes …`: (exit code, stdout, stderr)."""

    def call(*args: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["recipes", *args])
        return caught.value.code, *capsys.readouterr()

    return call


def test_ls_shows_the_first_two_lines_of_the_head_comment(recipes) -> None:
    assert recipes("ls") == (0, "bad\ngood  dashdeploy run good\n      FID 1.5 [measured]\n", "")


def test_ls_as_json(recipes) -> None:
    code, out, _ = recipes("ls", "--json")
    bad, good = json.loads(out)["recipes"]
    assert (code, bad["name"], bad["comment"]) == (0, "bad", [])
    assert good["comment"] == ["dashdeploy run good", "FID 1.5 [measured]"]
    assert Path(good["path"]).is_file()


@pytest.mark.parametrize(
    ("destination", "written"), [([], "good.yaml"), (["mine.yaml"], "mine.yaml"), (["sub"], "sub/good.yaml")]
)
def test_cp_writes_a_file_or_into_a_folder(recipes, folder: Path, destination: list[str], written: str) -> None:
    (folder / "sub").mkdir()
    assert recipes("cp", "good", *destination) == (0, f"{written}\n", "")
    name = "mine" if destination == ["mine.yaml"] else "x"
    original = locate.find("recipes", "good").read_text()
    assert (folder / written).read_text() == original.replace("name: x", f"name: {name}")
    assert load_recipe(folder / written).name == name


def test_cp_overwrites_only_when_forced_and_leaves_nothing_else(recipes, folder: Path) -> None:
    (folder / "good.yaml").write_text("edited")
    code, _, err = recipes("cp", "good")
    assert code == 2
    assert "good.yaml exists" in err
    assert (folder / "good.yaml").read_text() == "edited"
    assert recipes("cp", "good", "--force")[0] == 0
    assert (folder / "good.yaml").read_text().endswith(VALID)
    assert [path.name for path in folder.iterdir()] == ["good.yaml"]


@pytest.mark.parametrize("base", ["good", "./base.yaml", "../base.yaml", "base.yaml  # a comment"])
def test_a_copy_of_an_extending_recipe_loads_from_its_new_place(recipes, folder: Path, base: str) -> None:
    (folder / "mine" / "deeper").mkdir(parents=True)
    for place in (folder / "mine", folder / "mine" / "deeper"):
        (place / "base.yaml").write_text(VALID + "seed: 8\n")
    mine = folder / "mine" / "deeper" / "mine.yaml"
    mine.write_text(f"# head\nextends: {base}\nname: mine\nsampling: {{guidance: 3}}\n")
    assert recipes("cp", "mine/deeper/mine.yaml", "copy.yaml")[0] == 0
    assert load_recipe(folder / "copy.yaml") == load_recipe(mine).model_copy(update={"name": "copy"})
    assert (folder / "copy.yaml").read_text().splitlines()[0::2] == ["# head", "name: copy"]


@pytest.mark.parametrize(
    ("line", "file", "copied"),
    [
        ("name: x  # the folder", "mine.yaml", "name: mine  # the folder"),
        ('name: "x"', "mine.yml", "name: mine"),
        ("name:   'x'", "2024.yaml", 'name: "2024"'),
        ("name: x", "mine", "name: mine"),
    ],
)
def test_a_copy_gets_the_name_of_its_file(recipes, folder: Path, line: str, file: str, copied: str) -> None:
    (folder / "from.yaml").write_text(VALID.replace("name: x", line))
    assert recipes("cp", "./from.yaml", file) == (0, f"{file}\n", "")
    assert (folder / file).read_text().splitlines()[0] == copied
    assert load_recipe(folder / file).name == Path(file).stem


@pytest.mark.parametrize("file", ["My.yaml", "a b.yaml", "-x.yaml", "ü.yaml"])
def test_a_copy_whose_file_cannot_give_the_name_is_refused(recipes, folder: Path, file: str) -> None:
    code, out, err = recipes("cp", "good", "--", file)
    assert (code, out) == (2, "")
    assert "the file's name becomes the copy's `name`" in err and err.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_a_copy_of_a_comparison_loads_from_its_new_place(recipes, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "base.yaml").write_text(VALID)
    text = "name: c\nrecipe: ./base.yaml\nvariants: {one: {label: One}}\n"
    (folder / "sub" / "c.yaml").write_text(text)
    assert recipes("cp", "sub/c.yaml")[0] == 0
    assert recipes("validate", "c.yaml") == (0, "c.yaml: ok\n", "")


def test_a_copy_that_would_lose_its_base_is_refused(recipes, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "base.yaml").write_text(VALID)
    (folder / "sub" / "flow.yaml").write_text("{extends: ./base.yaml, name: x}")
    code, _, err = recipes("cp", "sub/flow.yaml")
    assert code == 2 and not (folder / "flow.yaml").exists()
    assert err == "error: sub/flow.yaml: write `extends` on a separate line to copy it to another folder\n"


def test_a_copy_whose_relative_paths_would_lead_elsewhere_is_refused(recipes, folder: Path) -> None:
    (folder / "mine.yaml").write_text(VALID + "data: {name: image_folder, path: flowers}\n")
    (folder / "other").mkdir()
    code, _, err = recipes("cp", "mine.yaml", "other")
    assert (
        code == 2 and "its relative paths are relative to its folder" in err and not list((folder / "other").iterdir())
    )
    assert recipes("cp", "mine.yaml", "second.yaml")[0] == 0


def test_cp_into_a_folder_that_is_not_there_is_a_mistake(recipes) -> None:
    code, _, err = recipes("cp", "good", "nowhere/good.yaml")
    assert (code, "folder nowhere does not exist" in err) == (2, True)


def test_validate_prints_all_problems_of_all_recipes(recipes) -> None:
    code, out, err = recipes("validate", "bad", "good", "missing")
    assert (code, out) == (2, "good: ok\n")
    assert "bad.yaml: 2 problems\n  line 4: seed: must be ≥ 0, got -1\n  line 5: exprt: unknown key" in err
    assert "error: unknown recipe 'missing'" in err


def test_validate_passes_good_recipes(recipes) -> None:
    assert recipes("validate", "good") == (0, "good: ok\n", "")


def test_schema_is_a_json_schema_that_forbids_unknown_keys(recipes) -> None:
    code, out, _ = recipes("schema")
    schema = json.loads(out)
    assert code == 0
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {arm["$ref"] for arm in schema["anyOf"]} == {"#/$defs/Recipe", "#/$defs/Comparison"}
    recipe, comparison = (schema["$defs"][name] for name in ("Recipe", "Comparison"))
    assert recipe["additionalProperties"] is comparison["additionalProperties"] is False
    assert "name" in recipe["required"]
    assert [arm["required"] for arm in recipe["anyOf"]] == [["student"], ["extends"]], "a base may bring the student"
    assert recipe["properties"]["extends"]["type"] == "string"
    assert "seed" in recipe["properties"] and "variants" in comparison["required"]


def test_a_comparison_given_as_a_recipe_names_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "ablation-digits", "--dry-run"])
    assert ended.value.code == 2
    assert "dashdeploy compare ablation-digits" in capsys.readouterr().err


def test_what_yaml_cannot_construct_is_copied_as_it_is(tmp_path: Path) -> None:
    source, copy = tmp_path / "odd.yaml", tmp_path / "copy.yaml"
    source.write_text("x: 2020-13-45\n")
    with pytest.raises(SystemExit) as ended:
        main(["recipes", "cp", str(source), str(copy)])
    assert ended.value.code in (0, None)
    assert copy.read_text() == source.read_text()

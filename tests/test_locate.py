from __future__ import annotations

import os
from pathlib import Path

import pytest

from dashdeploy import locate
from dashdeploy.errors import UserError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two recipes; the working folder is another one."""
    (tmp_path / "repo" / "dashdeploy").mkdir(parents=True)
    (tmp_path / "repo" / "recipes").mkdir()
    for name in ("small.yaml", "large.yaml", "notes.txt"):
        (tmp_path / "repo" / "recipes" / name).write_text("name: x\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(locate, "_PACKAGE", tmp_path / "repo" / "dashdeploy")
    return tmp_path / "repo"


def test_names_are_found_in_the_checkout_with_and_without_suffix(checkout: Path) -> None:
    expected = checkout / "recipes" / "small.yaml"
    assert locate.find("recipes", "small") == locate.find("recipes", "small.yaml") == expected
    assert list(locate.available("recipes")) == ["large", "small"]


def test_the_packaged_copy_comes_before_the_checkout(checkout: Path) -> None:
    packaged = checkout / "dashdeploy" / "_data" / "recipes"
    packaged.mkdir(parents=True)
    (packaged / "small.yaml").write_text("name: x\n")
    assert locate.data_root("recipes") == packaged
    assert locate.find("recipes", "small") == packaged / "small.yaml"


def test_a_path_comes_first_and_a_bare_word_is_never_a_path(checkout: Path) -> None:
    for name in ("small.yaml", "small", "own.yaml"):
        Path(name).write_text("name: mine\n")
    assert locate.find("recipes", "small.yaml") == Path("small.yaml")
    assert locate.find("recipes", "./own") == Path("own.yaml")
    assert locate.find("recipes", str(Path("own.yaml").resolve())).is_absolute()
    assert locate.find("recipes", "small") == checkout / "recipes" / "small.yaml"


@pytest.mark.parametrize("name", ["smal", "./small.yaml", ""])
def test_an_unknown_name_lists_what_there_is(checkout: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"unknown recipe .* Known: large, small\."):
        locate.find("recipes", name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../repo/recipes", "../repo/recipes: a folder, and a recipe is a YAML file"),
        (".", "a folder, and a recipe is a YAML file"),
        ("notes.txt", "notes.txt: no such file"),
        ("none/at/all.yaml", "none/at/all.yaml: no such file"),
        ("../run", "../run: a run folder, not a recipe"),
        ("own", r"own: no recipe of this name ships with dashdeploy. The file here is ./own\.yaml"),
    ],
)
def test_what_is_no_name_is_told_as_what_it_is(checkout: Path, name: str, told: str) -> None:
    (checkout.parent / "run" / "student").mkdir(parents=True)
    Path("own.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match=told):
        locate.find("recipes", name)


def test_an_unknown_name_gives_the_nearest(checkout: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'small'"):
        locate.find("recipes", "smal")


def test_missing_data_says_where_it_was_looked_for(checkout: Path) -> None:
    with pytest.raises(UserError, match=r"exporters that ship with dashdeploy are missing.*_data/exporters"):
        locate.available("exporters")


def test_a_name_that_is_too_long_for_a_file_is_an_unknown_name(checkout: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        locate.find("recipes", "x" * 5000 + "/y")


def test_a_user_without_a_home_has_no_cache_but_by_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert locate.cache_folder() == tmp_path / ".cache" / "dashdeploy"
    locate.settle_home()
    assert os.environ["HOME"] == str(tmp_path), "it is left alone"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # whom no system knows
    for _ in range(2):
        with pytest.raises(UserError, match="set XDG_CACHE_HOME to a folder"):
            locate.cache_folder()
        locate.settle_home()
    assert Path.home() == Path(locate.NO_HOME), "no library fails that asks for it"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert locate.cache_folder() == tmp_path / "x" / "dashdeploy"

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dashdeploy import stages
from dashdeploy.errors import UserError


def make(folder: Path, recipe, text: str = "a", key: str = "k") -> stages.Stage:
    with stages.write_stage(folder, key=key, recipe=recipe, inputs={"of": text}) as draft:
        (draft.folder / "sub").mkdir()
        (draft.folder / "sub" / "file.txt").write_text(text)
        draft.figures["n"] = 1
    return stages.read_stage(folder)


def test_a_stage_is_described_by_its_manifest(tmp_path: Path, tiny_recipe) -> None:
    stage = make(tmp_path / "s", tiny_recipe)
    assert set(stage.manifest) >= {"format", "key", "inputs", "files", "figures", "seed", "versions", "recipe"}
    assert list(stage.manifest["files"]) == ["sub/file.txt"]
    assert stage.figures == {"n": 1}


def test_a_failure_while_writing_changes_nothing(tmp_path: Path, tiny_recipe) -> None:
    make(tmp_path / "s", tiny_recipe, "old")
    with (
        pytest.raises(RuntimeError),
        stages.write_stage(tmp_path / "s", key="k", recipe=tiny_recipe, inputs={}) as draft,
    ):
        (draft.folder / "half").write_text("x")
        raise RuntimeError
    assert (tmp_path / "s" / "sub" / "file.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_new_version_replaces_the_old_one_whole(tmp_path: Path, tiny_recipe) -> None:
    make(tmp_path / "s", tiny_recipe, "old")
    stage = make(tmp_path / "s", tiny_recipe, "new")
    assert (stage.folder / "sub" / "file.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_stage_is_current_only_with_its_key_and_whole_files(tmp_path: Path, tiny_recipe) -> None:
    make(tmp_path / "s", tiny_recipe)
    assert stages.current(tmp_path / "s", "k") is not None
    assert stages.current(tmp_path / "s", "other") is None
    (tmp_path / "s" / "sub" / "file.txt").write_text("changed")
    assert stages.current(tmp_path / "s", "k") is None
    with pytest.raises(UserError, match="damaged or changed"):
        stages.read_stage(tmp_path / "s")


def test_the_key_changes_with_the_stage_with_any_input_and_with_the_recipe(tiny_recipe) -> None:
    key = stages.stage_key("student", tiny_recipe, {"a": 1, "b": {"c": 2}})
    assert key == stages.stage_key("student", tiny_recipe, {"b": {"c": 2}, "a": 1})
    others = {
        stages.stage_key("student", tiny_recipe, {"a": 2, "b": {"c": 2}}),
        stages.stage_key("teacher", tiny_recipe, {"a": 1, "b": {"c": 2}}),
        stages.stage_key("student", tiny_recipe.model_copy(update={"seed": 4}), {"a": 1, "b": {"c": 2}}),
    }
    assert len({key, *others}) == 4


def test_an_unwritable_run_folder_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"cannot be written to.*--run-dir"):
        stages.open_run(tmp_path / "runs", "digits")


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    work = stages.work_folder(tmp_path / "student")
    with (
        stages.exclusive(work),
        pytest.raises(UserError, match="another dashdeploy is at work"),
        stages.exclusive(work),
    ):
        pass
    with stages.exclusive(work):
        pass


def test_who_waits_for_another_process_says_for_what(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "lock"
    order: list[str] = []

    def second() -> None:
        with stages.in_turn(lock, what="the bank"):
            order.append("second")

    with stages.in_turn(lock, what="the bank"):
        other = threading.Thread(target=second)  # a file that is opened again is locked as by another process
        other.start()
        while "waiting for the bank" not in (said := capfd.readouterr().err):
            assert other.is_alive()
            time.sleep(0.01)
        order.append("first")
    other.join(timeout=30)
    assert order == ["first", "second"] and "another process" in said
    with stages.in_turn(lock, what="the bank"):
        assert capfd.readouterr().err == ""

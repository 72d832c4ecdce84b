from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import TextIO

import pytest

from dashdeploy import stages
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.teachers import choose


def make(folder: Path, recipe, text: str = "a", key: str = "k") -> stages.Stage:
    with (
        stages.exclusive(folder) as work,
        stages.write_stage(folder, work, key=key, recipe=recipe, inputs={"of": text}) as draft,
    ):
        (draft.folder / "sub").mkdir()
        (draft.folder / "sub" / "file.txt").write_text(text)
        draft.figures["n"] = 1
    return stages.read_stage(folder)


def test_a_stage_is_described_by_its_manifest(tmp_path: Path, tiny_recipe) -> None:
    stage = make(tmp_path / "s", tiny_recipe)
    assert set(stage.manifest) >= {"format", "key", "inputs", "files", "figures", "seed", "versions", "recipe"}
    assert list(stage.manifest["files"]) == ["sub/file.txt"]
    assert stage.figures == {"n": 1}


def as_format(folder: Path, number: int, **more: object) -> None:
    """The stage in `folder` with another format in its manifest, which is vouched for again."""
    manifest = {**json.loads((folder / stages.MANIFEST).read_text()), "format": number, **more}
    (folder / stages.MANIFEST).write_text(json.dumps(manifest))
    (folder / stages.SIDECAR).write_bytes(stages.sidecar_text(folder / stages.MANIFEST))


def test_a_stage_of_the_format_before_is_read_unless_it_is_an_artifact(tmp_path: Path, tiny_recipe) -> None:
    made = make(tmp_path / "s", tiny_recipe)
    assert made.manifest["format"] == 5
    as_format(tmp_path / "s", 4)
    read = stages.read_stage(tmp_path / "s")
    assert (read.manifest["format"], read.figures) == (4, {"n": 1})
    assert stages.current(tmp_path / "s", "k") is not None
    as_format(tmp_path / "s", 4, artifact={})
    with pytest.raises(UserError, match=r"format 4; this version reads 5\. Make the stage again"):
        stages.read_stage(tmp_path / "s")
    as_format(tmp_path / "s", 5, artifact={})
    assert stages.read_stage(tmp_path / "s").manifest["format"] == 5


@pytest.mark.parametrize("number", [3, 6, "5", None])
def test_a_stage_of_another_format_is_refused(tmp_path: Path, tiny_recipe, number: object) -> None:
    make(tmp_path / "s", tiny_recipe)
    as_format(tmp_path / "s", number)
    with pytest.raises(UserError, match=f"format {number}; this version reads 5"):
        stages.read_stage(tmp_path / "s")


def test_a_failure_while_writing_changes_nothing(tmp_path: Path, tiny_recipe) -> None:
    make(tmp_path / "s", tiny_recipe, "old")
    with (
        pytest.raises(RuntimeError),
        stages.exclusive(tmp_path / "s") as work,
        stages.write_stage(tmp_path / "s", work, key="k", recipe=tiny_recipe, inputs={}) as draft,
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
    with (
        stages.exclusive(tmp_path / "student"),
        pytest.raises(UserError, match="another dashdeploy is at work"),
        stages.exclusive(tmp_path / "student", fresh=True),
    ):
        pass
    with stages.exclusive(tmp_path / "student"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_fresh_asks_for_the_lock_before_it_removes_anything(tmp_path: Path) -> None:
    with stages.exclusive(tmp_path / "student") as work:
        (work / "checkpoint.pt").write_text("hours")
        with pytest.raises(UserError), stages.exclusive(tmp_path / "student", fresh=True):
            pass
        assert (work / "checkpoint.pt").exists()
    with stages.exclusive(tmp_path / "student", fresh=True) as work:
        assert [path.name for path in work.iterdir()] == ["lock"]


def test_a_lock_that_its_last_holder_removed_is_asked_for_again(tmp_path: Path, monkeypatch) -> None:
    """The file was opened before the holder removed it, so that its lock keeps nobody out."""
    lock = stages.work_path(tmp_path / "student") / "lock"
    real, removed = fcntl.flock, []

    def flock(file: TextIO, how: int) -> None:
        real(file, how)
        if not removed:
            removed.append(lock.unlink())

    monkeypatch.setattr(fcntl, "flock", flock)
    with stages.exclusive(tmp_path / "student"):
        assert lock.exists()
        with pytest.raises(UserError, match="at work"), stages.exclusive(tmp_path / "student"):
            pass


@pytest.mark.parametrize("old", [True, False], ids=["over an old stage", "first"])
@pytest.mark.parametrize("damaged", [True, False], ids=["half a draft", "a whole draft"])
def test_what_a_kill_left_is_put_right_under_the_lock(tmp_path: Path, tiny_recipe, old: bool, damaged: bool) -> None:
    work = stages.work_path(tmp_path / "s")
    make(tmp_path / "s", tiny_recipe, "new")
    work.mkdir(parents=True)
    (tmp_path / "s").rename(work / "draft")
    if old:
        make(tmp_path / "old", tiny_recipe, "old")
        (tmp_path / "old").rename(work / "replaced")
    if damaged:
        (work / "draft" / "sub" / "file.txt").write_text("ne")
    stages.finished(tmp_path / "s", "k")
    text = tmp_path / "s" / "sub" / "file.txt"
    expected = "new" if not damaged else "old" if old else None
    assert (text.read_text() if text.exists() else None) == expected
    assert not work.parent.exists()


def test_a_reader_finds_the_stage_that_a_kill_left_between_two_places(tmp_path: Path, tiny_recipe) -> None:
    make(tmp_path / "teacher", tiny_recipe)
    work = stages.work_path(tmp_path / "teacher")
    work.mkdir(parents=True)
    (tmp_path / "teacher").rename(work / "replaced")
    recipe = tiny_recipe.model_copy(update={"teacher": tiny_recipe.teacher.model_copy(update={"path": str(tmp_path)})})
    assert choose.find(recipe, tmp_path) == tmp_path / "teacher", "and not the one that the recipe names"


def test_an_empty_work_folder_goes_too_and_one_at_work_stays(tmp_path: Path, tiny_recipe) -> None:
    make(tmp_path / "s", tiny_recipe)
    (tmp_path / ".work").mkdir()
    assert stages.finished(tmp_path / "s", "k") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    with stages.exclusive(tmp_path / "s") as work:
        (work / "checkpoint.pt").touch()
        assert stages.finished(tmp_path / "s", "k") is not None
        assert (work / "checkpoint.pt").exists()


def test_all_files_of_a_stage_have_the_modes_that_the_umask_gives(tmp_path: Path, tiny_recipe) -> None:
    for umask, of_folder, of_file in ((0o022, 0o755, 0o644), (0o027, 0o750, 0o640), (0o002, 0o775, 0o664)):
        before = os.umask(umask)
        try:
            folder = tmp_path / oct(umask)
            with (
                stages.exclusive(folder) as work,
                stages.write_stage(folder, work, key="k", recipe=tiny_recipe, inputs={}) as draft,
            ):
                (draft.folder / "sub").mkdir(mode=0o700)
                (draft.folder / "sub" / "weights").touch(mode=0o600)
                (draft.folder / "program").touch(mode=0o700)
            with stages.replacing(folder / "cache") as part:
                part.touch(mode=0o600)
        finally:
            os.umask(before)
        modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
        program = of_file | (of_folder & 0o111)
        assert modes.pop("program") == program and modes.pop("sub") == of_folder == folder.stat().st_mode & 0o777
        assert len(modes) == 5 and set(modes.values()) == {of_file}


def test_a_file_of_a_stage_may_be_a_link_to_its_content(tmp_path: Path, tiny_recipe) -> None:
    stage = make(tmp_path / "s", tiny_recipe)
    file = stage.folder / "sub" / "file.txt"
    (tmp_path / "blobs").mkdir()
    file.rename(tmp_path / "blobs" / "1")
    file.symlink_to(tmp_path / "blobs" / "1")
    assert stages.read_stage(stage.folder) == stage
    (tmp_path / "blobs" / "1").write_text("b")
    with pytest.raises(UserError, match="damaged or changed"):
        stages.read_stage(stage.folder)


def test_links_count_by_their_content_and_a_loop_or_nothing_is_refused(tmp_path: Path) -> None:
    plain, linked, store = tmp_path / "plain", tmp_path / "linked", tmp_path / "store"
    for folder in (plain / "unet", linked, store / "unet"):
        folder.mkdir(parents=True)
    for folder in (plain / "unet", store / "unet"):
        (folder / "weights").write_text("w")
    (linked / "unet").symlink_to(store / "unet", target_is_directory=True)
    assert stages.folder_sha256(linked) == stages.folder_sha256(plain)
    (store / "unet" / "weights").write_text("other")
    assert stages.folder_sha256(linked) != stages.folder_sha256(plain)
    with pytest.raises(UserError, match="no files that could identify it"):
        stages.folder_sha256(linked, keep=lambda path: path.suffix == ".safetensors")
    (store / "unet" / "more").symlink_to("nowhere")
    with pytest.raises(UserError, match="more: a link to nothing"):
        stages.folder_sha256(linked)
    (store / "unet" / "more").unlink()
    (store / "unet" / "loop").symlink_to("..", target_is_directory=True)
    with pytest.raises(UserError, match="loop/unet: a link to a folder that holds it"):
        stages.folder_sha256(linked)


@pytest.mark.parametrize("step", range(4))
def test_a_file_with_a_hash_is_the_old_one_or_the_new_one_wherever_a_kill_comes(
    tmp_path: Path, monkeypatch, step: int
) -> None:
    path = tmp_path / "checkpoint"
    with stages.replacing(path) as part:
        part.write_text("old")
    real, left = os.fsync, [step]

    def killed(file: int) -> None:
        real(file)
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)

    child = os.fork()
    if not child:
        monkeypatch.setattr(os, "fsync", killed)
        with stages.replacing(path) as part:
            part.write_text("new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (9 if step < 3 else 0)
    assert stages.undamaged(path)
    assert path.read_text() == ("old" if step < 2 else "new")


def test_one_flipped_bit_of_a_file_with_a_hash_is_seen(tmp_path: Path) -> None:
    with stages.replacing(tmp_path / "bank") as part:
        part.write_bytes(bytes(range(16)))
    for bit in range(128):
        data = bytearray(range(16))
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / "bank").write_bytes(data)
        assert not stages.undamaged(tmp_path / "bank")


def test_what_differs_from_a_finished_stage_is_named(tmp_path: Path, tiny_recipe, tiny_text: str) -> None:
    make(tmp_path / "student", tiny_recipe, "a" * 64)

    def refusal(*overrides: str, of: str = "a" * 64) -> str:
        recipe = load_text(tiny_text, name="tiny", overrides=list(overrides))
        with pytest.raises(UserError) as refused:
            stages.refuse_to_replace(tmp_path / "student", "student", recipe, {"of": of})
        return str(refused.value)

    said = refusal("distill.learning_rate=1e-4", "distill.log_every=7", "distill.teacher_bank=32")
    assert "distill.learning_rate 0.0002 → 0.0001; distill.teacher_bank 0 → 32. Pass --fresh" in said
    said = refusal("student.compression=3", of="b" * 64)
    assert "student.compression 2.0 → 3.0; content of of aaaaaaaa… → bbbbbbbb…. Pass --fresh" in said
    (tmp_path / "student" / "sub" / "file.txt").write_text("b")
    assert "cannot be used: " in (said := refusal()) and "--fresh" in said
    (tmp_path / "mine").mkdir()
    stages.refuse_to_replace(tmp_path / "mine", "student", tiny_recipe, {})
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not a finished stage"):
        stages.refuse_to_replace(tmp_path / "mine", "student", tiny_recipe, {})


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

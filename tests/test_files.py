"""Files are written whole or not at all, with the user's modes."""

from __future__ import annotations

import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from dashdeploy.errors import UserError
from dashdeploy.files import write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", b"1")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o640
    (tmp_path / "new").chmod(0o604)
    write_whole(tmp_path / "new", "zwei – 2")
    assert mode(tmp_path / "new") == 0o604
    assert (tmp_path / "new").read_bytes() == "zwei – 2".encode()
    assert os.listdir(tmp_path) == ["new"]


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kept.png"
    path.write_bytes(b"before")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))  # a full disk: the write stops in the middle
    try:
        with pytest.raises(UserError, match=r"kept\.png: cannot be written: .*no file of this size"):
            write_whole(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["kept.png"]


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("store/real")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "store/real").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"through")
    reader.join(10)
    assert read == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["folder", "none/file", "a\0b", "n" * 256, "loop"])
def test_a_name_that_cannot_be_written_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="cannot be written") as caught:
        write_whole(tmp_path / name, b"")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["folder", "loop"]


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        real = os.fsync
        os.fsync = lambda file: (real(file), os._exit(9))  # type: ignore[assignment]
        write_whole(tmp_path / "grid.png", b"new")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".dashdeploy-") and left.endswith(".part")
    write_whole(tmp_path / "grid.png", b"again")
    assert os.listdir(tmp_path) == ["grid.png"] and (tmp_path / "grid.png").read_bytes() == b"again"

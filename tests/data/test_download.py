"""Downloads from a server of our own: resumed after cuts, verified, and never half in place."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from dashdeploy import progress
from dashdeploy.data.download import fetch
from dashdeploy.errors import UserError

CONTENT = bytes(i * i % 251 for i in range(50_000))
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(HTTPServer):
    """Serves `content`; `cuts` holds, for the first requests, after how many bytes to hang up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts = CONTENT, list[int]()
        self.content_after_cut: bytes | None = None
        self.ranges_work, self.says_length, self.status, self.shift = True, True, 200, 0
        self.seen: list[str | None] = []  # the Range header of every request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content, asked = self.server.content, self.headers.get("Range")
        self.server.seen.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges_work else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        if start:
            start += self.server.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.says_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.cuts:
            body = body[: self.server.cuts.pop(0)]
            self.server.content = self.server.content_after_cut or content
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "archive.tar.gz"


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def leave_part(target: Path, content: bytes) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(content)


def assert_in_place(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()


def test_a_whole_download_lands_at_the_target(server: Server, target: Path) -> None:
    assert fetch(server.url, target, md5=MD5) == target
    assert_in_place(target)
    assert server.seen == [None]


def test_progress_goes_to_stderr_only(
    server: Server, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_S", 0)
    monkeypatch.setattr(progress, "SHARE", 0)
    fetch(server.url, target, md5=MD5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "archive.tar.gz" in err


def test_a_cut_connection_is_resumed_where_it_broke(server: Server, target: Path) -> None:
    server.cuts = [20_000, 10_000]
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    assert server.seen == [None, "bytes=20000-", "bytes=30000-"]


def test_too_many_cuts_keep_the_part_for_the_next_run(server: Server, target: Path) -> None:
    server.cuts = [10_000, 10_000]
    with pytest.raises(UserError, match=r"2 requests .* 20000 bytes are here\. Run the same command again to resume"):
        fetch(server.url, target, md5=MD5, attempts=2)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:20_000]
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    assert server.seen[-1] == "bytes=20000-"


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: Server, target: Path) -> None:
    leave_part(target, CONTENT[:20_000])
    server.ranges_work = False
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    assert server.seen == ["bytes=20000-"]


def test_a_server_that_answers_another_range_is_read_from_the_start(server: Server, target: Path) -> None:
    leave_part(target, CONTENT[:20_000])
    server.shift = 5
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    assert server.seen == ["bytes=20000-", None]


def test_a_part_that_is_whole_already_is_only_verified(server: Server, target: Path) -> None:
    leave_part(target, CONTENT)
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    assert server.seen == ["bytes=50000-"]


def test_a_part_longer_than_the_file_is_dropped(server: Server, target: Path) -> None:
    leave_part(target, b"x" * 60_000)
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    assert server.seen == ["bytes=60000-", None]


@pytest.mark.parametrize("length", [20_000, 50_000])
def test_a_part_of_another_version_is_fetched_once_more_whole(server: Server, target: Path, length: int) -> None:
    leave_part(target, b"x" * length)
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    assert server.seen == [f"bytes={length}-", None]


def test_a_file_that_changes_its_length_between_cut_and_resume_is_fetched_whole(server: Server, target: Path) -> None:
    server.content, server.cuts, server.content_after_cut = b"x" * 60_000, [20_000], CONTENT
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    assert server.seen == [None, "bytes=20000-", None]


def test_a_wrong_checksum_removes_the_part_and_names_both(server: Server, target: Path) -> None:
    server.content = b"another file"
    got = hashlib.md5(b"another file").hexdigest()
    with pytest.raises(UserError, match=f"md5 {got}, expected {MD5}"):
        fetch(server.url, target, md5=MD5)
    assert list(target.parent.iterdir()) == []
    assert server.seen == [None]


def test_a_wrong_checksum_leaves_an_older_target_alone(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"older")
    server.content = b"another file"
    with pytest.raises(UserError, match="expected"):
        fetch(server.url, target, md5=MD5)
    assert target.read_bytes() == b"older"


def test_a_body_of_unsaid_length_is_verified_by_its_checksum(server: Server, target: Path) -> None:
    server.says_length = False
    fetch(server.url, target, md5=MD5)
    assert_in_place(target)
    server.cuts = [20_000]
    with pytest.raises(UserError, match=f"expected {MD5}"):
        fetch(server.url, target, md5=MD5)


@pytest.mark.parametrize("says_length", [True, False])
def test_a_file_that_is_too_long_is_refused_and_removed(server: Server, target: Path, says_length: bool) -> None:
    server.content, server.says_length = b"x" * ((1 << 20) + 1), says_length
    server.cuts = [10] if says_length else []  # a length that is said is refused before the body
    with pytest.raises(UserError, match="is longer than 1 MiB"):
        fetch(server.url, target, md5=MD5, attempts=1, max_mib=1)
    assert list(target.parent.iterdir()) == []


def test_a_refusal_says_where_to_put_the_file(server: Server, target: Path) -> None:
    server.status = 404
    with pytest.raises(UserError, match="HTTP 404") as caught:
        fetch(server.url, target, md5=MD5)
    assert str(target) in str(caught.value)
    assert server.url in str(caught.value)


def test_no_network_is_one_line_that_says_where_to_put_the_file(target: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/archive.tar.gz"
        with pytest.raises(UserError, match="could not download") as caught:
            fetch(url, target, md5=MD5)
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_that_cannot_be_written_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="could not write"):
        fetch(server.url, tmp_path / "file" / "archive.tar.gz", md5=MD5)
    assert server.seen == []

"""Download one published file: resumed after an interruption, checksummed, renamed into place only when it is whole."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from dashdeploy.errors import UserError

_CHUNK_BYTES = 1 << 18
Report = Callable[[int, int | None], None]
"""Called with (bytes downloaded, bytes of the whole file). None: the server does not say."""


def md5_of(stream: BinaryIO) -> str:
    """Hex MD5 of the stream from its position to its end."""
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def fetch(url: str, target: Path, *, md5: str, attempts: int = 4, timeout_s: float = 30.0, max_mib: int = 1024) -> Path:
    """Download `url` to `target`, replacing an existing file.

    The bytes are written to `target` + ".part". A part that an interrupted download left is continued by an HTTP Range
    request. If the server ignores the range, or its file has another length by now, the download starts over. Progress
    goes to stderr.

    Args:
        url: http or https address.
        target: the file to write; its folder is made.
        md5: published hex MD5 of the whole file.
        attempts: requests before a connection that keeps breaking is given up.
        timeout_s: longest silence of the server.
        max_mib: a longer file is refused.

    Returns:
        `target`.

    Raises:
        UserError: no network, the server refuses, or the connection breaks too often (the part is kept); the file is
            too long or has another checksum (the part is removed); or it cannot be written.
    """
    part = target.with_name(target.name + ".part")
    transfer = _Transfer(url, part, target, attempts=attempts, timeout_s=timeout_s, max_bytes=max_mib << 20)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        got = transfer.run()
        if got != md5 and transfer.continued:
            # The earlier bytes may be of another version of the file: take it whole, once.
            part.unlink()
            got = transfer.run()
        if got != md5:
            part.unlink()
            raise UserError(f"{url}: the download has md5 {got}, expected {md5}; it was removed")
        os.replace(part, target)
    except OSError as error:  # errors of the network are UserErrors by now
        raise UserError(f"could not write {part} ({error})") from error
    return target


class _Transfer:
    """The transfer of one file from a URL into its part file."""

    def __init__(self, url: str, part: Path, target: Path, *, attempts: int, timeout_s: float, max_bytes: int) -> None:
        self.url, self.part, self.target = url, part, target
        self.attempts, self.timeout_s, self.max_bytes = attempts, timeout_s, max_bytes
        self.continued = False

    def run(self) -> str:
        """Fill the part file, by several requests if necessary; returns its MD5."""
        from dashdeploy.progress import MEGABYTES, Progress

        with Progress() as progress:
            task = progress.add_task(f"download of {self.target.name}", total=None, unit=MEGABYTES)
            for _ in range(self.attempts):
                if self._request(lambda held, total: progress.update(task, completed=held, total=total)):
                    with self.part.open("rb") as stream:
                        return md5_of(stream)
        raise UserError(
            f"{self.url}: {self.attempts} requests did not bring the whole file, {_size(self.part)} bytes are here. "
            f"Run the same command again to resume, or put the file at {self.target} yourself"
        )

    def _request(self, report: Report) -> bool:
        """One request for the missing bytes; True when the part then holds the whole file."""
        held = _size(self.part)
        headers = {"User-Agent": "dashdeploy"} | ({"Range": f"bytes={held}-"} if held else {})
        try:
            response = urlopen(Request(self.url, headers=headers), timeout=self.timeout_s)
        except HTTPError as error:
            with error:
                if error.code == 416 and held:
                    self.continued = True
                    if error.headers.get("Content-Range") == f"bytes */{held}":
                        return True  # the part is the whole file already
                    self.part.unlink()  # longer than the server's file, so of another version
                    return False
            raise self._unreachable(f"HTTP {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise self._unreachable(reason) from error
        with response:
            start, total = _extent(response)
            if start not in (0, held):
                self.part.unlink(missing_ok=True)
                return False
            if total is not None and total > self.max_bytes:
                raise self._too_long()
            self.continued = start > 0
            with self.part.open("ab" if start else "wb") as out:
                ended = self._copy(response, out, start, total, report)
        return ended and (total is None or _size(self.part) == total)

    def _copy(self, response: HTTPResponse, out: BinaryIO, held: int, total: int | None, report: Report) -> bool:
        """Stream the body to `out`; False when the connection broke."""
        report(held, total)
        while True:
            try:
                chunk = response.read(_CHUNK_BYTES)
            except (OSError, HTTPException):
                return False
            if not chunk:
                return True
            held += len(chunk)
            if held > self.max_bytes:
                raise self._too_long()
            out.write(chunk)
            report(held, total)

    def _unreachable(self, reason: object) -> UserError:
        return UserError(f"could not download {self.url} ({reason}). Put the file at {self.target} yourself")

    def _too_long(self) -> UserError:
        self.part.unlink(missing_ok=True)
        return UserError(f"{self.url}: is longer than {self.max_bytes >> 20} MiB, so it is not the expected file")


def _extent(response: HTTPResponse) -> tuple[int, int | None]:
    """(first byte of the body, bytes of the whole file or None); -1 as first byte: the range cannot be read."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

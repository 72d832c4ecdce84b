"""Published tar.gz archives: the checksum is verified first, then named members are read into memory."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dashdeploy.data.download import md5_of
from dashdeploy.errors import UserError


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        url: where it is published.
        md5: hex MD5 as published.
    """

    url: str
    md5: str

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def read_members(path: Path, archive: Archive, max_bytes: Mapping[str, int]) -> dict[str, bytes]:
    """Read members of a verified tar.gz into memory.

    The checksum is taken of the open file that is then read. Nothing is written to disk. Members that are not in
    `max_bytes` are skipped, whatever they are.

    Args:
        path: the archive on disk.
        archive: what it must be.
        max_bytes: full member name -> the most bytes that it may have.

    Returns:
        member name -> content; names that the archive lacks are absent.

    Raises:
        UserError: another checksum, a damaged archive, or a member that is no regular file, too large or in it twice.
    """
    contents: dict[str, bytes] = {}
    try:
        with path.open("rb") as stream:
            got = md5_of(stream)
            if got != archive.md5:
                raise UserError(
                    f"{path}: md5 is {got}, the published {archive.filename} has {archive.md5}. "
                    f"Remove it and fetch it again from {archive.url}"
                )
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:gz") as tar:
                for member in tar:
                    if member.name in max_bytes:
                        if member.name in contents:
                            raise UserError(f"{path}: {member.name} is in it twice")
                        contents[member.name] = _read(tar, member, path, max_bytes[member.name])
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is not a whole tar.gz archive ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error})") from error
    return contents


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, max_bytes: int) -> bytes:
    if not member.isreg() or member.issparse():
        raise UserError(f"{path}: {member.name} is not a regular file")
    if member.size > max_bytes:
        raise UserError(f"{path}: {member.name} has {member.size} bytes, expected at most {max_bytes}")
    content = tar.extractfile(member)
    if content is None:
        raise UserError(f"{path}: {member.name} has no content")
    with content:
        return content.read()

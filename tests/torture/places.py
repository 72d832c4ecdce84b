"""Places where writing or reading fails for real: a file system that fills up, and the files of another user."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from tests.torture.harness import Outcome, call

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # CLONE_NEWUSER, CLONE_NEWNS
NOBODY = 65534
_libc = ctypes.CDLL(None, use_errno=True)


def mounted(folder: Path, kib: int) -> None:
    """A tmpfs of this size at `folder`.

    Raises:
        OSError: this machine does not permit it.
    """
    options = f"size={kib}k,mode=755".encode()
    if _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options):
        raise OSError(ctypes.get_errno(), "mount")


def own_mounts() -> None:
    """Give this process, a forked child, mounts of its own, by a user namespace where it is not root.

    Raises:
        OSError: this machine does not permit it.
    """
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if _libc.mount(None, b"/", None, 0x4000 | 0x40000, None):  # MS_REC | MS_PRIVATE
        raise OSError(ctypes.get_errno(), "mount")


def can_mount(folder: Path) -> str:
    """Why this machine gives no small file systems; empty: it does."""

    def tried() -> None:
        own_mounts()
        (folder / "tried").mkdir(exist_ok=True)
        mounted(folder / "tried", 64)

    outcome = call(tried, cwd=folder)
    return "" if outcome.code == 0 else outcome.stderr.strip().splitlines()[-1]


def as_nobody(work: Callable[[], object], *, cwd: Path) -> Outcome:
    """`call`, as a user who owns nothing; who is not root already stays who he is."""

    def changed() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        work()

    return call(changed, cwd=cwd, limit_s=60)

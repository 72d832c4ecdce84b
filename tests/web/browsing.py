"""What the tests of pages run on, tools/web_browser.py; what is missing is told, and skipped or a failure.

`make setup` installs the npm packages where npm is, and Chromium where this user may: under CI those must be there.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import web_browser  # noqa: E402
from web_browser import INSECURE, ISOLATED, Chromium, Missing, Server, Visit  # noqa: E402

__all__ = ["INSECURE", "ISOLATED", "ROOT", "Chromium", "Server", "Visit", "missing", "modules", "node", "opened"]


def missing(reason: str, *, ours: bool) -> NoReturn:
    """Skip; or fail under CI, where it is ours to install."""
    if ours and os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def node() -> str:
    """Node's program."""
    try:
        return web_browser.node()
    except Missing as error:
        missing(str(error), ours=False)


def modules() -> Path:
    """The npm packages of tools/web_setup.py."""
    try:
        return web_browser.modules()
    except Missing as error:
        missing(str(error), ours=shutil.which("npm") is not None)


def opened() -> Chromium:
    """A browser."""
    node(), modules()
    try:
        return Chromium()
    except Missing as error:
        missing(str(error), ours=shutil.which("apt-get") is not None and os.geteuid() == 0)

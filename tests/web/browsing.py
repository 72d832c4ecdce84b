"""A server of files and a headless Chromium, for tests of pages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DRIVER = Path(__file__).with_name("driver.mjs")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def missing(what: str, how: str) -> None:
    """Skip, or fail where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}. {how}")
    pytest.skip(f"{what}. {how}")


def modules() -> Path:
    """The npm packages of tools/web_setup.py."""
    import sys

    for top in (Path(sys.prefix), ROOT / ".venv"):
        if (top / "web" / "node_modules" / "onnxruntime-web").is_dir():
            return top / "web" / "node_modules"
    missing(
        "the npm packages of the web tests are not here", "python tools/web_setup.py installs them, with Node's npm"
    )
    raise AssertionError


def node() -> str:
    """Node's program."""
    found = shutil.which("node")
    if found is None:
        missing("there is no Node.js", "Debian: apt-get install nodejs npm")
    assert found is not None
    return found


def chromium() -> str:
    """Chromium's program."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        missing("there is no Chromium", "Debian: apt-get install chromium")
    assert found is not None
    return found


class Visit(NamedTuple):
    """What came of one page."""

    value: Any
    requests: list[str]
    console: list[str]
    errors: list[str]


class Chromium:
    """One browser; each visit has a context of its own."""

    def __init__(self) -> None:
        command = [node(), str(DRIVER), str(modules()), chromium(), *FLAGS]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._read()["version"]

    def visit(self, code: str, args: Any = None, **options: Any) -> Visit:
        """Run the body of an async function of (page, context, args); options: of Playwright's context."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"code": code, "args": args, "options": options}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        assert "failed" not in answer, answer
        return Visit(**answer)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "Chromium's driver ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the browser."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


class Handler(SimpleHTTPRequestHandler):
    """A folder's files, with headers."""

    extra: ClassVar[dict[str, str]] = {}

    def end_headers(self) -> None:
        for name, value in self.extra.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Server:
    """Serves a folder on the loopback address."""

    def __init__(self, folder: Path, headers: dict[str, str]) -> None:
        handler = type("Serving", (Handler,), {"extra": headers})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

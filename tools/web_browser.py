"""A server of files and a headless Chromium, for tests and benchmarks of pages; see web_setup.py for what they need."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DRIVER = Path(__file__).with_name("web_driver.mjs")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP insecure.test 127.0.0.1"),
)
INSECURE = "insecure.test"
"""A name of the loopback address that browsers do not trust as they trust 127.0.0.1: a host of plain http."""
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""Headers with which a page may use threads."""


class Missing(Exception):
    """A part is not here; the message says how to get it."""


def node() -> str:
    """Node's program.

    Raises:
        Missing: it is not here.
    """
    found = shutil.which("node")
    if found is None:
        raise Missing("there is no Node.js (Debian: apt-get install nodejs npm)")
    return found


def modules() -> Path:
    """The npm packages of tools/web_setup.py.

    Raises:
        Missing: they are not here.
    """
    for top in (Path(sys.prefix), ROOT / ".venv"):
        if (top / "web" / "node_modules" / "onnxruntime-web").is_dir():
            return top / "web" / "node_modules"
    raise Missing("the npm packages are not here (python tools/web_setup.py installs them, by Node's npm)")


def chromium() -> str:
    """Chromium's program.

    Raises:
        Missing: it is not here.
    """
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise Missing("there is no Chromium (Debian: apt-get install chromium)")
    return found


class Visit(NamedTuple):
    """What came of one page."""

    value: Any
    requests: list[str]
    console: list[str]
    errors: list[str]


class Chromium:
    """One browser; each visit has a context of its own. A context manager.

    Raises:
        Missing: Chromium, Node or Playwright is not here.
    """

    def __init__(self) -> None:
        command = [node(), str(DRIVER), str(modules()), chromium(), *FLAGS]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version: str = self._read()["version"]

    def visit(self, code: str, args: Any = None, **options: Any) -> Visit:
        """Run the body of an async function of (page, context, args); options: of Playwright's context.

        Raises:
            RuntimeError: the function threw.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"code": code, "args": args, "options": options}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        if "failed" in answer:
            raise RuntimeError(json.dumps(answer)[:4000])
        return Visit(**answer)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("Chromium's driver has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


class Handler(SimpleHTTPRequestHandler):
    """A folder's files, with headers."""

    extra: ClassVar[dict[str, str]] = {}

    def end_headers(self) -> None:
        """Add the server's headers."""
        for name, value in self.extra.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server:
    """Serves a folder on a free port of the loopback address. A context manager.

    Attributes:
        address: as in http://127.0.0.1:8000
    """

    def __init__(self, folder: Path, headers: dict[str, str]) -> None:
        handler = type("Serving", (Handler,), {"extra": headers})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

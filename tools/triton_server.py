"""A real tritonserver on free ports of the loopback address, for tests and benchmarks; triton_setup.py installs it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(sys.prefix) / "triton"
"""Where `make setup` puts it."""
HOST = "127.0.0.1"


@dataclass
class Server:
    """A running server, or one that has been stopped."""

    process: subprocess.Popen[bytes]
    log_path: Path
    http: str
    grpc: str
    metrics_url: str

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def status(self, path: str) -> int:
        """The HTTP status of a path, as in /v2/health/ready; 0: no answer."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metric(self, name: str, model: str) -> float:
        """A counter of a model, summed over its versions and devices."""
        with urllib.request.urlopen(self.metrics_url, timeout=5) as answer:
            text = answer.read().decode()
        return sum(map(float, re.findall(rf'^{name}\{{[^}}]*model="{model}"[^}}]*\}} (\S+)$', text, re.MULTILINE)))

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to end, wait, and return its exit code.

        Raises:
            TimeoutError: it did not end in time; it was killed.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise TimeoutError(f"tritonserver did not end within {timeout_s} s:\n{self.log[-2000:]}") from error


def environment(folder: Path) -> dict[str, str]:
    """This process's environment without its Python settings, with the libraries of the server and of this Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OMP_"))}
    return {**kept, "LD_LIBRARY_PATH": f"{folder / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"}


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def serve(
    repository: Path, *arguments: str, wait_s: float = 60.0, folder: Path = FOLDER, need_ready: bool = True
) -> Iterator[Server]:
    """Serve a model repository until the block ends.

    Args:
        arguments: more options for tritonserver.
        need_ready: False accepts a server whose models did not load.

    Raises:
        RuntimeError: it is not installed, it ended, or it was not ready in time; the end of its log is in the message.
    """
    program = folder / "pytriton" / "tritonserver"
    if not (program / "bin" / "tritonserver").is_file():
        raise RuntimeError(f"no Triton server in {folder}: run `make setup`, or python tools/triton_setup.py {folder}")
    http, grpc, metrics = free_ports(3)
    addresses = [f"--{kind}-address={HOST}" for kind in ("http", "grpc", "metrics")]
    command = [
        *(str(program / "bin" / "tritonserver"), f"--model-repository={repository.resolve()}"),
        f"--backend-directory={program / 'backends'}",
        *addresses,
        *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
        *(f"--exit-on-error={str(need_ready).lower()}", "--exit-timeout-secs=10"),
        *arguments,
    ]
    with tempfile.TemporaryDirectory(prefix="triton-") as name:
        log_path = Path(name) / "log.txt"
        with log_path.open("wb") as log:
            # The server's Python ignores PYTHONPATH, but looks first into the folder that the server was started in.
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder / "site",
                env=environment(folder),
                start_new_session=True,
            )
        server = Server(process, log_path, f"{HOST}:{http}", f"{HOST}:{grpc}", f"http://{HOST}:{metrics}/metrics")
        path = "/v2/health/ready" if need_ready else "/v2/health/live"
        try:
            deadline = time.monotonic() + wait_s
            while server.status(path) != 200:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"tritonserver is not ready (exit code {process.poll()}):\n{server.log[-8000:]}")
                time.sleep(0.1)
            yield server
        finally:
            server.stop()

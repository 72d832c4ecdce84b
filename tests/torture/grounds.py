"""A folder where the commands of a tiny run are carried out by forked children, which may kill themselves."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RECIPE = """
name: tiny
seed: 3
data: {name: digits}
teach:
  architecture: {block_out_channels: [8, 16], layers_per_block: 1, norm_num_groups: 4, attention_levels: [1]}
  steps: 6
  batch_size: 16
  log_every: 1
  checkpoint_every: 2
  timestep_weights: {kind: tirt}
  threads: 1
student: {compression: 2.0}
distill: {steps: 6, batch_size: 16, log_every: 1, checkpoint_every: 2, teacher_bank: 32, threads: 1}
sampling: {num_inference_steps: 2}
export: [./guided.yaml]
bench:
  latency: {batch_sizes: [], threads: 1}
  quality: {num_images: 20, guidance: [1.0], bootstrap: 0, batch_size: 20}
  fidelity: {num_pairs: 100, bins: 2}
"""
TARGET = """
name: guided
description: one graph
backend: onnxruntime
graphs: [guided]
precision: fp32
opset: 20
group_norm: instance
providers: [CPUExecutionProvider]
parity: {batch_sizes: [1], t_bins: 2}
"""
PACKAGE = """
name: cpp
description: a package
artifact: ./guided.yaml
package: {kind: cpp}
"""
RUN = "runs/tiny"


@dataclass(frozen=True)
class Command:
    """A command and the folder that it begins in: what the commands named in `after` leave."""

    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()


COMMANDS = {
    "teach": Command(("teach", "tiny.yaml")),
    "teach again": Command(("teach", "tiny.yaml", "--fresh"), ("teach",)),
    "distill": Command(("distill", "tiny.yaml"), ("teach",)),
    "distill again": Command(("distill", "tiny.yaml", "--fresh"), ("teach", "distill")),
    "export": Command(("export", RUN, "--to", "./guided.yaml"), ("teach", "distill")),
    "export again": Command(("export", RUN, "--to", "./guided.yaml", "--fresh"), ("teach", "distill", "export")),
    "package": Command(("export", RUN, "--to", "./cpp.yaml"), ("teach", "distill", "export")),
    "bench": Command(("bench", RUN), ("teach", "distill", "export")),
    "adopt": Command(("adopt", "checkpoint.pth", "adopted", "--image-size", "16")),
    "cp": Command(("recipes", "cp", "digits", "mine.yaml")),
    "run": Command(("run", "tiny.yaml")),
}
OTHERWISE = {"created", "notes", "bench.json", "report.html"}
"""Keys of JSON that may differ: the time of day, whether images were drawn before, and hashes of what holds these."""


def warm() -> None:
    """Import what the commands need, without starting a thread."""
    import torch

    torch.set_num_threads(1)
    for name in ("cli.app", "pipeline", "training.adopt", "packages.cpp", "runtime.onnxruntime_model"):
        importlib.import_module(f"dashdeploy.{name}")
    for name in ("onnxruntime", "onnxscript", "matplotlib.pyplot", "diffusers", "sklearn.datasets"):
        importlib.import_module(name)


class Grounds:
    """A folder where commands run, always at the same path; what each begins with is kept beside it."""

    def __init__(self, folder: Path) -> None:
        self.here, self.kept, self.scratch = folder / "here", folder / "kept", folder / "scratch"
        self.here.mkdir(parents=True)
        self.scratch.mkdir()
        for name, text in (("tiny", RECIPE), ("guided", TARGET), ("cpp", PACKAGE)):
            (self.here / f"{name}.yaml").write_text(text)
        self._in_child(self._write_checkpoint)
        self._keep(())

    def _write_checkpoint(self) -> None:
        import torch

        from tests.teachers.paper_unet import PaperUNet, checkpoint

        torch.manual_seed(0)
        network = PaperUNet(channels=(32, 64, 64), blocks=1, attention_levels=(1,), classes=2).eval()
        torch.save(checkpoint(network, lam=torch.linspace(-1, 1, 1000)), self.here / "checkpoint.pth")

    def _in_child(self, work: Callable[[], None]) -> None:
        child = os.fork()
        if not child:
            work()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    def _place(self, after: tuple[str, ...]) -> Path:
        return self.kept / ("-".join(after) or "start")

    def _keep(self, after: tuple[str, ...]) -> None:
        shutil.copytree(self.here, self._place(after), symlinks=True)

    def begin(self, after: tuple[str, ...]) -> None:
        """Put the folder into the state that these commands leave; they are carried out if they have not been yet."""
        if not self._place(after).exists():
            self.begin(after[:-1])
            code, said = self.end(self.start(COMMANDS[after[-1]].arguments))
            assert code == 0, said
            self._keep(after)
        shutil.rmtree(self.here)
        shutil.copytree(self._place(after), self.here, symlinks=True)

    def start(self, arguments: tuple[str, ...], *, kill_at: int | None = None, events: Path | None = None) -> int:
        """Fork a child that carries out the command in the folder; its process id.

        Args:
            kill_at: it kills itself before this change of the folder, counted from 0.
            events: a file to write the changes to, one a line.
        """
        child = os.fork()
        if child:
            return child
        try:
            os.chdir(self.here)
            temporary = self.scratch / f"tmp-{os.getpid()}"
            temporary.mkdir(parents=True)
            os.environ["TMPDIR"] = str(temporary)
            said = os.open(self.said(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(said, 1)
            os.dup2(said, 2)
            clock, progress = itertools.count(), importlib.import_module("dashdeploy.training.progress")
            progress.time = SimpleNamespace(**{**vars(time), "perf_counter": lambda: next(clock)})  # all speeds alike
            if kill_at is not None or events is not None:
                _watch(self.here, kill_at, events)
            importlib.import_module("dashdeploy.cli.app").main(list(arguments))
        except SystemExit as ended:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(ended.code or 0))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)

    def said(self, child: int) -> Path:
        """The file of what a child has said."""
        return self.scratch / f"said-{child}"

    def end(self, child: int) -> tuple[int, str]:
        """(exit code, or minus the signal; what it said on stdout and stderr)."""
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = self.said(child)
        text = said.read_text(errors="replace") if said.exists() else ""  # it was killed before it began
        said.unlink(missing_ok=True)
        shutil.rmtree(self.scratch / f"tmp-{child}", ignore_errors=True)
        return code, text

    def state(self) -> dict[str, Any]:
        """Every file by its path: its bytes, or its JSON without OTHERWISE; modes too."""
        found: dict[str, Any] = {}
        for path in sorted(self.here.rglob("*")):
            name = str(path.relative_to(self.here))
            if path.is_dir() or path.suffix == ".sha256" or path.name == "report.html":
                found[name] = path.stat().st_mode
            elif path.suffix in (".json", ".jsonl"):
                found[name] = [_comparable(json.loads(line)) for line in _documents(path)]
            else:
                found[name] = path.stat().st_mode, path.read_bytes()
        return found


def _documents(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _comparable(v) for k, v in value.items() if k not in OTHERWISE}
    return [_comparable(v) for v in value] if isinstance(value, list) else value


CHANGES = {
    *("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime"),
    "open",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _watch(folder: Path, kill_at: int | None, events: Path | None) -> None:
    """From here on, count this process's changes below `folder`, and kill it before the one that `kill_at` names."""
    root = f"{folder}/"
    log = None if events is None else os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    count = itertools.count()

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event not in CHANGES or (event == "open" and not int(values[2] or 0) & WRITES):
            return
        if not str(_absolute(values[0], values[1:])).startswith(root):
            return
        number = next(count)
        if log is not None:
            os.write(log, f"{event} {values[0]}\n".encode())
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _absolute(path: Any, others: tuple[Any, ...]) -> str:
    """The path of an event: an open file's, or relative to the folder that its descriptor names or to where we are."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    text = os.fsdecode(path)
    if os.path.isabs(text):
        return text
    descriptors = [value for value in others if type(value) is int and value > 2 and _is_folder(value)]
    return os.path.join(os.readlink(f"/proc/self/fd/{descriptors[0]}") if descriptors else os.getcwd(), text)


def _is_folder(descriptor: int) -> bool:
    try:
        return os.path.isdir(f"/proc/self/fd/{descriptor}") and os.readlink(f"/proc/self/fd/{descriptor}")[:1] == "/"
    except OSError:
        return False


def leftovers(folder: Path) -> list[str]:
    """What a killed process may have left: work folders and files that were being written."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.name == ".work" or p.suffix == ".part"]

"""Commands that are killed at every change of the file system, at any time, or run beside another; what then comes out.

A program of its own: it imports what the commands need and forks one child for each of them, so that a child starts at
once. python -m tests.torture.killing FOLDER --points 3 --random 10 --pairs 5 prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SEED = 0
RECIPE = """
name: tiny
seed: 3
data: {name: digits}
teach:
  architecture: {block_out_channels: [8, 16], layers_per_block: 1, norm_num_groups: 4, attention_levels: [1]}
  steps: 6
  batch_size: 16
  log_every: 3
  checkpoint_every: 2
  timestep_weights: {kind: tirt}
  threads: 1
student: {compression: 2.0}
distill: {steps: 6, batch_size: 16, log_every: 2, checkpoint_every: 2, teacher_bank: 32, threads: 1}
sampling: {num_inference_steps: 2}
export: [./guided.yaml]
bench:
  latency: {batch_sizes: [], threads: 1}
  quality: {num_images: 20, guidance: [1.0], bootstrap: 0, batch_size: 20}
  fidelity: {num_pairs: 20, bins: 2}
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
TIMED = {"created", "images_per_s", "bench.json", "report.html", "metrics.jsonl"}
"""Keys of JSON whose values hold the time of day or a speed, and files of which manifests hold the hash."""


@dataclass
class Tally:
    """points: changes of the file system that a command makes. wrong: what came out otherwise than it should."""

    points: int = 0
    kills: int = 0
    identical: int = 0
    wrong: list[str] = field(default_factory=list)


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
            clock = itertools.count()
            time.perf_counter = lambda: next(clock) / 100  # type: ignore[assignment]  # speeds are alike then
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
        text = self.said(child).read_text(errors="replace")
        self.said(child).unlink()
        shutil.rmtree(self.scratch / f"tmp-{child}")
        return code, text

    def state(self) -> dict[str, Any]:
        """Every file by its path: its bytes, or its JSON without times; modes too."""
        found: dict[str, Any] = {}
        for path in sorted(self.here.rglob("*")):
            name = str(path.relative_to(self.here))
            if path.is_dir() or path.suffix == ".sha256" or path.name == "report.html":
                found[name] = path.stat().st_mode
            elif path.suffix in (".json", ".jsonl"):
                found[name] = [_timeless(json.loads(line)) for line in _documents(path)]
            else:
                found[name] = path.stat().st_mode, path.read_bytes()
        return found


def _documents(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMED}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


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


def judge(grounds: Grounds, name: str, expected: dict[str, Any], tally: Tally, at: str) -> None:
    """Carry out the command again after a kill, and compare what is there with what an undisturbed one left."""
    code, said = grounds.end(grounds.start(COMMANDS[name].arguments))
    if name in ("cp", "adopt") and code == 2 and " is there already" in said.replace("exists", "is there already"):
        code = 0  # the first had ended but for its exit
    found = grounds.state()
    if code != 0:
        tally.wrong.append(f"{name}, killed {at}: exit code {code}: {said[-600:]}")
    elif left := leftovers(grounds.here):
        tally.wrong.append(f"{name}, killed {at}: left {', '.join(left)}")
    elif found != expected:
        differing = [p for p in sorted(found.keys() | expected.keys()) if found.get(p) != expected.get(p)]
        tally.wrong.append(f"{name}, killed {at}: other {', '.join(differing)}")
    else:
        tally.identical += 1


def undisturbed(grounds: Grounds, name: str) -> tuple[dict[str, Any], list[str], float]:
    """(what the command leaves, the changes that it makes, its time in s)."""
    grounds.begin(COMMANDS[name].after)
    events = grounds.scratch / "events"
    events.unlink(missing_ok=True)
    began = time.monotonic()
    code, said = grounds.end(grounds.start(COMMANDS[name].arguments, events=events))
    assert code == 0, said
    assert not leftovers(grounds.here)
    return grounds.state(), events.read_text().splitlines(), time.monotonic() - began


def crash_points(grounds: Grounds, name: str, *, at_most: int | None) -> Tally:
    """Kill the command before each change of the file system, or before `at_most` of them, chosen evenly."""
    expected, changes, _ = undisturbed(grounds, name)
    tally = Tally(points=len(changes))
    points = range(len(changes))
    if at_most is not None and at_most < len(changes):
        points = [round((i + 0.5) * len(changes) / at_most - 0.5) for i in range(at_most)]
    for point in points:
        grounds.begin(COMMANDS[name].after)
        code, said = grounds.end(grounds.start(COMMANDS[name].arguments, kill_at=point))
        if code != -signal.SIGKILL:
            tally.wrong.append(f"{name}: made no change {point}, exit code {code}: {said[-300:]}")
            continue
        tally.kills += 1
        judge(grounds, name, expected, tally, f"before {point}, {changes[point]}")
    return tally


def random_kills(grounds: Grounds, count: int, *, seed: int) -> Tally:
    """Kill a command, chosen at random, at a random time, `count` times."""
    tally, draw = Tally(), random.Random(seed)
    whole = {name: undisturbed(grounds, name) for name in COMMANDS}
    while tally.kills < count:
        name = draw.choice(list(COMMANDS))
        expected, _, seconds = whole[name]
        grounds.begin(COMMANDS[name].after)
        child, after = grounds.start(COMMANDS[name].arguments), draw.uniform(0, seconds)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        code, _ = grounds.end(child)
        if code == -signal.SIGKILL:  # else it had ended
            tally.kills += 1
            judge(grounds, name, expected, tally, f"after {after:.3f} s")
    return tally


BESIDE = ("teach", "teach again", "distill", "distill again", "export", "export again", "package", "bench", "run")


def two_at_once(grounds: Grounds, *, at_most: int | None, seed: int) -> Tally:
    """Carry out every two commands at the same time on one run folder, then the whole run: it must be right.

    Each must end well, or with one line and exit code 2.
    """
    after = ("teach", "distill", "export")
    expected = undisturbed(grounds, "run")[0]
    pairs = [(a, b, begin) for a, b in itertools.combinations_with_replacement(BESIDE, 2) for begin in ((), after)]
    draw = random.Random(seed)
    tally = Tally(points=len(pairs))
    for a, b, begin in pairs if at_most is None else draw.sample(pairs, at_most):
        grounds.begin(begin)
        first = grounds.start(COMMANDS[a].arguments)
        time.sleep(draw.uniform(0, 0.5))
        second = grounds.start(COMMANDS[b].arguments)
        ended = [(name, *grounds.end(child)) for name, child in ((a, first), (b, second))]
        for name, code, said in ended:
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            if "Traceback" in said or code not in (0, 2) or (code == 2 and len(errors) != 1):
                tally.wrong.append(f"{a} beside {b}: {name} ended with {code}: {said[-600:]}")
        code, said = grounds.end(grounds.start(COMMANDS["run"].arguments))
        found = {name: value for name, value in grounds.state().items() if name in expected}
        if code != 0 or found != expected or leftovers(grounds.here):
            differing = [p for p in expected if found.get(p) != expected[p]]
            tally.wrong.append(f"{a} beside {b}: then run ended with {code}: {said[-300:]}; other {differing}")
        else:
            tally.identical += 1
    return tally


def warm() -> None:
    """Import what the commands need, without starting a thread."""
    import torch

    torch.set_num_threads(1)
    for name in ("cli.app", "pipeline", "training.adopt", "packages.cpp", "runtime.onnxruntime_model"):
        importlib.import_module(f"dashdeploy.{name}")
    for name in ("onnxruntime", "onnxscript", "matplotlib.pyplot", "diffusers", "sklearn.datasets"):
        importlib.import_module(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="An empty folder to work in.")
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS), help="Whose crash points to try.")
    parser.add_argument("--points", type=int, default=None, help="Crash points of each command. Default: all.")
    parser.add_argument("--random", type=int, default=0, help="Kills at random times.")
    parser.add_argument("--pairs", type=int, default=0, help="Pairs of commands at once; -1: all.")
    options = parser.parse_args()
    warm()
    grounds = Grounds(options.folder.resolve())
    figures: dict[str, Any] = {"seed": SEED, "crash_points": {}}
    for name in options.commands:
        figures["crash_points"][name] = asdict(crash_points(grounds, name, at_most=options.points))
        print(name, figures["crash_points"][name], file=sys.stderr, flush=True)
    if options.random:
        figures["random"] = asdict(random_kills(grounds, options.random, seed=SEED))
    if options.pairs:
        at_most = None if options.pairs < 0 else options.pairs
        figures["two_at_once"] = asdict(two_at_once(grounds, at_most=at_most, seed=SEED))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

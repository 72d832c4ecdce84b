"""What a training run shows and writes down: a progress line, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dashdeploy.lazy import require

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Reporter:
    """Shows progress on stderr and appends to metrics.jsonl; silent on all but the main process."""

    def __init__(self, folder: Path, title: str, *, steps: int, start: int, main: bool, tensorboard: bool) -> None:
        self.main = main
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not main,
        )
        self._task = self._progress.add_task(title, total=steps, completed=start, note="")
        self._path = folder / METRICS
        self._board: Any = None
        if main:
            _cut(self._path, start)
            if tensorboard:
                writer = require("torch.utils.tensorboard", extra="tensorboard").SummaryWriter
                self._board = writer(str(folder / TENSORBOARD), purge_step=start)

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()
        if self._board is not None:
            self._board.close()

    def advance(self, step: int) -> None:
        """Step `step` is done."""
        self._progress.update(self._task, completed=step)

    def write(self, record: dict[str, Any]) -> None:
        """One line of metrics; its numbers go to TensorBoard too."""
        if not self.main:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        terms = " ".join(f"{name} {record[name]:.3g}" for name in record["terms"])
        note = f"loss {record['loss']:.3g} · {terms} · {record['images_per_s']:.0f} images/s"
        self._progress.update(self._task, note=note)
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def say(self, text: str) -> None:
        """A line that stays, above the progress."""
        if self.main:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _cut(path: Path, start: int) -> None:
    """Drop the lines of steps that a resumed run is about to do again, and a line cut short by a kill."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= start:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            break
    path.write_text("".join(kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]

"""What a training run shows and writes down: a progress line, metrics.jsonl, and the recipe's tracker."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator

from dashdeploy.files import write_whole
from dashdeploy.progress import Progress
from dashdeploy.recipe import schema
from dashdeploy.terminal import say

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Phase:
    """The part of a training from its step `first` to before `last`, with an optimizer and a schedule of its own.

    Attributes:
        number: from 1, as metrics.jsonl has it. None: the training is of one phase.
    """

    first: int
    last: int
    number: int | None = None


class Reporter:
    """Shows progress on stderr, a line at the end too, and appends to metrics.jsonl; only the main process does so."""

    def __init__(
        self, folder: Path, title: str, config: schema.Training, *, phase: Phase, start: int, accelerator: Accelerator
    ) -> None:
        self._config, self._accelerator, self._path = config, accelerator, folder / METRICS
        self._main = accelerator.is_main_process
        self._progress = Progress()
        self._task = self._progress.add_task(title, total=phase.last, completed=start)
        self._title, self._note = title, ""
        self._phase, self._start, self._began = phase, start, time.perf_counter()
        self._clock, self._last = self._began, start
        if self._main:
            _cut(self._path, start)
        if start > phase.first:
            say(f"{title}: resuming at step {start} of {config.steps}")

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()
        if error is None:
            took = timedelta(seconds=round(time.perf_counter() - self._began))
            say(
                ", ".join(
                    filter(None, (f"{self._title}: {self._phase.last - self._start} steps in {took}", self._note))
                )
            )

    def advance(self, step: int) -> None:
        """Step `step` is done."""
        self._progress.update(self._task, completed=step)

    def write(self, step: int, means: dict[str, float], *, learning_rate: float) -> dict[str, Any]:
        """Write one line of metrics, its numbers to the tracker too, and return it.

        Args:
            means: of the steps since the line before it: the loss, each term, grad_norm.
        """
        now = time.perf_counter()
        speed = self._config.batch_size * (step - self._last) / (now - self._clock)
        self._clock, self._last = now, step
        numbers = {**means, "learning_rate": learning_rate, "images_per_s": speed}
        terms = [name for name in means if name not in ("loss", "grad_norm")]
        phase = {} if self._phase.number is None else {"phase": self._phase.number}
        record = {"step": step, **phase, **numbers, "terms": terms}
        self._accelerator.log(numbers, step=step)
        if self._main:
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        shown = " ".join(f"{name} {means[name]:.3g}" for name in terms)
        self._note = f"loss {means['loss']:.3g} · {shown} · {speed:.0f} images/s"
        self._progress.update(self._task, note=self._note)
        return record


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
    write_whole(path, "".join(kept))  # a kill meanwhile must not lose the lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]

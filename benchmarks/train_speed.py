"""Training throughput against a straightforward loop: python benchmarks/train_speed.py [--cases digits paper32]

One optimizer step of `teach` and of `distill`, each beside what one would write in plain PyTorch for the same models,
batch and objective (plain_loop.py: two forwards of the teacher and two of the student, AdamW, a Python loop for the
EMA). All run in one process, in turns of a few steps. digits: the recipe. paper32: the paper's pair on 32×32 images at
a small batch, with random weights, which take the same time.

A bank is paid for: its step counts the share of the teacher's work that made the draws, as often as the recipe uses
each one (digits), or five times (paper32). Beside it: what a step with a live teacher costs over its arithmetic.
Writes benchmarks/results/train-speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import paper
from plain_loop import Plain

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.objectives.scratch import Scratch
from dashdeploy.recipe.load import load_recipe
from dashdeploy.recipe.schema import Precision, Recipe, Training
from dashdeploy.students.architecture import StudentDesign, design
from dashdeploy.teachers import choose
from dashdeploy.teachers.networks import config_of, count_parameters, create
from dashdeploy.training.accelerator import make_accelerator
from dashdeploy.training.bank import TeacherBank, build_bank
from dashdeploy.training.batches import Batch, FreshDraws, Source
from dashdeploy.training.loop import train
from dashdeploy.training.step import TrainStep
from dashdeploy.training.student import live_source, student_step
from dashdeploy.training.timestep_weights import TimestepWeights

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
PAPER_BATCH, PAPER_USES = 8, 5.0
BANK_BATCHES = 4
"""That the measured bank holds; its size does not change a step's time."""
TURN = 5
"""Steps of one way before the next one's turn."""
Way = Callable[[int], list[float]]
"""A number of steps -> the seconds that each took."""


@dataclass(frozen=True)
class Case:
    """A pair of models, their data and settings. uses: how often a draw of the bank is used."""

    name: str
    recipe: Recipe
    data: LabelledImages
    teacher: TorchDenoiser
    student: StudentDesign
    uses: float


def digits() -> Case:
    """The recipe of that name with its committed teacher."""
    recipe = load_recipe("digits")
    data = load_dataset(recipe.data)
    folder = choose.find(recipe, Path("nowhere"))
    assert folder is not None
    teacher = choose.open_teacher(folder, recipe, data).denoiser
    uses = recipe.distill.steps * recipe.distill.batch_size / recipe.distill.teacher_bank
    return Case("digits", recipe, data, teacher, design(recipe.student, config_of(teacher.unet)), uses)


def paper32() -> Case:
    """The paper's architecture on random images."""
    settings = [f"{stage}.batch_size={PAPER_BATCH}" for stage in ("teach", "distill")]
    recipe = load_recipe("cifar10-paper", overrides=settings)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    data = LabelledImages("random", images, rng.integers(0, 10, 64), tuple("0123456789"), horizontal_flip=False)
    teacher = paper("paper32-teacher").requires_grad_(False)
    return Case("paper32", recipe, data, teacher, design(recipe.student, config_of(teacher.unet)), PAPER_USES)


CASES: dict[str, Callable[[], Case]] = {"digits": digits, "paper32": paper32}


class Clocked:
    """A source that notes when each step asks for its batch."""

    def __init__(self, source: Source) -> None:
        self.source, self.began = source, list[float]()

    def draw(self, step: int) -> Batch:
        self.began.append(time.perf_counter())
        return self.source.draw(step)

    def complete(self, batch: Batch) -> Batch:
        return self.source.complete(batch)


def trained(fresh: Callable[[], TrainStep], source: Source, config: Training, recipe: Recipe, work: str) -> Way:
    """Steps of dashdeploy's loop, as `teach` and `distill` take them."""

    def way(steps: int) -> list[float]:
        clocked, folder = Clocked(source), Path(tempfile.mkdtemp(dir=work))
        # The first step warms up, and the last one's end, with its checkpoint, is not seen.
        settings = {"steps": steps + 2, "warmup_steps": 0, "log_every": steps + 2, "checkpoint_every": steps + 2}
        train(
            fresh(),
            clocked,
            config.model_copy(update=settings),
            recipe=recipe,
            accelerator=make_accelerator(config, work=folder),
            folder=folder,
            key="",
            title="steps",
        )
        return [end - start for start, end in pairwise(clocked.began)][1:]

    return way


def called(call: Callable[[], object]) -> Way:
    """A call a step, after one that warms up."""

    def way(steps: int) -> list[float]:
        times = []
        for _ in range(steps + 1):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return times[1:]

    return way


def teach_ways(case: Case, precision: Precision, work: str) -> dict[str, Way]:
    """The plain loop and ours; the teacher is a new one."""
    assert case.recipe.teach is not None
    config = case.recipe.teach.model_copy(update={"precision": precision})
    schedule = case.teacher.interface.schedule

    def fresh() -> TorchDenoiser:
        torch.manual_seed(0)
        return TorchDenoiser(create(dict(case.teacher.unet.config)).train(), case.teacher.interface)

    def step() -> TrainStep:
        weights = TimestepWeights(config.timestep_weights, schedule)
        return TrainStep(fresh(), weights, Scratch(label_dropout=config.label_dropout).terms)

    train_data, _ = case.data.split(case.recipe.data.holdout)
    source = FreshDraws(train_data, schedule, batch_size=config.batch_size, seed=0)
    plain = Plain(fresh(), train_data, config, TimestepWeights(config.timestep_weights, schedule))
    return {"plain": called(plain.teach), "ours": trained(step, source, config, case.recipe, work)}


def distill_ways(case: Case, precision: Precision, work: str) -> tuple[dict[str, Way], dict[str, Way]]:
    """Each way to distil; and the parts: what a bank's batch takes, and a live step's own arithmetic."""
    changed = {"precision": precision, "teacher_precision": precision, "teacher_bank": 0}
    recipe = case.recipe.model_copy(update={"distill": case.recipe.distill.model_copy(update=changed)})
    config = recipe.distill

    def fresh() -> TrainStep:
        weights = TimestepWeights(config.timestep_weights, case.teacher.interface.schedule)
        return student_step(recipe, case.student, case.teacher, weights, case.data)

    source = live_source(recipe, case.data, case.teacher)
    bank = build_bank(source, num_draws=BANK_BATCHES * config.batch_size, device=torch.device("cpu"))
    banked = TeacherBank(bank, batch_size=config.batch_size, seed=0)
    train_data, _ = case.data.split(recipe.data.holdout)
    alone = fresh()
    plain = Plain(alone.denoiser, train_data, config, alone.weights, teacher=case.teacher)
    arithmetic = fresh()
    batch = source.complete(source.draw(0))

    def student() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = arithmetic(batch, batch.t).total
        loss.backward()
        arithmetic.zero_grad(set_to_none=True)

    ways = {
        "plain": called(plain.distill),
        "live teacher": trained(fresh, source, config, recipe, work),
        "bank": trained(fresh, banked, config, recipe, work),
    }
    return ways, {"teacher": called(lambda: source.complete(batch)), "student": called(student)}


def measure(case: Case, *, repeats: int) -> list[dict[str, Any]]:
    """A row for each stage, precision and way; ratios are to the plain loop of the same precision."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for precision in PRECISIONS:
            for stage in ("teach", "distill"):
                ways, parts = (
                    (teach_ways(case, precision, work), {}) if stage == "teach" else distill_ways(case, precision, work)
                )
                ms = medians({**ways, **parts}, repeats=repeats)
                if stage == "distill":
                    ms["bank"] += ms["teacher"] / case.uses
                section = getattr(case.recipe, stage)
                for way in ways:
                    row: dict[str, Any] = {"case": case.name, "stage": stage, "precision": precision, "way": way}
                    row |= {"ms": ms[way], "images_per_s": section.batch_size / ms[way] * 1e3}
                    row |= {"over_plain": ms["plain"] / ms[way], "batch_size": section.batch_size}
                    if way == "live teacher":
                        row["over_arithmetic"] = ms[way] / (ms["teacher"] + ms["student"])
                    rows.append(row)
    return rows


def medians(ways: dict[str, Way], *, repeats: int) -> dict[str, float]:
    """Milliseconds of a step, each way taking its turn of up to TURN steps."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for done in range(0, repeats, TURN):
        for name, way in ways.items():
            times[name] += way(min(TURN, repeats - done))
    return {name: statistics.median(seconds) * 1e3 for name, seconds in times.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, nargs="+", default=[30, 5], help="timed steps, for each case in turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load, rows, described = os.getloadavg()[0], [], {}
    for name, repeats in zip(options.cases, options.repeats, strict=False):
        case = CASES[name]()
        described[name] = {
            "student_parameters": case.student.parameters,
            "teacher_parameters": count_parameters(dict(case.teacher.unet.config)),
            "bank_uses": case.uses,
            "repeats": repeats,
        }
        rows += measure(case, repeats=repeats)
    result = {
        "cases": described,
        "rows": rows,
        "threads": options.threads,
        "machine": {**machine(), "load_before": load},
        "versions": stages.versions(),
    }
    (options.results / "train-speed.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        shown = f"{row['ms']:9.1f} ms  {row['images_per_s']:7.1f} images/s  {row['over_plain']:.2f}×"
        print(f"{row['case']:8} {row['stage']:8} {row['precision']:5} {row['way']:13}{shown}")


if __name__ == "__main__":
    main()

"""The bench stage: teacher, student and its artifacts on latency, quality and guidance fidelity, in one record."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dashdeploy import stages
from dashdeploy.bench.measure import baselines, checks, interval, latency, models, quality, samples
from dashdeploy.bench.measure.machine import machine
from dashdeploy.bench.measure.progress import progress
from dashdeploy.bench.record import record, speed
from dashdeploy.bench.record.parts import IntervalStudy, LatencyRow, Pair, PlanInfo, QualityRow
from dashdeploy.bench.report.page import write_report
from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import Plan, plan
from dashdeploy.errors import UserError
from dashdeploy.metrics import gap
from dashdeploy.metrics.features import Extractor, open_extractor
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Recipe
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import artifact_folders
from dashdeploy.teachers import choose

GRID_COLUMNS = 8
GRID_CLASSES = 10


def bench(
    run_folder: Path,
    recipe: Recipe,
    *,
    base: Path | None = None,
    fresh: bool = False,
    guidance_interval: GuidanceInterval | None = None,
) -> stages.Stage:
    """Measure run_folder's student and artifacts against its teacher into run_folder/bench.

    Args:
        recipe: the run's recipe; its `sampling` and `bench` sections may differ from those it was trained with.
        guidance_interval: what the deployed student is tried at if it has a cond graph; None: `interval.choose`.

    Raises:
        UserError: no student, a teacher that has changed since the student was made, or a missing feature network.
    """
    check_measurable(recipe)
    student = stages.read_stage(run_folder / "student")
    artifacts = [stages.read_stage(folder) for folder in artifact_folders(run_folder)]
    stale = [a.folder.name for a in artifacts if a.manifest["inputs"]["student"] != student.sha256]
    if stale:
        raise UserError(
            f"{run_folder}: {', '.join(stale)} was exported from another student. Run `dashdeploy export` again."
        )
    data = load_dataset(recipe.data)
    used = Path(student.figures["teacher"])
    teacher_folder = used if used.is_dir() else choose.find(recipe, run_folder, base=base)
    if teacher_folder is None:
        raise UserError(f"{run_folder}: no teacher to compare with; give teacher.path or run `dashdeploy teach`")
    teacher_sha256 = choose.open_teacher(teacher_folder, recipe, data).sha256
    if student.manifest["inputs"]["teacher"] != teacher_sha256:
        raise UserError(f"{run_folder}: its student was made from another teacher than {teacher_folder}. Distil again.")
    extractor = open_extractor(
        recipe.bench.quality.features, recipe.data.name, weights=recipe.bench.quality.features_weights
    )
    inputs: dict[str, Any] = {
        "student": student.sha256,
        "teacher": teacher_sha256,
        "artifacts": {a.folder.name: a.sha256 for a in artifacts},
        "data": data.sha256,
        "features": extractor.sha256,
        "machine": machine(),
        "versions": stages.versions(),
    }
    tried = guidance_interval or interval.choose(recipe)
    inputs["interval"] = tried.model_dump(mode="json") if tried else None
    key = stages.stage_key("bench", recipe, {**inputs, "record": record.FORMAT})
    done = None if fresh else stages.current(run_folder / "bench", key)
    if done is not None:
        return done
    folders = {"teacher": teacher_folder, "student": student.folder}
    folders |= {f"student-{a.folder.name}": a.folder for a in artifacts}
    with ExitStack() as stack:
        threads = recipe.bench.latency.threads or machine()["cores"]
        found, left_out = models.opened(folders, threads, stack)
        exported = {f"student-{a.folder.name}": a for a in artifacts}
        work = Bench(recipe, run_folder, folders, found, exported, data, extractor, threads, tried)
        work.notes += left_out
        with stages.write_stage(run_folder / "bench", key=key, recipe=recipe, inputs=inputs) as draft:
            measured = work.measure(student)
            np.savez_compressed(draft.folder / "samples.npz", **work.grid())
            (draft.folder / record.FILE).write_text(record.dumps(measured))
            write_report(draft.folder)
    return stages.read_stage(run_folder / "bench")


def check_measurable(recipe: Recipe) -> None:
    """Refuse a recipe whose samples are latents: there is no decoder here, and FID is of images.

    Raises:
        UserError: it says what does work.
    """
    if recipe.data.gives_latents:
        raise UserError(
            f"recipe {recipe.name}: its data are latents, and the benchmark measures images. Use `dashdeploy distill` "
            "and `dashdeploy export`; the student goes into diffusers' DiTPipeline in place of its teacher."
        )


class Bench:
    """One benchmark under way: the opened models and what has been measured of them."""

    def __init__(
        self,
        recipe: Recipe,
        run_folder: Path,
        folders: dict[str, Path],
        found: dict[str, Model],
        artifacts: dict[str, stages.Stage],
        data: LabelledImages,
        extractor: Extractor,
        threads: int,
        interval: GuidanceInterval | None,
    ) -> None:
        self.recipe, self.run_folder, self.folders, self.models = recipe, run_folder, folders, found
        self.artifacts, self.data, self.extractor, self.threads = artifacts, data, extractor, threads
        self.interval = interval
        self.steps = found["teacher"].denoiser.interface.schedule.num_train_timesteps
        self.notes: list[str] = []
        self.images: dict[tuple[str, str], torch.Tensor] = {}
        self.features: dict[str, Any] = {}  # the teacher's, by guidance

    def measure(self, student: stages.Stage) -> record.Record:
        """The whole record."""
        recipe = self.recipe
        run_plan = plan(recipe.sampling, self.steps)
        plans = {record.RECIPE_PLAN: interval.plan_info(recipe.sampling.guidance, run_plan)}
        quality_rows, num_reference = self._quality()
        fidelity = self._fidelity()
        latency_rows = self._latency(run_plan)
        study = self._interval(plans, quality_rows)
        pairs = self._pairs(plans, latency_rows)
        described = models.describe(self.models, self.folders, self.artifacts, recipe, run_plan, self.threads)
        figures = student.figures
        measured: dict[str, Any] = {
            "format": record.FORMAT,
            "recipe": recipe.name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": recipe.bench.seed,
            "threads": self.threads,
            "machine": machine(),
            "versions": stages.versions(),
            "settings": {
                "sampling": recipe.sampling.model_dump(mode="json"),
                **recipe.bench.model_dump(mode="json", exclude={"seed"}),
                "timesteps": list(run_plan.timesteps),
            },
            "classes": figures["classes"],
            "models": {name: info.model_dump() for name, info in described.items()},
            "compression": figures["compression"],
            "images_seen": recipe.distill.steps * recipe.distill.batch_size,
            "plans": {name: info.model_dump() for name, info in plans.items()},
            "latency": [row.model_dump() for row in latency_rows],
            "pairs": [pair.model_dump() for pair in pairs],
            "checks": [checks.artifact_checks(name, stage).model_dump() for name, stage in self.artifacts.items()],
            "interval": study.model_dump() if study else None,
            "quality": {
                "features": {"name": self.extractor.name, "sha256": self.extractor.sha256},
                "num_images": recipe.bench.quality.num_images,
                "num_reference": num_reference,
                "rows": [row.model_dump() for row in quality_rows],
            },
            "fidelity": fidelity,
            "training": [json.loads(line) for line in (student.folder / "metrics.jsonl").read_text().splitlines()],
        }
        quoted, note = baselines.quoted(recipe.name, quality_rows, list(self.models), baselines.conditions(measured))
        self.notes += [note] if note else []
        return record.Record.model_validate({**measured, "baselines": quoted, "notes": self.notes})

    def _latency(self, run_plan: Plan) -> list[LatencyRow]:
        config = self.recipe.bench.latency
        with progress("latency", total=2 * len(config.batch_sizes)) as advance:
            return latency.measure(
                self.models, config, run_plan, seed=self.recipe.bench.seed, on_row=lambda _: advance(1)
            )

    def _pairs(self, plans: dict[str, PlanInfo], rows: list[LatencyRow]) -> list[Pair]:
        """Each student over the teacher, and each artifact over the student in torch."""
        wanted = [("teacher", name) for name in self.models if name != "teacher"]
        wanted += [("student", name) for name in self.artifacts if name in self.models]
        sizes = self.recipe.bench.latency.batch_sizes
        found = [p for a, b in wanted for p in speed.pairs(plans, rows, slow=a, fast=b, batch_sizes=sizes)]
        self.notes += speed.refusals(found)
        return found

    def _interval(self, plans: dict[str, PlanInfo], rows: list[QualityRow]) -> IntervalStudy | None:
        """The first artifact at guidance in an interval, if it has a graph for steps without guidance."""
        name, stage = next(((k, s) for k, s in self.artifacts.items() if k in self.models), ("", None))
        if stage is None or self.interval is None or not interval.has_cond(stage.manifest["artifact"]):
            return None
        both, scales = interval.plans(self.recipe, self.interval, self.steps), interval.scales(self.interval)
        plans |= {key: interval.plan_info(scales[key], both[key]) for key in both}
        found = []
        known = {row.guidance: row for row in rows if row.model == name}
        batches = -(-self.recipe.bench.quality.num_images // self.recipe.bench.quality.batch_size)
        missing = sum(guidance.label(scale) not in known for scale in scales.values())
        total = missing * batches * self.recipe.sampling.num_inference_steps
        with progress("guidance interval", total=total) as advance:
            for scale in scales.values():
                row = known.get(guidance.label(scale))
                found.append(row or self._score(name, scale, self._sample(name, scale, advance, batches))[0])
        config, seed = self.recipe.bench.latency, self.recipe.bench.seed
        timed = latency.measure_plans(name, self.models[name], config, both, seed=seed)
        return interval.study(name, both, timed, found)

    def _scales(self, name: str) -> list[Guidance]:
        own = self.recipe.sampling.guidance
        if name == "student" and len(self.models) > 2 and self.recipe.bench.quality.torch_student == "recipe":
            return [own]
        return list(dict.fromkeys([*self.recipe.bench.quality.guidance, own]))

    def _quality(self) -> tuple[list[QualityRow], int]:
        config = self.recipe.bench.quality
        rows: list[QualityRow] = []
        jobs = [(name, scale) for name in self.models for scale in self._scales(name)]
        batches = -(-config.num_images // config.batch_size)
        with progress("quality", total=len(jobs) * batches * self.recipe.sampling.num_inference_steps) as advance:
            for name, scale in jobs:
                row, features = self._score(name, scale, self._sample(name, scale, advance, batches))
                rows.append(row)
                if name == "teacher":
                    self.features[guidance.label(scale)] = features
        return rows, self.reference.num

    def _score(self, name: str, scale: Guidance, images: torch.Tensor) -> tuple[QualityRow, Any]:
        return quality.score(
            name,
            scale,
            images,
            self.reference,
            self.features.get(guidance.label(scale)) if name != "teacher" else None,
            self.extractor,
            self.recipe.bench.quality,
            num_classes=self.data.num_classes,
            seed=self.recipe.bench.seed,
        )

    @cached_property
    def reference(self) -> quality.Reference:
        """Features of the training images."""
        train, _ = self.data.split(self.recipe.data.holdout)
        return quality.reference(train, self.extractor)

    def _sample(self, name: str, scale: Guidance, advance: Callable[[int], None], batches: int) -> torch.Tensor:
        config, sampling, model = self.recipe.bench.quality, self.recipe.sampling, self.models[name]
        wanted = samples.key(
            model.sha256,
            plan(sampling, self.steps, scale=scale),
            num_images=config.num_images,
            seed=self.recipe.bench.seed,
        )
        cache = self.run_folder / f".{samples.FOLDER}"
        shape = (config.num_images, *model.denoiser.interface.image_shape)
        cached = samples.load([self.folders[name] / samples.FOLDER, cache], wanted, shape=shape)
        if cached is not None:
            images = cached
            advance(batches * sampling.num_inference_steps)
            note = f"Images of the {name} were made earlier with the same weights, seed and settings, and taken again."
            if note not in self.notes:
                self.notes.append(note)
        else:
            images = quality.sample(
                model, scale, config, sampling, seed=self.recipe.bench.seed, on_step=lambda _: advance(1)
            )
            samples.save(cache, wanted, images)
        self.images[name, guidance.label(scale)] = images
        return images

    def _fidelity(self) -> dict[str, Any]:
        config, scale = self.recipe.bench.fidelity, self.recipe.sampling.guidance
        _, held_out = self.data.split(self.recipe.data.holdout)
        schedule = self.models["teacher"].denoiser.interface.schedule
        probes = gap.draw_probes(held_out, schedule, num=config.num_pairs, seed=self.recipe.bench.seed)
        with progress("guidance fidelity", total=len(self.models) * config.num_pairs) as advance:
            outputs = {
                name: gap.predict(m.denoiser, probes, batch_size=128, device=m.device, on_draws=advance)
                for name, m in self.models.items()
            }
        rows = []
        for name in self.models:
            if name == "teacher":
                continue
            overall, bins = gap.fidelity(
                outputs[name], outputs["teacher"], probes, scale=scale, num_train_timesteps=self.steps, bins=config.bins
            )
            rows.append({"model": name, "overall": overall.model_dump(), "bins": [b.model_dump() for b in bins]})
        return {"guidance": guidance.label(scale), "num_pairs": config.num_pairs, "rows": rows}

    def grid(self) -> dict[str, Any]:
        """Images of every model from the same noise at the recipe's guidance, class by class."""
        own = guidance.label(self.recipe.sampling.guidance)
        num_classes = self.data.num_classes
        labels = quality.balanced_labels(self.recipe.bench.quality.num_images, num_classes).numpy()
        columns = min(GRID_COLUMNS, max(1, len(labels) // num_classes))
        rows = [i for c in range(min(GRID_CLASSES, num_classes)) for i in np.flatnonzero(labels == c)[:columns]]
        grids: dict[str, Any] = {name: self.images[name, own][rows].numpy() for name in self.models}
        return {**grids, "labels": labels[rows], "columns": np.array(columns)}

"""The bench stage: teacher, student and its artifacts on latency, quality and guidance fidelity, in one record."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dashdeploy import manifest, stages
from dashdeploy.bench.measure import artifact_checks, fidelity, guidance_interval, latency, models, quality, samples
from dashdeploy.bench.measure.machine import machine
from dashdeploy.bench.record import baselines, grids, parts, record, speed, times
from dashdeploy.bench.report.page import write_report
from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.metrics.features import Extractor, open_extractor
from dashdeploy.recipe.schema import GuidanceInterval, Recipe
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import artifact_folders, stale
from dashdeploy.teachers import choose

GRID_COLUMNS = 8
GRID_CLASSES = 10


def bench(
    run_folder: Path,
    recipe: Recipe,
    *,
    fresh: bool = False,
    interval: GuidanceInterval | None = None,
) -> stages.Stage:
    """Measure run_folder's student and artifacts against its teacher into run_folder/bench.

    Args:
        recipe: the run's recipe; its `sampling` and `bench` sections may differ from those that made the student.
        interval: the guidance interval to try on the deployed student; None: `guidance_interval.choose`.

    Raises:
        UserError: no student, a teacher that has changed since the student was made, or a missing feature network.
    """
    check_measurable(recipe)
    student, artifacts = _exported(run_folder)
    manifests = {name: manifest.read(stage) for name, stage in artifacts.items()}
    data = load_dataset(recipe.data)
    _refuse_other_data(run_folder, recipe, data, student)
    teacher = _teacher(run_folder, recipe, data, student)
    quality_config = recipe.bench.quality
    extractor = open_extractor(
        quality_config.features, data, weights=quality_config.features_weights, holdout=recipe.data.holdout
    )
    if extractor is None:
        recipe = _only_grids(recipe, data)
    interval = interval or guidance_interval.choose(recipe)
    inputs = {
        "student": student.sha256,
        "teacher": teacher.sha256,
        "artifacts": {stage.folder.name: stage.sha256 for stage in artifacts.values()},
        "data": data.sha256,
        "features": extractor.sha256 if extractor else None,
        "machine": machine(),
        "versions": stages.versions(),
        "interval": interval.model_dump(mode="json") if interval else None,
    }
    key = stages.stage_key("bench", recipe, {**inputs, "record": record.FORMAT})
    folder = run_folder / "bench"
    done = None if fresh else stages.finished(folder, key)
    if done is not None:
        return done
    folders = {record.TEACHER: teacher.folder, record.STUDENT: student.folder}
    folders |= {name: stage.folder for name, stage in artifacts.items()}
    cache = run_folder / f".{samples.FOLDER}"
    with ExitStack() as stack:
        threads = recipe.bench.latency.threads or machine()["cores"]
        work = stack.enter_context(stages.exclusive(folder))
        opened, left_out = models.open_all(folders, threads, stack)
        # With the rows of its embedding that the recipe says, which its folder does not tell.
        own = opened[record.TEACHER]
        own.denoiser, own.sha256 = teacher.denoiser.to(own.device), teacher.sha256
        with stages.write_stage(folder, work, key=key, recipe=recipe, inputs=inputs) as draft:
            measured, images = measure(
                opened,
                student,
                manifests,
                recipe,
                data,
                extractor,
                interval,
                threads=threads,
                folders=folders,
                cache=cache,
            )
            measured = measured.model_copy(update={"notes": (*left_out, *measured.notes)})
            (draft.folder / record.FILE).write_text(record.dumps(measured))
            grids.write_grids(draft.folder / grids.FILE, images)
            write_report(draft.folder)
            stages.refuse_if_replaced(student, *artifacts.values())
    return stages.read_stage(folder)


def measure(
    opened: dict[str, Model],
    student: stages.Stage,
    manifests: dict[str, manifest.Manifest],
    recipe: Recipe,
    data: LabelledImages,
    extractor: Extractor | None,
    interval: GuidanceInterval | None,
    *,
    threads: int,
    folders: dict[str, Path],
    cache: Path,
) -> tuple[record.Record, grids.Grids]:
    """The record of all opened models, and the images that the report shows.

    Args:
        manifests: of all artifacts by model, also of those that are not opened.
        folders: by model.
        cache: folder of images that were drawn before; see `quality.measure`.
    """
    run_plan = plan(recipe.sampling, opened[record.TEACHER].denoiser.interface.schedule.num_train_timesteps)
    plans = {record.RECIPE_PLAN: guidance_interval.plan_info(recipe.sampling.guidance, run_plan)}
    studied = _with_cond_graph(opened, manifests) if interval else None
    recipe_jobs = quality.jobs(recipe, opened)
    study_jobs = guidance_interval.jobs(studied, interval) if studied and interval and extractor else {}

    drawn = quality.measure(
        opened, {**recipe_jobs, **study_jobs}, recipe, data, extractor, folders=folders, cache=cache
    )
    guidance_fidelity = fidelity.measure(opened, recipe, data)
    latency_rows = latency.measure(opened, recipe.bench.latency, run_plan, seed=recipe.bench.seed)
    study = None
    if studied and interval:
        rows = [drawn.rows[job] for job in study_jobs]
        study, study_plans = guidance_interval.measure(studied, opened[studied], recipe, interval, rows)
        plans |= study_plans
    pairs = _pairs(plans, latency_rows, opened, recipe.bench.latency.batch_sizes)

    # As the student was trained, which the recipe at hand need not say.
    figures, trained = student.figures, student.manifest["recipe"]["distill"]
    measured = record.Record(
        format=record.FORMAT,
        recipe=recipe.name,
        created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        seed=recipe.bench.seed,
        threads=threads,
        machine=parts.Machine(**machine()),
        versions=stages.versions(),
        settings=parts.Settings(
            sampling=recipe.sampling.model_dump(mode="json"),
            **recipe.bench.model_dump(mode="json", exclude={"seed"}),
            timesteps=run_plan.timesteps,
        ),
        classes=tuple(figures["classes"]),
        models=models.describe(opened, folders, manifests, recipe, run_plan, threads),
        compression=figures["compression"],
        images_seen=trained["steps"] * trained["batch_size"],
        plans=plans,
        latency=tuple(latency_rows),
        quality=parts.Quality(
            features=_features(extractor),
            num_images=recipe.bench.quality.num_images,
            num_reference=drawn.num_reference,
            class_counts=tuple(np.bincount(drawn.labels.numpy(), minlength=data.num_classes).tolist()),
            seeds=quality.sampling_seeds(recipe),
            rows=tuple(drawn.rows[job] for job in recipe_jobs if job in drawn.rows),
        ),
        fidelity=guidance_fidelity,
        checks=tuple(artifact_checks.artifact_checks(name, read) for name, read in manifests.items()),
        guidance_interval=study,
        training=tuple(_training(student)),
        baselines=None,
        notes=(*map(_reuse_note, drawn.reused), *speed.refusals(pairs)),
        pairs=tuple(pairs),
    )
    quoted, note = baselines.quoted(measured)
    notes = (*measured.notes, *([note] if note else []))
    return measured.model_copy(update={"baselines": quoted, "notes": notes}), _grids(drawn, recipe)


def _only_grids(recipe: Recipe, data: LabelledImages) -> Recipe:
    """The recipe with as many images as the report's grids show, at its own guidance: none of them is scored."""
    most = GRID_COLUMNS * data.num_classes
    quality = recipe.bench.quality
    changes = {"num_images": min(quality.num_images, most), "guidance": (recipe.sampling.guidance,), "bootstrap": 0}
    bench = recipe.bench.model_copy(update={"quality": quality.model_copy(update=changes)})
    return recipe.model_copy(update={"bench": bench})


def _features(extractor: Extractor | None) -> parts.Features | None:
    if extractor is None:
        return None
    return parts.Features(name=extractor.name, sha256=extractor.sha256, held_out_accuracy=extractor.held_out_accuracy)


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


def _exported(run_folder: Path) -> tuple[stages.Stage, dict[str, stages.Stage]]:
    """The student, and its artifacts by their keys in the record."""
    stages.mend(run_folder)
    student = stages.read_stage(run_folder / "student")
    artifacts = [stages.read_stage(folder) for folder in artifact_folders(run_folder)]
    other = [a.folder.name for a in artifacts if stale(a.folder, a.manifest)]
    if other:
        again = " ".join(f"--to {name}" for name in other)
        raise UserError(
            f"{run_folder}: {', '.join(other)} was exported from another student. Run `dashdeploy export {run_folder} "
            f"{again}`, or remove the folder."
        )
    return student, {f"student-{stage.folder.name}": stage for stage in artifacts}


def _refuse_other_data(run_folder: Path, recipe: Recipe, data: LabelledImages, student: stages.Stage) -> None:
    """Raises:
    UserError: the data are not those that the student was trained on.
    """
    trained = student.manifest["inputs"]["data"]
    if trained != data.sha256:
        where = f"{recipe.data.name}{f' at {recipe.data.path}' if recipe.data.path else ''}"
        raise UserError(
            f"{run_folder}: its student was trained on other data than {where} now holds ({len(data)} images of "
            f"{data.num_classes} classes, SHA-256 {data.sha256[:12]}…; then {trained[:12]}…). Bring back the images, "
            "labels and class names that it was trained on, or distil again."
        )


def _teacher(run_folder: Path, recipe: Recipe, data: LabelledImages, student: stages.Stage) -> choose.Teacher:
    """The teacher that the student was made from."""
    used = Path(student.figures["teacher"])
    folder = used if used.is_dir() else choose.find(recipe, run_folder)
    if folder is None:
        raise UserError(f"{run_folder}: no teacher to compare with; give teacher.path or run `dashdeploy teach`")
    teacher = choose.open_teacher(folder, recipe, data)
    if student.manifest["inputs"]["teacher"] != teacher.sha256:
        raise UserError(f"{run_folder}: its student was made from another teacher than {folder}. Distil again.")
    return teacher


def _with_cond_graph(opened: dict[str, Model], manifests: dict[str, manifest.Manifest]) -> str | None:
    """The first artifact, if it has a graph for steps without guidance."""
    first = next((name for name in manifests if name in opened), None)
    return first if first and "cond" in manifests[first].artifact.graphs else None


def _pairs(
    plans: dict[str, parts.PlanInfo], rows: list[times.LatencyRow], opened: dict[str, Model], batch_sizes: Sequence[int]
) -> list[times.Pair]:
    """Each student over the teacher, and each artifact over the student in torch."""
    wanted = [(record.TEACHER, name) for name in opened if name != record.TEACHER]
    wanted += [(record.STUDENT, name) for name in opened if name not in (record.TEACHER, record.STUDENT)]
    return [p for a, b in wanted for p in speed.pairs(plans, rows, slow=a, fast=b, batch_sizes=batch_sizes)]


def _training(student: stages.Stage) -> list[parts.TrainingPoint]:
    lines = (student.folder / "metrics.jsonl").read_text().splitlines()
    return [parts.TrainingPoint(**json.loads(line)) for line in lines]


def _reuse_note(name: str) -> str:
    return f"Images of the {name} had been drawn with the same weights, seed and settings, and were used again."


def _grids(drawn: quality.Measured, recipe: Recipe) -> grids.Grids:
    """Images of every model from the same noise at the recipe's guidance, class by class; of classes that have any."""
    at, labels = guidance.label(recipe.sampling.guidance), drawn.labels.numpy()
    classes, counts = np.unique(labels, return_counts=True)
    columns = min(GRID_COLUMNS, int(counts[:GRID_CLASSES].min()))
    places = [i for c in classes[:GRID_CLASSES] for i in np.flatnonzero(labels == c)[:columns]]
    shown = {name: images[places].numpy() for (name, label), images in drawn.images.items() if label == at}
    return grids.Grids(shown, labels[places], columns)

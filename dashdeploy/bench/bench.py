"""The bench stage: teacher, student and its artifacts on latency, quality and guidance fidelity, in one record."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from dashdeploy import manifest, ranks, stages
from dashdeploy.bench.measure import (
    artifact_checks,
    decoding,
    fidelity,
    guidance_interval,
    latency,
    models,
    quality,
    response,
    samples,
    shares,
)
from dashdeploy.bench.measure.machine import machine
from dashdeploy.bench.record import baselines, grids, parts, record, speed, times
from dashdeploy.bench.report.page import write_report
from dashdeploy.bench.subjects import Subjects, find, open_subjects
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.errors import UserError
from dashdeploy.locate import expanded
from dashdeploy.metrics.features import Extractor, open_extractor
from dashdeploy.metrics.reference import Reference
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Recipe
from dashdeploy.runtime.model import Model

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

    Of several processes of one launch all draw images, each a part of every set, and the main one measures and writes.

    Args:
        recipe: the run's recipe; its `sampling` and `bench` sections may differ from those that made the student.
        interval: the guidance interval to try on the deployed student; None: `guidance_interval.choose`.

    Raises:
        UserError: no student, a teacher that has changed since the student was made, or a missing feature network.
    """
    check_measurable(recipe)
    subjects = find(run_folder, recipe)
    if ranks.state().num_processes > 1:
        drawn = _draw_together(run_folder, recipe, subjects, fresh=fresh, interval=interval)
    else:
        drawn = frozenset()
    return ranks.in_main(lambda: _bench(run_folder, recipe, subjects, fresh=fresh, interval=interval, drawn=drawn))


def _draw_together(
    run_folder: Path, recipe: Recipe, subjects: Subjects, *, fresh: bool, interval: GuidanceInterval | None
) -> frozenset[str]:
    """The images that the benchmark will need, drawn by all processes into the run's cache; their keys.

    Nothing is drawn where the benchmark is finished.
    """
    if not fresh and ranks.in_main(lambda: _is_finished(run_folder, recipe, subjects, interval)):
        return frozenset()
    if recipe.bench.quality.features == "none":
        recipe = _only_grids(recipe, subjects.data)
    interval, here = interval or guidance_interval.choose(recipe), ranks.state()
    sharing = here.num_processes if ranks.on_cpu() else 1
    threads = max(1, (recipe.bench.latency.threads or machine()["cores"]) // sharing)
    with ExitStack() as stack:
        opened, _ = open_subjects(subjects, threads, stack)
        scored = recipe.bench.quality.features != "none"
        _, study_jobs = _study(opened, subjects.manifests, interval, scored=scored)
        return shares.draw(
            opened,
            {**quality.jobs(recipe, opened), **study_jobs},
            recipe,
            subjects.pictures,
            folders=subjects.folders,
            cache=_cache(run_folder),
        )


def _cache(run_folder: Path) -> Path:
    return run_folder / f".{samples.FOLDER}"


def _study(
    opened: dict[str, Model],
    manifests: dict[str, manifest.Manifest],
    interval: GuidanceInterval | None,
    *,
    scored: bool,
) -> tuple[str | None, dict[quality.Job, Guidance]]:
    """The model on which a guidance interval is tried, and the images of that study."""
    studied = _with_cond_graph(opened, manifests) if interval else None
    return studied, guidance_interval.jobs(studied, interval) if studied and interval and scored else {}


def _bench(
    run_folder: Path,
    recipe: Recipe,
    subjects: Subjects,
    *,
    fresh: bool,
    interval: GuidanceInterval | None,
    drawn: frozenset[str],
) -> stages.Stage:
    """`bench`, in one process; drawn: keys of images that were drawn just now."""
    extractor, recipe, interval = _settled(recipe, subjects, interval)
    inputs, key = _key(recipe, subjects, extractor, interval)
    folder = run_folder / "bench"
    done = None if fresh else stages.finished(folder, key)
    if done is not None:
        return done
    with ExitStack() as stack:
        threads = recipe.bench.latency.threads or machine()["cores"]
        work = stack.enter_context(stages.exclusive(folder))
        opened, left_out = open_subjects(subjects, threads, stack)
        with stages.write_stage(folder, work, key=key, recipe=recipe, inputs=inputs) as draft:
            measured, images = measure(
                opened,
                subjects,
                recipe,
                extractor,
                interval,
                threads=threads,
                cache=_cache(run_folder),
                drawn_now=drawn,
            )
            measured = measured.model_copy(update={"notes": (*left_out, *measured.notes)})
            (draft.folder / record.FILE).write_text(record.dumps(measured))
            grids.write_grids(draft.folder / grids.FILE, images)
            write_report(draft.folder)
            stages.refuse_if_replaced(subjects.student, *subjects.artifacts.values())
    return stages.read_stage(folder)


def _settled(
    recipe: Recipe, subjects: Subjects, interval: GuidanceInterval | None
) -> tuple[Extractor | None, Recipe, GuidanceInterval | None]:
    """The feature network, the recipe with as many images as are needed, and the guidance interval to try."""
    config = recipe.bench.quality
    extractor = open_extractor(
        config.features, subjects.pictures, weights=config.features_weights, holdout=recipe.data.holdout
    )
    if extractor is None:
        recipe = _only_grids(recipe, subjects.data)
    return extractor, recipe, interval or guidance_interval.choose(recipe)


def _key(
    recipe: Recipe, subjects: Subjects, extractor: Extractor | None, interval: GuidanceInterval | None
) -> tuple[dict[str, Any], str]:
    """What the stage depends on beside the recipe, and its key."""
    inputs = {
        "student": subjects.student.sha256,
        "teacher": subjects.teacher.sha256,
        "artifacts": {stage.folder.name: stage.sha256 for stage in subjects.artifacts.values()},
        "data": subjects.data.sha256,
        "features": extractor.sha256 if extractor else None,
        "reference": _hash(recipe.bench.quality.reference),
        "machine": machine(),
        "versions": stages.versions(),
        "interval": interval.model_dump(mode="json") if interval else None,
    }
    return inputs, stages.stage_key("bench", recipe, {**inputs, "record": record.FORMAT})


def _is_finished(run_folder: Path, recipe: Recipe, subjects: Subjects, interval: GuidanceInterval | None) -> bool:
    extractor, recipe, interval = _settled(recipe, subjects, interval)
    return stages.finished(run_folder / "bench", _key(recipe, subjects, extractor, interval)[1]) is not None


def measure(
    opened: dict[str, Model],
    subjects: Subjects,
    recipe: Recipe,
    extractor: Extractor | None,
    interval: GuidanceInterval | None,
    *,
    threads: int,
    cache: Path,
    drawn_now: frozenset[str] = frozenset(),
) -> tuple[record.Record, grids.Grids]:
    """The record of all opened models, and the images that the report shows.

    Args:
        cache: folder of images that were drawn before; see `quality.measure`.
        drawn_now: keys of those that other processes of this launch have drawn for it.
    """
    student, manifests, data, folders = subjects.student, subjects.manifests, subjects.data, subjects.folders
    run_plans = {name: quality.plan_of(recipe, model) for name, model in opened.items()}
    run_plan = run_plans[record.STUDENT]
    plans = {record.RECIPE_PLAN: guidance_interval.plan_info(recipe.sampling.guidance, run_plan)}
    own = {name: run for name, run in run_plans.items() if run != run_plan}
    plans |= {name: guidance_interval.plan_info(recipe.sampling.guidance, run) for name, run in own.items()}
    recipe_jobs = quality.jobs(recipe, opened)
    studied, study_jobs = _study(opened, manifests, interval, scored=extractor is not None)

    drawn = quality.measure(
        opened,
        {**recipe_jobs, **study_jobs},
        recipe,
        subjects.pictures,
        extractor,
        folders=folders,
        cache=cache,
        drawn_now=drawn_now,
    )
    guidance_fidelity = fidelity.measure(opened, recipe, data)
    latency_rows = latency.measure(opened, recipe.bench.latency, run_plan, own=own, seed=recipe.bench.seed)
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
            **recipe.bench.model_dump(mode="json", exclude={"seed", "teacher_steps"}),
            timesteps=run_plan.timesteps,
        ),
        classes=tuple(figures["classes"]),
        models=models.describe(opened, folders, manifests, recipe, run_plans, threads),
        compression=figures["compression"],
        images_seen=trained["steps"] * trained["batch_size"],
        plans=plans,
        latency=tuple(latency_rows),
        quality=parts.Quality(
            features=_features(extractor),
            num_images=recipe.bench.quality.num_images,
            num_reference=drawn.reference.num if drawn.reference else 0,
            reference=_reference(drawn.reference),
            class_counts=tuple(np.bincount(drawn.labels.numpy(), minlength=data.num_classes).tolist()),
            seeds=quality.sampling_seeds(recipe),
            rows=tuple(drawn.rows[job] for job in recipe_jobs if job in drawn.rows),
        ),
        fidelity=guidance_fidelity,
        response=response.measure(opened, recipe, data),
        checks=tuple(artifact_checks.artifact_checks(name, read) for name, read in manifests.items()),
        guidance_interval=study,
        training=tuple(_training(student)),
        baselines=None,
        notes=(*drawn.notes, *speed.refusals(pairs)),
        pairs=tuple(pairs),
        decoding=decoding.measure(opened, recipe.bench.latency, seed=recipe.bench.seed),
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


def _hash(reference: str | None) -> str | None:
    return None if reference is None else stages.file_sha256(expanded(reference))


def _features(extractor: Extractor | None) -> parts.Features | None:
    if extractor is None:
        return None
    return parts.Features(name=extractor.name, sha256=extractor.sha256, held_out_accuracy=extractor.held_out_accuracy)


def _reference(used: Reference | None) -> parts.ReferenceFile | None:
    if used is None or used.file is None or used.sha256 is None:
        return None
    return parts.ReferenceFile(
        file=used.file, sha256=used.sha256, is_images=used.features is not None, published=used.published
    )


def check_measurable(recipe: Recipe) -> None:
    """Refuse a recipe whose samples are latents that nothing decodes: FID is of images.

    Raises:
        UserError: it says what does work.
    """
    if recipe.data.gives_latents and recipe.data.vae is None:
        raise UserError(
            f"recipe {recipe.name}: its data are latents, and the benchmark measures images. Give their autoencoder in "
            "data.vae, and distil again: it goes with the student, and decodes what all models draw."
        )


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


def _grids(drawn: quality.Measured, recipe: Recipe) -> grids.Grids:
    """Images of every model from the same noise at the recipe's guidance, class by class; of classes that have any."""
    at, labels = guidance.label(recipe.sampling.guidance), drawn.labels.numpy()
    classes, counts = np.unique(labels, return_counts=True)
    columns = min(GRID_COLUMNS, int(counts[:GRID_CLASSES].min()))
    places = [i for c in classes[:GRID_CLASSES] for i in np.flatnonzero(labels == c)[:columns]]
    shown = {name: images[places].numpy() for (name, label), images in drawn.images.items() if label == at}
    return grids.Grids(shown, labels[places], columns)

"""Carry out a comparison: train and measure every variant at every seed as any other run, then write one summary.

Finished runs are not made again, so that a comparison resumes where it stopped. Variants of the same teacher share it,
its samples and its banks of outputs, which are kept beside the variants.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.bench.measure import samples
from dashdeploy.bench.measure.machine import machine
from dashdeploy.compare import plots, tables
from dashdeploy.compare.summary import Run, Summary, summarise
from dashdeploy.compare.teachers import kept_teacher, teacher_of
from dashdeploy.errors import UserError
from dashdeploy.files import write_whole
from dashdeploy.pipeline import run_all
from dashdeploy.preflight.examine import examine, refuse
from dashdeploy.recipe.comparison import Comparison, recipe_of
from dashdeploy.training import ranks
from dashdeploy.training.student import describe_student

BANKS = ".banks"
WEIGHTS = "timestep_weight_by_decile"
QUICK: dict[str, Any] = {
    "export": [],
    "bench.quality.torch_student": "all",
    "bench.quality.bootstrap": 0,
    "bench.latency.batch_sizes": [],
}
"""A comparison measures quality and its spread over seeds: no latencies, and no confidence intervals within one run."""


def jobs(comparison: Comparison) -> list[tuple[str, int]]:
    """Every (variant, seed), seed by seed, so that one that stops early still compares; then the fresh seeds."""
    again = comparison.confirmation
    return [
        *((variant, seed) for seed in comparison.seeds for variant in comparison.variants),
        *(jobs(again) if again else ()),
    ]


def designs(comparison: Comparison, root: Path, *, fresh: bool = False) -> dict[str, str]:
    """Variant -> one line on its student, after the preflight of each variant; nothing is run or written.

    Raises:
        UserError: all problems of all variants.
    """
    students: dict[str, str] = {}
    variants: dict[str, list[str]] = {}  # problem -> the variants that have it
    seed = comparison.seeds[0]
    for name in comparison.variants:
        recipe = recipe_of(comparison, name, seed, more=QUICK)
        recipe = recipe_of(comparison, name, seed, more={**QUICK, **kept_teacher(recipe, root)})
        facts = examine(recipe, root / name / f"seed{seed}", fresh=fresh)
        if recipe.bench.quality.features == "none":
            facts.problems.append("bench.quality.features is none, and a comparison compares FID: take auto or fit")
        for problem in facts.problems:
            variants.setdefault(problem, []).append(name)
        if facts.student is not None:
            students[name] = describe_student(recipe, facts.student)
    refuse([f"variant {', '.join(names)}: {problem}" for problem, names in variants.items()])
    return students


def compare(
    comparison: Comparison,
    run_dir: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    threads: int | None = None,
    fresh: bool = False,
    say: Callable[[str], None],
) -> Summary | None:
    """Carry out the runs of this shard that are missing, and write the summary once the runs of all shards are there.

    Args:
        shard: (i, n): every n-th run, starting with the i-th (from 0). Shards may run on several machines that share
            run_dir.
        threads: CPU threads of training and measuring. None: as the recipe says.
        say: called with a line of progress.

    Returns:
        the summary; None: other shards have not finished.

    Raises:
        UserError: as by `designs`, before anything is made; a run fails, or its finished student has other values and
            `fresh` is not given.
    """
    if not ranks.state().is_main_process:
        say = _silent
    designs(comparison, run_dir / comparison.name, fresh=fresh)
    root = stages.open_run(run_dir, comparison.name)
    todo = jobs(comparison)
    for place, (variant, seed) in list(enumerate(todo))[shard[0] :: shard[1]]:
        say(f"[{place + 1}/{len(todo)}] {variant}, seed {seed}")
        changes = {**QUICK, **_threads(comparison, variant, threads), **_sampling_seed(comparison, variant, seed)}
        changes |= teacher_of(comparison, variant, root, more=changes)
        recipe = recipe_of(comparison, variant, seed, more=changes)
        folder = stages.open_run(root / variant, f"seed{seed}")
        _share_samples(root, folder)
        try:
            run_all(recipe, folder, fresh=fresh, banks=root / BANKS, say=_silent)
        except UserError as error:
            raise UserError(f"variant {variant}, seed {seed}: {error}") from error
    return ranks.in_main(lambda: _sum_up(comparison, root, say=say))


def _sum_up(comparison: Comparison, root: Path, *, say: Callable[[str], None]) -> Summary | None:
    """Write and return the summary, if the runs of all shards are there."""
    todo = jobs(comparison)
    runs = {job: _finished(root / job[0] / f"seed{job[1]}") for job in todo}
    if missing := [f"{variant} seed {seed}" for (variant, seed), run in runs.items() if run is None]:
        say(f"not finished by other shards: {', '.join(missing)}")
        return None
    summary = summarise(comparison, {job: run for job, run in runs.items() if run is not None})
    write(root, comparison, summary)
    return summary


def write(root: Path, comparison: Comparison, summary: Summary) -> None:
    """Write compare.json, compare.md and the plots."""
    content = {
        "comparison": comparison.model_dump(mode="json"),
        **summary.as_dict(),
        "machine": machine(),
        "versions": stages.versions(),
    }
    write_whole(root / "compare.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_whole(root / "compare.md", tables.markdown(summary))
    for name, svg in plots.all_of(summary).items():
        write_whole(root / f"{name}.svg", svg)


def _silent(text: str) -> None:
    """Says nothing."""


def _share_samples(root: Path, folder: Path) -> None:
    """Give all runs one cache of images, so that the teacher's are made once."""
    common, link = root / f".{samples.FOLDER}", folder / f".{samples.FOLDER}"
    common.mkdir(exist_ok=True)
    if not link.exists():
        with suppress(FileExistsError):  # another process of the same launch has just made it
            link.symlink_to(Path("..") / ".." / common.name, target_is_directory=True)


def _sampling_seed(comparison: Comparison, variant: str, seed: int) -> dict[str, Any]:
    """The change that gives each training noise of its own for its images; variants of one seed share it."""
    return {"bench.seed": (recipe_of(comparison, variant, seed).bench.seed + seed) % 2**63}


def _threads(comparison: Comparison, variant: str, threads: int | None) -> dict[str, Any]:
    """The changes of the recipe that set the CPU threads of all parts of a run."""
    if threads is None:
        return {}
    teaches = recipe_of(comparison, variant, comparison.seeds[0]).teach is not None
    parts = ("distill", "bench.latency", *(("teach",) if teaches else ()))
    return {f"{part}.threads": threads for part in parts}


def _finished(folder: Path) -> Run | None:
    if not (folder / "bench" / stages.MANIFEST).is_file():
        return None
    path = stages.read_stage(folder / "bench").folder / "bench.json"
    student = stages.read_manifest(folder / "student")
    teacher = Path(student["figures"]["teacher"])
    # A ready teacher may have no manifest, and another machine may have it in another folder.
    taught = stages.read_manifest(teacher)["figures"] if (teacher / stages.MANIFEST).is_file() else {}
    return Run(
        record=json.loads(path.read_text(encoding="utf-8")),
        teacher=student["inputs"]["teacher"],
        weights=student["figures"].get(WEIGHTS, ()),
        teacher_weights=taught.get(WEIGHTS, ()),
    )

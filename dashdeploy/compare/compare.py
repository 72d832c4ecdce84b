"""Carry out a comparison: train and measure every variant at every seed as any other run, then write one summary.

Finished runs are not made again, so that a comparison resumes where it stopped. Variants of the same teacher share it,
its samples and its banks of outputs, which are kept beside the variants.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dashdeploy import ranks, stages
from dashdeploy.bench.bench import bench
from dashdeploy.bench.measure import samples
from dashdeploy.bench.measure.machine import machine
from dashdeploy.compare import alike, plots, tables
from dashdeploy.compare.summary import Run, Summary, summarise
from dashdeploy.compare.teachers import kept_teacher, teacher_of
from dashdeploy.errors import UserError
from dashdeploy.files import write_whole
from dashdeploy.pipeline import run_all
from dashdeploy.preflight.examine import examine, refuse, require
from dashdeploy.recipe.comparison import Comparison, recipe_of
from dashdeploy.recipe.schema import Recipe
from dashdeploy.students import finished
from dashdeploy.students.architecture import StudentDesign
from dashdeploy.teachers import networks
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
        *((variant, seed) for seed in comparison.seeds for variant in comparison.ordered),
        *(jobs(again) if again else ()),
    ]


def sharded(comparison: Comparison, shard: tuple[int, int]) -> list[tuple[int, str, int]]:
    """(place among all jobs, variant, seed) of the jobs of shard (i, n), in their order.

    Variants that need each other's students go to one shard: the one that has the fewest runs by then.
    """
    loads = [0] * shard[1]
    chains: dict[tuple[str, int], int] = {}  # (root, seed) -> shard
    sizes = Counter((comparison.root_of(variant), seed) for variant, seed in jobs(comparison))
    mine = []
    for place, (variant, seed) in enumerate(jobs(comparison)):
        chain = (comparison.root_of(variant), seed)
        if chain not in chains:
            chains[chain] = loads.index(min(loads))
            loads[chains[chain]] += sizes[chain]
        if chains[chain] == shard[0]:
            mine.append((place, variant, seed))
    return mine


def designs(comparison: Comparison, root: Path, *, fresh: bool = False) -> dict[str, str]:
    """Variant -> one line on its student, after the preflight of each variant; nothing is run or written.

    Raises:
        UserError: all problems of all variants.
    """
    students: dict[str, str] = {}
    variants: dict[str, list[str]] = {}  # problem -> the variants that have it
    seed = comparison.seeds[0]
    made: dict[str, StudentDesign] = {}
    alike.refuse_unlike_recipes({name: recipe_of(comparison, name, seed, more=QUICK) for name in comparison.ordered})
    for name in comparison.ordered:
        said = recipe_of(comparison, name, seed, more=QUICK)
        changes = {**QUICK, **kept_teacher(said, root)}
        start = comparison.start_of(name)
        is_there = start is None or stages.is_stage(_folder(root, start, seed) / "student")
        if start is not None:
            changes |= _start(root, start, seed)
        recipe = recipe_of(comparison, name, seed, more=changes)
        facts = examine(recipe, _folder(root, name, seed), fresh=fresh, start_there=is_there)
        if recipe.bench.quality.features == "none":
            facts.problems.append("bench.quality.features is none, and a comparison compares FID: take auto or fit")
        if start in made and facts.student is not None and not is_there:
            facts.check(
                finished.refuse_other,
                networks.build(made[start].config, network=made[start].network),
                facts.student,
                f"start {start}",
            )
        for problem in facts.problems:
            variants.setdefault(problem, []).append(name)
        if facts.student is not None:
            made[name] = facts.student
            # As the comparison says it: a start by the name of its variant.
            students[name] = describe_student(said, facts.student)
            if taken := comparison.variants[name].train_as:
                students[name] += f", the student of {taken}"
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
        shard: (i, n): the i-th (from 0) of n parts of the runs, see `sharded`. Shards may run on several machines that
            share run_dir.
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
    total = len(jobs(comparison))
    for place, variant, seed in sharded(comparison, shard):
        say(f"[{place + 1}/{total}] {variant}, seed {seed}")
        changes = {**QUICK, **_threads(comparison, variant, threads), **_sampling_seed(comparison, variant, seed)}
        changes |= teacher_of(comparison, variant, root, more=changes)
        if start := comparison.start_of(variant):
            changes |= _start(root, start, seed)
        recipe = recipe_of(comparison, variant, seed, more=changes)
        folder = stages.open_run(root / variant, f"seed{seed}")
        _share_samples(root, folder)
        try:
            if of := comparison.variants[variant].train_as:
                _measure(recipe, folder, _folder(root, of, seed) / "student", fresh=fresh)
            else:
                run_all(recipe, folder, fresh=fresh, banks=root / BANKS, say=_silent)
        except UserError as error:
            raise UserError(f"variant {variant}, seed {seed}: {error}") from error
    return ranks.in_main(lambda: _sum_up(comparison, root, say=say))


def _folder(root: Path, variant: str, seed: int) -> Path:
    return root / variant / f"seed{seed}"


def _start(root: Path, variant: str, seed: int) -> dict[str, Any]:
    """The change that has a student begin as the one of another variant."""
    return {"student.init": {"kind": "run", "path": str(_folder(root, variant, seed).absolute())}}


def _measure(recipe: Recipe, folder: Path, student: Path, *, fresh: bool) -> None:
    """Measure the student of another variant, to which a link in the run's folder leads."""
    link = folder / "student"

    def linked() -> None:
        if link.is_dir() and not link.is_symlink():
            raise UserError(f"{link}: a student of its own is there, and train_as takes another: remove {folder}")
        wanted = Path("..") / ".." / student.relative_to(folder.parent.parent)
        if link.is_symlink() and link.readlink() != wanted:
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(wanted, target_is_directory=True)

    ranks.in_main(linked)
    require(recipe, folder, wanted=("bench",), fresh=fresh)
    bench(folder, recipe, fresh=fresh)


def _sum_up(comparison: Comparison, root: Path, *, say: Callable[[str], None]) -> Summary | None:
    """Write and return the summary, if the runs of all shards are there, with the values that they have now."""
    todo = jobs(comparison)
    runs = {job: _finished(_folder(root, *job)) for job in todo}
    missing = []
    for (variant, seed), run in runs.items():
        if run is None:
            missing.append(f"{variant} seed {seed}")
        elif other := _of_other_values(comparison, root, variant, seed):
            missing.append(f"{variant} seed {seed} (finished with other values: {'; '.join(other)})")
    if missing:
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


def _of_other_values(comparison: Comparison, root: Path, variant: str, seed: int) -> list[str]:
    """In what a finished run differs from what the comparison says now, which another shard has still to make."""
    folder = _folder(root, variant, seed)
    measured, student = stages.read_stage(folder / "bench").manifest, stages.read_stage(folder / "student")
    # Shards may have other numbers of threads, and no time is measured.
    threads = {"bench.latency.threads": measured["recipe"]["bench"]["latency"]["threads"]}
    changes = {**QUICK, **_sampling_seed(comparison, variant, seed), **threads}
    recipe = recipe_of(comparison, variant, seed, more=changes)
    found = [
        *stages.differences(measured, "bench", recipe, measured["inputs"]),
        *stages.differences(student.manifest, "student", recipe, student.manifest["inputs"]),
    ]
    if not found and measured["inputs"]["student"] != student.sha256:
        return ["it was measured with another student"]
    return list(dict.fromkeys(found))


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

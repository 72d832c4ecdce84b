"""Baselines of a recipe, at the same student size and the same images seen: python benchmarks/baselines.py digits

Trains and measures the recipe and its baseline recipes (<recipe>-scratch, <recipe>-cond-only) over several
seeds, and writes recipes/baselines/<recipe>.json, which the benchmark quotes beside a user's own run. Every
figure is the mean over the seeds, with its smallest and largest value beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.bench.record import baselines
from dashdeploy.bench.record.baselines import fids
from dashdeploy.bench.record.record import STUDENT, TEACHER, Record, load_record
from dashdeploy.locate import data_root, find
from dashdeploy.pipeline import run_all
from dashdeploy.recipe.load import load_recipe

LABELS = {"": "DASH", "-scratch": "from scratch", "-cond-only": "conditional branch only"}
NO_LATENCY = ["bench.latency.batch_sizes=[]"]


def measure(name: str, seed: int, run_dir: Path) -> Record:
    """The bench record of one recipe at one seed; the student is sampled in torch, nothing is exported."""
    # Each training draws its images from noise of its own, as in `dashdeploy compare`.
    overrides = [f"seed={seed}", f"bench.seed={seed}", "export=[]", "bench.quality.torch_student=all", *NO_LATENCY]
    recipe = load_recipe(name, overrides=overrides)
    folder = stages.open_run(run_dir / f"seed{seed}", recipe.name)
    stage = run_all(recipe, folder, say=lambda text: print(text, file=sys.stderr))
    return load_record(stage.folder)


def spread(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {k: [min(r[k] for r in rows), max(r[k] for r in rows)] for k in rows[0]}


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {k: statistics.fmean(r[k] for r in rows) for k in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/baselines"))
    options = parser.parse_args()
    records = {
        suffix: [measure(options.recipe + suffix, seed, options.run_dir) for seed in options.seeds]
        for suffix in LABELS
        if find("recipes", options.recipe) and (data_root("recipes") / f"{options.recipe}{suffix}.yaml").is_file()
    }
    ours = records[""]
    rows = []
    for suffix, of_seeds in records.items():
        overall = [record.fidelity.rows[0].overall for record in of_seeds]
        gaps = [
            {k: getattr(row, k) for k in ("energy_cosine", "rho", "relative_error", "guided_error")} for row in overall
        ]
        rows.append(
            {
                "name": options.recipe + suffix,
                "label": LABELS[suffix],
                "objective": load_recipe(options.recipe + suffix).distill.objective.kind,
                "fid": mean([fids(r, STUDENT) for r in of_seeds]),
                "fid_range": spread([fids(r, STUDENT) for r in of_seeds]),
                **mean(gaps),
                "gap_range": spread(gaps),
            }
        )
    recoveries = [
        baselines.recovery(fids(s, STUDENT), fids(o, TEACHER), fids(o, STUDENT))
        for s, o in zip(records["-scratch"], ours, strict=True)
    ]
    result = {
        "recipe": options.recipe,
        "seeds": options.seeds,
        "conditions": baselines.conditions(ours[0]),
        "teacher_fid": mean([fids(r, TEACHER) for r in ours]),
        "rows": rows,
        "recovery": mean(recoveries),
        "recovery_range": spread(recoveries),
        "machine": machine(),
        "versions": stages.versions(),
    }
    path = data_root("recipes") / "baselines" / f"{options.recipe}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: result[k] for k in ("teacher_fid", "rows", "recovery", "recovery_range")}, indent=1))


if __name__ == "__main__":
    main()

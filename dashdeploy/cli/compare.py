"""`dashdeploy compare`: variants of one recipe over several seeds, in one table."""

from __future__ import annotations

from typing import Annotated

import typer

from dashdeploy.cli.options import DEFAULT_RUN_DIR, MOST_THREADS, Fresh, RunDir
from dashdeploy.cli.output import Result, lines
from dashdeploy.terminal import say


def compare(
    comparison: Annotated[
        str, typer.Argument(metavar="COMPARISON", help="A name, such as ablation-digits, or a YAML file with variants.")
    ],
    *,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Carry out the I-th (from 1) of N parts of the runs.")
    ] = "1/1",
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=MOST_THREADS, help="CPU threads of every run. Default: as the recipe says."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs in their order; do nothing.")] = False,
    fresh: Fresh = False,
) -> Result:
    """Train and measure every variant of a recipe at every seed. Finished runs are not made again.

    All variants share one teacher, unless they change its training (teach.…, with teacher.path: null).

    Writes compare.json, compare.md, fid.svg and gap.svg. To spread the runs over devices, give each a shard. To spread
    the batches of each run, start this command by `accelerate launch` or `torchrun`.
    """
    from dashdeploy.recipe.comparison import load_comparison

    variants = load_comparison(comparison)
    part = parse_shard(shard)
    from dashdeploy.compare.compare import compare as carry_out
    from dashdeploy.compare.compare import designs, sharded

    if dry_run:
        students = designs(variants, run_dir / variants.name)
        todo = [(variant, seed, students[variant]) for _, variant, seed in sharded(variants, part)]
        runs = [dict(zip(("variant", "seed", "student"), run, strict=True)) for run in todo]
        return lines({"runs": runs}, *(f"{variant}  seed {seed}: {student}" for variant, seed, student in todo))
    from dashdeploy.compare.tables import all_of
    from dashdeploy.report.table import print_tables

    summary = carry_out(variants, run_dir, shard=part, threads=threads, fresh=fresh, say=say)
    if summary is None:
        return lines({"finished": False})  # the other shards have runs to carry out

    def show() -> None:
        print_tables(all_of(summary))
        print(run_dir / variants.name / "compare.md")

    return Result(summary.as_dict(), show)


def parse_shard(text: str) -> tuple[int, int]:
    """``"2/4"`` -> (1, 4)."""
    from dashdeploy.errors import UserError

    first, slash, count = text.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise UserError(f"--shard {text!r}: expected I/N with 1 ≤ I ≤ N, as in 2/4")
    return int(first) - 1, int(count)

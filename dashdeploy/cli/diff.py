"""`dashdeploy diff A B`: compare two benchmark records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.options import finite
from dashdeploy.cli.output import Result

_RECORD = "A record: a bench.json, a bench folder, or a run folder."


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=f"{_RECORD} B is compared with it.")],
    b: Annotated[Path, typer.Argument(metavar="B", help=_RECORD)],
    *,
    max_slowdown: Annotated[
        float,
        typer.Option("--max-slowdown", metavar="RATIO", help="Largest median latency of B over A's.", callback=finite),
    ] = 1.10,
    max_fid_increase: Annotated[
        float,
        typer.Option(
            "--max-fid-increase", metavar="SHARE", help="Largest increase of FID, as a share of A's.", callback=finite
        ),
    ] = 0.05,
    max_gap_error_increase: Annotated[
        float,
        typer.Option(
            "--max-gap-error-increase",
            metavar="X",
            help="Largest increase of the relative error of the guidance gap; of one branch, of its response.",
            callback=finite,
        ),
    ] = 0.02,
    max_memory_increase: Annotated[
        float,
        typer.Option(
            "--max-memory-increase",
            metavar="SHARE",
            help="Largest increase of peak memory, as a share.",
            callback=finite,
        ),
    ] = 0.10,
    max_size_increase: Annotated[
        float,
        typer.Option(
            "--max-size-increase", metavar="SHARE", help="Largest increase of file size, as a share.", callback=finite
        ),
    ] = 0.05,
    only_beyond: Annotated[
        bool,
        typer.Option(
            "--only-beyond", help="Fail only on a figure past its limit whose change is also beyond the intervals."
        ),
    ] = False,
) -> Result:
    """Compare two benchmark records: latency, FID and KID, guidance gap, size and memory of B against A.

    Exit code 0: no figure is past its limit.

    Exit code 1: at least one is; the table marks each as a regression.

    Exit code 2: they cannot be compared. Recipe, steps, guidance, number of images and feature network must be the
    same; on one machine, threads and batch sizes too. Records of two machines are compared without times and memory.

    A change is beyond the intervals where its 95 % confidence interval, from those of both records, leaves out
    "no change".
    """
    from dashdeploy.bench.record.diff import Limits, compare, find, stage_of
    from dashdeploy.bench.report.diff_tables import diff_tables, summary
    from dashdeploy.report.table import print_tables

    limits = Limits(
        max_slowdown=max_slowdown,
        max_fid_increase=max_fid_increase,
        max_gap_error_increase=max_gap_error_increase,
        max_memory_increase=max_memory_increase,
        max_size_increase=max_size_increase,
    )
    compared = compare(find(a), find(b), limits, names=(str(a), str(b)), only_beyond=only_beyond)
    bare = [path for path in (a, b) if stage_of(path) is None]
    compared.notes.extend(f"{path}: no manifest lies beside it, so a change of it would go unseen." for path in bare)

    def show() -> None:
        print(f"A: {compared.a}\nB: {compared.b}")
        print("".join(f"{note}\n" for note in compared.notes), end="")
        print_tables(diff_tables(compared))
        print(summary(compared))

    return Result(compared.as_dict(), show, code=1 if compared.regressions else 0)

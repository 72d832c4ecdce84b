"""`dashdeploy bench RUN`: measure a run's student and artifacts against its teacher; `bench diff A B`: compare two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from dashdeploy.cli.options import AsJson, Fresh, Overrides

RUN, DIFF = "RUN", "diff"


class RunOrDiff(TyperGroup):
    """A group whose first argument is a run folder, unless it is `diff`; a folder of that name is ./diff."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`RUN …` is a command that is never typed."""
        return super().parse_args(ctx, args if args[:1] in ([DIFF], ["--help"]) else [RUN, *args])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of `bench RUN`, which also names `bench diff`."""
        command = self.commands[RUN]
        command.format_help(UnnamedContext(command, parent=ctx), formatter)


class UnnamedContext(typer.Context):
    """Usage lines of `RUN …` read `dashdeploy bench`: the command's own name is never typed."""

    @property
    def command_path(self) -> str:
        return self.parent.command_path if self.parent else ""


class RunCommand(TyperCommand):
    """The default command."""

    context_class = UnnamedContext


bench = typer.Typer(
    cls=RunOrDiff, help="Measure a run's student and artifacts against its teacher, or compare two such records (diff)."
)


@bench.command(RUN, cls=RunCommand)
def run_bench(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as in runs/digits.")],
    *,
    features: Annotated[
        str | None, typer.Option("--features", help="Feature network of FID and KID: auto, or inception.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights file of --features inception.")
    ] = None,
    overrides: Overrides = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Latency, quality over guidance, and guidance fidelity: bench.json, a table, and report.html.

    dashdeploy bench diff A B compares two such records; see dashdeploy bench diff --help.

    A run folder that is called diff is given as ./diff.
    """
    from dashdeploy import stages
    from dashdeploy.bench.bench import bench as bench_stage
    from dashdeploy.bench.report.show import show
    from dashdeploy.errors import UserError
    from dashdeploy.recipe.load import load_text, resolved_yaml
    from dashdeploy.recipe.schema import Recipe

    recipe = Recipe.model_validate(stages.read_stage(run_folder / "student").manifest["recipe"])
    changes = list(overrides or ())
    changes += [f"bench.quality.features={features}"] if features else []
    changes += [f"bench.quality.features_weights={weights}"] if weights else []
    changed = load_text(resolved_yaml(recipe), name=str(run_folder), overrides=changes)
    kept = {"bench", "sampling"}
    if changed.model_dump(exclude=kept) != recipe.model_dump(exclude=kept):
        raise UserError("bench: --set can change the bench and sampling sections only; the rest made the student")
    stage = bench_stage(run_folder, changed, fresh=fresh)
    if as_json:
        print((stage.folder / "bench.json").read_text(), end="")
    else:
        show(stage.folder)


_Record = "A record: a bench.json, a bench folder, or a run folder."


@bench.command(DIFF)
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=f"{_Record} What B is held against.")],
    b: Annotated[Path, typer.Argument(metavar="B", help=_Record)],
    *,
    max_slowdown: Annotated[
        float, typer.Option("--max-slowdown", metavar="RATIO", help="Largest median latency of B over A's.")
    ] = 1.10,
    max_fid_increase: Annotated[
        float, typer.Option("--max-fid-increase", metavar="SHARE", help="Largest increase of FID, as a share of A's.")
    ] = 0.05,
    max_gap_error_increase: Annotated[
        float,
        typer.Option(
            "--max-gap-error-increase", metavar="X", help="Largest increase of the guidance gap's relative error."
        ),
    ] = 0.02,
    max_memory_increase: Annotated[
        float,
        typer.Option("--max-memory-increase", metavar="SHARE", help="Largest increase of peak memory, as a share."),
    ] = 0.10,
    max_size_increase: Annotated[
        float, typer.Option("--max-size-increase", metavar="SHARE", help="Largest increase of file size, as a share.")
    ] = 0.05,
    only_beyond: Annotated[
        bool,
        typer.Option("--only-beyond", help="Fail only where a figure is past its limit and beyond the intervals too."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two benchmark records: latency, FID and KID, guidance gap, size and memory of B against A.

    Exit code 0: no figure is past its limit.

    Exit code 1: at least one is; each is marked as a regression.

    Exit code 2: they cannot be compared. Recipe, steps, guidance, number of images and feature network must agree,
    and on one machine threads and batch sizes too; records of two machines are compared without times and memory.

    A change is beyond the intervals where its own 95 % interval, from those of both records, leaves out no change.
    """
    import json

    from dashdeploy.bench.record.diff import Limits, compare, find
    from dashdeploy.bench.report.diff_tables import diff_tables, summary
    from dashdeploy.bench.report.show import print_tables
    from dashdeploy.bench.report.table import to_rich

    limits = Limits(
        max_slowdown=max_slowdown,
        max_fid_increase=max_fid_increase,
        max_gap_error_increase=max_gap_error_increase,
        max_memory_increase=max_memory_increase,
        max_size_increase=max_size_increase,
    )
    found = compare(find(a), find(b), limits, names=(str(a), str(b)), only_beyond=only_beyond)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        print(f"A: {found.a}\nB: {found.b}")
        print("".join(f"{note}\n" for note in found.notes), end="")
        print_tables([to_rich(table) for table in diff_tables(found)])
        print(summary(found))
    if found.regressions:
        raise typer.Exit(1)

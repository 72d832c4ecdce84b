"""A front of quality against latency as a table, as a plot, and as files."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.lines import Line2D

from dashdeploy.bench.record.front import Front, Point
from dashdeploy.bench.report.columns import EVALUATIONS, estimate
from dashdeploy.errors import writing
from dashdeploy.files import write_whole
from dashdeploy.report.cells import count
from dashdeploy.report.plots import INK, MARKERS, SERIES, log_x, on_white, panel, scale_y
from dashdeploy.report.table import Table, escape, plain, to_markdown

NAME = "front"


def front_table(front: Front, *, bold: bool = False) -> Table:
    """A row for each model, from the fastest to the slowest.

    Args:
        bold: set the best ones in bold, for Markdown.
    """
    headings = ("Run", "Model", "Parameters", "Steps", EVALUATIONS, "ms an image [95 %]", "FID [95 %]", "On the front")
    rows = [
        (
            point.run,
            f"**{point.label}**" if bold and point.best else point.label,
            count(point.parameters),
            count(point.steps),
            count(point.evaluations),
            estimate(point.ms),
            estimate(point.fid),
            "yes" if point.best else "",
        )
        for point in front.points
    ]
    return plain(_title(front), headings, rows, text_columns=(0, 1, 7))


def _title(front: Front) -> str:
    title = (
        f"Quality against latency, each with its own steps: batch {front.batch_size}, {front.threads} threads; FID of "
        f"{front.num_images} images at {front.guidance}"
    )
    timed = ", ".join(front.timed_at)
    return title if timed == front.guidance else f"{title}, times at {timed}"


def front_plot(front: Front) -> str:
    """FID against the time of an image; a colour for each run, a marker for each kind of model.

    A line connects the best ones, which are filled. Beside each mark stand its evaluations an image.
    """
    runs = list(dict.fromkeys(point.run for point in front.points if not point.is_teacher))
    kinds = list(dict.fromkeys(point.model for point in front.points if not point.is_teacher))

    def color(point: Point) -> str:
        return INK if point.is_teacher else SERIES[runs.index(point.run) % len(SERIES)]

    def marker(point: Point) -> str:
        return "*" if point.is_teacher else MARKERS[kinds.index(point.model) % len(MARKERS)]

    with panel(NAME, f"FID at {front.guidance} (lower is better)") as (ax, finish):
        best = [point for point in front.points if point.best]
        ax.plot([p.ms.value for p in best], [p.fid.value for p in best], color=INK, linewidth=1.0, zorder=2)
        for point in front.points:
            place = (point.ms.value, point.fid.value)
            ax.plot(
                *([value] for value in place),
                linestyle="none",
                color=color(point),
                marker=marker(point),
                markersize=9 if point.is_teacher else 6,
                markerfacecolor=color(point) if point.best else "none",
                zorder=4 if point.best else 3,
            )
            if point.evaluations is not None:
                ax.annotate(
                    str(point.evaluations), place, (0, 6), textcoords="offset points", ha="center", fontsize=7.5
                )
        log_x(ax)
        ax.margins(x=0.12, y=0.12)
        if scale_y(ax, [point.fid.value for point in front.points]) == "linear":
            ax.set_ylim(top=1.12 * max(point.fid.value for point in front.points))
        counted = any(point.evaluations is not None for point in front.points)
        numbers = "; the numbers are evaluations an image" if counted else ""
        ax.set_xlabel(f"ms an image at batch {front.batch_size}{numbers}")
        labels = {point.model: point.label for point in reversed(front.points)}
        handles = [_mark(INK, "*", "teacher")] if any(point.is_teacher for point in front.points) else []
        if len(runs) > 1:
            handles += [_mark(SERIES[i % len(SERIES)], "o", run) for i, run in enumerate(runs)]
            handles += [_mark(INK, MARKERS[i % len(MARKERS)], labels[kind]) for i, kind in enumerate(kinds)]
        else:
            handles += [_mark(SERIES[0], MARKERS[i % len(MARKERS)], labels[kind]) for i, kind in enumerate(kinds)]
        return finish(handles)


def _mark(color: str, marker: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="none", color=color, marker=marker, markersize=6, label=label)


def write_front(front: Front, folder: Path) -> None:
    """front.json, front.md and front.svg in `folder`, each whole or not at all.

    Raises:
        UserError: the folder or a file cannot be written.
    """
    table = front_table(front, bold=True)
    lines = (
        f"**{escape(table.title)}**",
        to_markdown(table),
        f"Bold: no other model here is as fast and as good. FID in features of {escape(front.features)}.",
        f"![FID against the time of an image]({NAME}.svg)",
    )
    with writing(folder, named=True):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{NAME}.json", json.dumps(front.as_dict(), indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / f"{NAME}.svg", on_white(front_plot(front)))
    write_whole(folder / f"{NAME}.md", "\n\n".join(lines) + "\n")

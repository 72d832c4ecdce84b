"""FID against latency as an SVG file, from a result of front.py: python benchmarks/front_plot.py RESULT.json OUT.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D

from dashdeploy.bench.record.record import SOLVER_LABELS
from dashdeploy.report.plots import INK, MARKERS, SERIES, log_x, on_white, panel


def plot(result: dict[str, Any]) -> str:
    """A line for each guidance (colour) and solver (solid, dashed); a point for each number of steps."""
    guidances = list(dict.fromkeys(row["guidance"] for row in result["rows"]))
    solvers = list(dict.fromkeys(row["solver"] for row in result["rows"]))
    with panel("front", "FID (lower is better)") as (ax, finish):
        for i, guidance in enumerate(guidances):
            for j, solver in enumerate(solvers):
                rows = [row for row in result["rows"] if (row["guidance"], row["solver"]) == (guidance, solver)]
                x, y = [row["median_ms"] for row in rows], [row["fid"] for row in rows]
                line: dict[str, Any] = {"color": SERIES[i], "linestyle": "--" if j else "-", "linewidth": 1.5}
                ax.plot(x, y, marker=MARKERS[j], markerfacecolor="white" if j else SERIES[i], markersize=5, **line)
                for row in rows:
                    text, place = str(row["num_inference_steps"]), (row["median_ms"], row["fid"])
                    below = -11 if j else 5
                    ax.annotate(text, place, (0, below), textcoords="offset points", ha="center", fontsize=7.5)
        log_x(ax)
        ax.margins(y=0.1)
        ax.set_ylim(bottom=0)
        ax.set_xlabel(f"median time of a batch of {result['batch_size']} (ms); the numbers are steps")
        lines = [Line2D([], [], color=SERIES[i], label=guidance) for i, guidance in enumerate(guidances)]
        lines += [
            Line2D(
                [],
                [],
                color=INK,
                marker=MARKERS[j],
                markersize=5,
                markerfacecolor="white" if j else INK,
                linestyle="--" if j else "-",
                label=SOLVER_LABELS[solver],
            )
            for j, solver in enumerate(solvers)
        ]
        return on_white(finish(lines))


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(plot(json.loads(Path(sys.argv[1]).read_text())))

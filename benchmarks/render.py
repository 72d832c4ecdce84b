"""Render the committed benchmark records into the README and the pages of docs/, each between its markers.

    <!-- results:begin NAME -->  …  <!-- results:end NAME -->

    python benchmarks/render.py            # rewrite them
    python benchmarks/render.py --check    # exit 1 if one is stale

NAME is a record's file name in benchmarks/results without `.json`. Of a record of `dashdeploy bench`, NAME-overview is
the main tables, and NAME-short one of four columns.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import serving_tables
import speed_tables

from dashdeploy.bench.record.record import Record, parse
from dashdeploy.bench.report.markdown import markdown_overview, markdown_results
from dashdeploy.bench.report.overview import overview_table
from dashdeploy.errors import UserError, unknown
from dashdeploy.report.table import Table, to_markdown

RENDERERS = speed_tables.RENDERERS | serving_tables.RENDERERS
ROOT = Path(__file__).resolve().parent.parent
SHORT = ("Model", "Images/s", "FID [95 %]", "Gap error")
MARKER = re.compile(r"^<!-- results:(begin|end) (\S+) -->$", re.MULTILINE)


def find_results(folder: Path) -> dict[str, str]:
    """The Markdown of a folder's results by file stem; JSON files of another kind (baselines) are left out.

    Raises:
        UserError: a file that is not JSON, or a damaged record.
    """
    results = {}
    for path in sorted(folder.glob("*.json")):
        text = path.read_text(encoding="utf-8")
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error})") from error
        if isinstance(content, dict) and {"models", "latency"} <= content.keys():
            record = parse(text, source=str(path))
            results[path.stem] = markdown_results(record)
            results[f"{path.stem}-overview"] = markdown_overview(record)
            results[f"{path.stem}-short"] = markdown_short(record)
        # The longest that fits: triton-steps is not a triton.
        if begin := max(filter(path.stem.startswith, RENDERERS), key=len, default=""):
            results[path.stem] = RENDERERS[begin](content)
    return results


def markdown_short(record: Record) -> str:
    """One table of four columns, for readers who have not seen the project."""
    overview = overview_table(record)
    columns = [overview.headings.index(heading) for heading in SHORT if heading in overview.headings]

    def pick(cells: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(cells[column] for column in columns)

    rows = tuple(pick(row) for row in overview.rows)
    table = Table("", pick(overview.headings), pick(overview.meanings), pick(overview.numeric), rows)
    where = record.machine.gpu or f"{record.machine.cores} CPU cores"
    title = overview.title.removeprefix("Overview at ")
    return f"Recipe `{record.recipe}` at {title}, on {where}:\n\n{to_markdown(table)}\n"


def render(page: str, results: dict[str, str], *, name: str = "README.md") -> str:
    """A page with the part between each pair of markers made anew; `name` is what errors call it.

    Raises:
        UserError: a marker of an unknown record, or one without its partner.
    """
    marks = list(MARKER.finditer(page))
    parts, done = [], 0
    for i in range(0, len(marks), 2):
        begin, end = marks[i], marks[i + 1] if i + 1 < len(marks) else None
        if begin[1] != "begin" or end is None or end[1] != "end" or end[2] != begin[2]:
            line = page.count("\n", 0, begin.start()) + 1
            raise UserError(f"{name} line {line}: {begin[0]} is not one of a begin and end pair; write both, in order")
        if begin[2] not in results:
            raise unknown(f"benchmark record in {name}", begin[2], results)
        parts += [page[done : begin.end()], "\n\n", results[begin[2]], "\n"]
        done = end.start()
    return "".join([*parts, page[done:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """0: fresh or rewritten; 1: stale, with --check; 2: a mistake, told in one line."""
    parser = argparse.ArgumentParser(description="Render the committed benchmark records into the README and docs/.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is stale")
    parser.add_argument(
        "--readme", type=Path, nargs="+", default=[ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    stale = False
    try:
        results = find_results(options.results)
        for path in options.readme:
            old = path.read_text(encoding="utf-8")
            new = render(old, results, name=path.name)
            if new == old:
                continue
            stale = True
            if options.check:
                print(f"{path} is stale. Run: python benchmarks/render.py", file=sys.stderr)
            else:
                path.write_text(new, encoding="utf-8")
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(stale and options.check)


if __name__ == "__main__":
    sys.exit(main())

"""Render the committed benchmark records into the README and the pages of docs/, each between its markers.

    <!-- results:begin NAME -->  …  <!-- results:end NAME -->

    python benchmarks/render.py            # rewrite them
    python benchmarks/render.py --check    # exit 1 if one is stale

NAME is a record's file name in benchmarks/results without `.json`; NAME-overview is its short form.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from speed_tables import RENDERERS

from dashdeploy.bench.record.record import parse
from dashdeploy.bench.report.markdown import markdown_overview, markdown_results
from dashdeploy.errors import UserError, unknown

ROOT = Path(__file__).resolve().parent.parent
MARKER = re.compile(r"^<!-- results:(begin|end) (\S+) -->$", re.MULTILINE)


def find_results(folder: Path) -> dict[str, str]:
    """The Markdown of a folder's results by file stem; JSON files of another kind (baselines) are left out.

    Raises:
        UserError: a file that is not JSON, or a damaged record.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        text = path.read_text(encoding="utf-8")
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error})") from error
        if isinstance(content, dict) and {"models", "latency"} <= content.keys():
            record = parse(text, source=str(path))
            found[path.stem], found[f"{path.stem}-overview"] = markdown_results(record), markdown_overview(record)
        for begin, renderer in RENDERERS.items():
            if path.stem.startswith(begin):
                found[path.stem] = renderer(content)
    return found


def render(readme: str, results: dict[str, str]) -> str:
    """The README with the part between each pair of markers made anew.

    Raises:
        UserError: a marker of an unknown record, or one without its partner.
    """
    marks = list(MARKER.finditer(readme))
    parts, done = [], 0
    for i in range(0, len(marks), 2):
        begin, end = marks[i], marks[i + 1] if i + 1 < len(marks) else None
        if begin[1] != "begin" or end is None or end[1] != "end" or end[2] != begin[2]:
            line = readme.count("\n", 0, begin.start()) + 1
            raise UserError(f"README line {line}: {begin[0]} is not one of a begin and end pair; write both, in order")
        if begin[2] not in results:
            raise unknown("benchmark record in the README", begin[2], results)
        parts += [readme[done : begin.end()], "\n\n", results[begin[2]], "\n"]
        done = end.start()
    return "".join([*parts, readme[done:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """0: fresh or rewritten; 1: stale, with --check; 2: a mistake, told in one line."""
    parser = argparse.ArgumentParser(description="Render the committed benchmark records into the README.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is stale")
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
            new = render(old, results)
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

"""Keep a finished comparison: python benchmarks/keep_comparison.py runs/ablation-digits

Copies its compare.json to benchmarks/results/<name>.json, from which render.py makes its tables, and draws its plots
into docs/<name>-fid.svg and docs/<name>-gap.svg. The name has to begin with
`ablation-` or `few-`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dashdeploy.compare import plots
from dashdeploy.compare.summary import parse
from dashdeploy.errors import UserError
from dashdeploy.report.plots import on_white

ROOT = Path(__file__).resolve().parent.parent


def keep(run: Path, *, results: Path, docs: Path) -> list[Path]:
    """The files that were written.

    Raises:
        UserError: no finished comparison, or one whose name has no renderer.
    """
    path = run / "compare.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file. `dashdeploy compare` writes it when all of its runs are there.")
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    name = content["comparison"]["name"]
    if not name.startswith(("ablation-", "few-")):
        raise UserError(f"{path}: comparison {name!r}: render.py takes names that begin with ablation- or few-")
    written = {results / f"{name}.json": text}
    written |= {docs / f"{name}-{kind}.svg": on_white(svg) for kind, svg in plots.all_of(parse(content)).items()}
    for file, content in written.items():
        file.write_text(content, encoding="utf-8")
    return list(written)


def main(arguments: list[str] | None = None) -> int:
    """0, or 2: a mistake, told in one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args(arguments)
    try:
        for path in keep(options.run, results=options.results, docs=options.docs):
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

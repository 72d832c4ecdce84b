"""Bench records that are broken, read by `diff` and compared with what the whole record gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.torture.campaign import campaign, verdict
from tests.torture.harness import Outcome, command
from tests.torture.mutate import texts, trees

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def compared(content: bytes, folder: Path) -> Outcome:
    (folder / "a.json").write_bytes((RESULTS / "digits.json").read_bytes())
    (folder / "b.json").write_bytes(content)
    return command(["diff", "a.json", "b.json", *LOOSE], cwd=folder)


LOOSE = [f"--max-{what}=1e9" for what in ("slowdown", "fid-increase", "gap-error-increase", "memory-increase")]
LOOSE += ["--max-size-increase=1e9"]


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads((RESULTS / "digits.json").read_text())


def test_records(record: dict[str, Any], tmp_path: Path, warm: None) -> None:
    def judge(content: bytes, folder: Path) -> str:
        outcome = compared(content, folder)
        if outcome.code == 1 and "Traceback" not in outcome.stderr and "regression" in outcome.stdout:
            return "regression"  # a figure that is worse is what `diff` is for
        return verdict(outcome)

    text = json.dumps(record, indent=1)
    cases = trees(record).map(lambda tree: json.dumps(tree).encode()) | texts(text)
    campaign("bench records, by diff", cases, judge, folder=tmp_path, whole=200, few=10)


def test_tables_and_report_of_records(record: dict[str, Any], tmp_path: Path, warm: None) -> None:
    """What is read is also rendered: tables, and the page."""
    from dashdeploy.bench.record.record import parse
    from dashdeploy.bench.report import markdown
    from tests.torture.harness import call

    def judge(tree: Any, folder: Path) -> str:
        def rendered() -> None:
            read = parse(json.dumps(tree))
            markdown.markdown_results(read)
            markdown.markdown_overview(read)

        return verdict(call(rendered, cwd=folder))

    campaign("bench records, rendered", trees(record), judge, folder=tmp_path, whole=150, few=8)

"""Comparisons: the real command on tiny models, resumed and sharded, with one teacher and one bank for all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dashdeploy.cli.app import main

COMPARISON = """
name: small
recipe: {recipe}
seeds: [1]
set: {{bench.quality.guidance: [1.0, 2.0], distill.teacher_bank: 64}}
variants:
  scratch: {{label: from scratch, set: {{distill.objective: {{kind: scratch}}}}}}
  dash: {{label: DASH}}
  no-un: {{label: without L_un, set: {{distill.objective: {{kind: dash, unconditional: 0}}}}}}
shares: {{full: dash, baseline: scratch, without: {{unconditional: no-un}}}}
"""


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.fixture
def small(tiny_yaml: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(COMPARISON.format(recipe=tiny_yaml))
    return path


@pytest.mark.slow
def test_it_trains_and_measures_every_variant_and_resumes(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    code, out, err = call(capsys, small, "--run-dir", runs, "--shard", "1/2")
    assert (code, out) == (0, "")
    assert "[1/3] scratch, seed 1" in err and "[3/3] no-un, seed 1" in err and "[2/3]" not in err
    assert "not finished by other shards: dash seed 1" in err
    made = {path: path.stat().st_mtime_ns for path in runs.rglob("manifest.json")}

    code, out, err = call(capsys, small, "--run-dir", runs, "--json")
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in made} == made, "finished runs are not made again"
    summary = json.loads(out)
    rows = {row["name"]: row for row in summary["rows"]}
    assert list(rows) == ["teacher", "scratch", "dash", "no-un"]
    assert set(rows["dash"]["fid"]) == {"w=1", "w=2"}
    assert rows["dash"]["parameters"] == 11797 and rows["dash"]["images_seen"] == 12 * 16
    assert len(rows["dash"]["gap_by_t"]) == 4

    root = runs / "small"
    assert (root / "teacher" / "manifest.json").is_file()
    teachers = {json.loads(p.read_text())["inputs"]["teacher"] for p in root.glob("*/seed1/student/manifest.json")}
    assert len(teachers) == 1
    assert len(list((root / ".banks").iterdir())) == 1, "dash and no-un share one bank"
    kept = json.loads((root / "compare.json").read_text())
    assert kept["rows"] == summary["rows"] and kept["comparison"]["name"] == "small"
    text = (root / "compare.md").read_text()
    assert re.search(r"\| DASH \| [\d.]+ \| [\d.]+ \|", text)
    for name in ("fid.svg", "gap.svg"):
        assert (root / name).read_text().startswith("<svg")


def test_a_dry_run_prints_the_order_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path
) -> None:
    code, out, _ = call(capsys, small, "--run-dir", tmp_path / "runs", "--dry-run")
    assert (code, out) == (0, "scratch  seed 1\ndash  seed 1\nno-un  seed 1\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], small: Path, shard: str) -> None:
    code, _, err = call(capsys, small, "--shard", shard)
    assert code == 2
    assert err == f"error: --shard {shard!r}: expected I/N with 1 ≤ I ≤ N, as in 2/4\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("kind: scratch", "kind: scratchh"), "variant scratch: .*did you mean 'scratch'"),
        (("unconditional: 0", "unconditionall: 0"), "variant no-un: .*unconditionall: unknown key"),
        (("full: dash", "full: dashh"), "shares: unknown variant 'dashh'. Did you mean 'dash'"),
        (("seeds: [1]", "seeds: [1, 1]"), "seeds: value 1 .* repeats value 0"),
        (("variants:", "variantss:"), "not a comparison"),
        (("name: small", "name: Small Thing"), "name: must match"),
    ],
)
def test_what_is_not_valid_is_told_before_anything_runs(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    small.write_text(small.read_text().replace(*change))
    code, _, err = call(capsys, small, "--run-dir", tmp_path / "runs")
    assert code == 2
    assert re.search(expected, err, re.DOTALL), err
    assert not (tmp_path / "runs").exists()

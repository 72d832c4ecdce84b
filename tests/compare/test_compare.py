"""Comparisons: the real command on tiny models, resumed and sharded, with one teacher and one bank for all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dashdeploy.cli.app import main

pytestmark = pytest.mark.slow

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
    assert len(list(root.glob(".teachers/*/teacher/manifest.json"))) == 1
    teachers = {json.loads(p.read_text())["inputs"]["teacher"] for p in root.glob("*/seed1/student/manifest.json")}
    assert len(teachers) == 1
    assert len(list((root / ".banks").glob("*.safetensors"))) == 1, "dash and no-un share one bank"
    kept = json.loads((root / "compare.json").read_text())
    assert kept["rows"] == summary["rows"] and kept["comparison"]["name"] == "small"
    record = json.loads((root / "dash" / "seed1" / "bench" / "bench.json").read_text())
    assert record["latency"] == [] and record["models"]["student"]["peak_rss_mib"] is None, "it is of quality alone"
    assert "Memory (MiB)" not in (root / "dash" / "seed1" / "bench" / "report.html").read_text()
    text = (root / "compare.md").read_text()
    assert re.search(r"\| DASH \| [\d.]+ \| [\d.]+ \|", text)
    assert record["quality"]["seeds"] == [1], "the training's own seed"
    assert len(rows["teacher"]["fid"]) == 2
    for name in ("fid.svg", "gap.svg"):
        assert (root / name).read_text().startswith("<svg")

    small.write_text(
        small.read_text().replace("teacher_bank: 64", "teacher_bank: 64, distill.steps: 10, bench.fidelity.bins: 2")
    )
    code, out, err = call(capsys, small, "--run-dir", runs, "--shard", "1/2", "--fresh", "--threads", "1")
    assert (code, out) == (0, ""), "the other shard's run is of the comparison as it was"
    assert "dash seed 1 (finished with other values: bench.fidelity.bins 4 → 2; distill.steps 12 → 10)" in err
    assert "scratch seed 1" not in err.splitlines()[-1]
    code, out, err = call(capsys, small, "--run-dir", runs, "--shard", "2/2", "--fresh", "--json")
    assert code == 0 and {row["images_seen"] for row in json.loads(out)["rows"]} == {0, 10 * 16}, err

    small.write_text(small.read_text().replace("teacher_bank: 64", "teacher_bank: 64, distill.learning_rate: 0.5"))
    code, _, err = call(capsys, small, "--run-dir", runs)
    assert code == 2 and "3 problems, and nothing was started:" in err and "variant scratch: " in err
    assert "finished with other values: distill.learning_rate 0.0002 → 0.5. Pass --fresh" in err


OWN_TEACHERS = """
name: own
recipe: {recipe}
seeds: [1]
set: {{bench.quality.guidance: [1.0], sampling.guidance: 1.0}}
variants:
  tirt: {{label: TIRT}}
  mixed: {{label: TIRT teacher, set: {{distill.timestep_weights.kind: uniform}}}}
  uniform: {{label: uniform, set: {{teach.timestep_weights.kind: uniform, distill.timestep_weights.kind: uniform}}}}
"""


def test_variants_that_teach_otherwise_have_a_teacher_of_their_own_made_once_by_two_shards(
    capsys: pytest.CaptureFixture[str], tiny_yaml: Path, tmp_path: Path
) -> None:
    path, runs = tmp_path / "own.yaml", tmp_path / "runs"
    path.write_text(OWN_TEACHERS.format(recipe=tiny_yaml))
    command = [sys.executable, "-m", "dashdeploy", "compare", str(path), "--run-dir", str(runs), "--threads", "1"]
    # Both begin with a student of the same teacher.
    shards = [subprocess.Popen([*command, "--shard", f"{i}/2"], stderr=subprocess.PIPE, text=True) for i in (1, 2)]
    ended = [(shard.communicate(timeout=300)[1], shard.returncode) for shard in shards]
    assert [code for _, code in ended] == [0, 0], ended
    assert (runs / "own" / "compare.md").is_file(), "the last shard sums up"
    made = {p: p.stat().st_mtime_ns for p in runs.rglob("manifest.json")}

    code, out, err = call(capsys, path, "--run-dir", runs, "--threads", "1", "--json")
    assert code == 0, err
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("manifest.json")} == made, "nothing is made again"
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert {name: row["teacher"] for name, row in rows.items()} == {
        "teacher:tirt": None,
        "teacher:uniform": None,
        "tirt": "teacher:tirt",
        "mixed": "teacher:tirt",
        "uniform": "teacher:uniform",
    }
    teachers = [json.loads(p.read_text()) for p in runs.glob("own/.teachers/*/teacher/manifest.json")]
    assert [t["seed"] for t in teachers] == [1, 1], "the comparison's first seed, whatever the student's"
    assert rows["tirt"]["weight_by_decile"] == pytest.approx(rows["teacher:tirt"]["weight_by_decile"], abs=1e-6)
    assert rows["tirt"]["starved"] and not rows["uniform"]["starved"] and not rows["mixed"]["starved"]
    assert "teacher of TIRT" in (runs / "own" / "compare.md").read_text()


def test_a_change_of_the_teaching_of_a_ready_teacher_is_refused(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path
) -> None:
    small.write_text(small.read_text().replace("label: DASH}", "label: DASH, set: {teach.steps: 9, teacher.path: x}}"))
    code, _, err = call(capsys, small, "--run-dir", tmp_path / "runs")
    assert code == 2
    assert f"variant dash: it changes teach.steps, and its teacher is ready: teacher.path '{tmp_path / 'x'}'" in err


def test_a_dry_run_prints_the_order_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path
) -> None:
    code, out, _ = call(capsys, small, "--run-dir", tmp_path / "runs", "--dry-run")
    assert code == 0
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["scratch  seed 1", "dash  seed 1", "no-un  seed 1"]
    assert all("→ 11,797 parameters" in line for line in lines)
    assert not (tmp_path / "runs").exists()
    _, second, _ = call(capsys, small, "--run-dir", tmp_path / "runs", "--dry-run", "--shard", "2/2")
    assert second.splitlines() == lines[1::2]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_student_that_cannot_be_made_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path, more: list[str]
) -> None:
    other = "architecture: {block_out_channels: [8, 8], norm_num_groups: 2}, init: {kind: pruned}"
    changed = f"label: DASH, set: {{student: {{compression: null, {other}}}}}}}"
    small.write_text(small.read_text().replace("label: DASH}", changed))
    code, _, err = call(capsys, small, "--run-dir", tmp_path / "runs", *more)
    assert code == 2
    assert err.startswith("error: variant dash: student.init pruned: the student cannot be cut out of its teacher")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], small: Path, shard: str) -> None:
    code, _, err = call(capsys, small, "--shard", shard)
    assert code == 2
    assert err == f"error: --shard {shard!r}: expected I/N with 1 ≤ I ≤ N, as in 2/4\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("kind: scratch", "kind: scratchh"),
            r"variant scratch: .*small\.yaml line 7: distill\.objective\.kind: .*did you mean 'scratch'",
        ),
        (
            ("unconditional: 0", "unconditionall: 0"),
            r"variant no-un: .*small\.yaml line 9: distill\.objective\.unconditionall: unknown key",
        ),
        (("teacher_bank: 64", "teacher_bank: -1"), r"small\.yaml line 5: distill\.teacher_bank: must be ≥ 0, got -1"),
        (("full: dash", "full: dashh"), "shares: unknown variant 'dashh'. Did you mean 'dash'"),
        (("shares:", "closes: dsh\nshares:"), "closes: unknown variant 'dsh'. Did you mean 'dash'"),
        (("seeds: [1]", "seeds: [1, 1]"), "seeds: value 1 .* repeats value 0"),
        (("variants:", "variantss:"), "not a comparison"),
        (("name: small", "name: Small Thing"), "name: must be a name of small letters"),
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


CHAIN = """
name: chain
recipe: {recipe}
seeds: [1]
set:
  student: {{branches: 1, prediction_type: v_prediction}}
  distill.objective: {{kind: segments, steps: [4, 2], teacher_steps: 1}}
  distill.timestep_weights.kind: uniform
  distill.steps: 3
  bench: {{teacher_steps: 6, quality: {{guidance: [2.0], num_images: 20}}}}
variants:
  two: {{label: "two steps", train_as: four, set: {{sampling.num_inference_steps: 2}}}}
  four: {{label: four steps, start: guided}}
  guided: {{label: guided, set: {{distill.objective: {{kind: guided}}}}}}
"""


@pytest.fixture
def chain(tiny_yaml: Path, tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN.format(recipe=tiny_yaml))
    return path


def test_a_variant_begins_with_anothers_student_and_one_student_is_measured_at_several_steps(
    capsys: pytest.CaptureFixture[str], chain: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    code, out, err = call(capsys, chain, "--run-dir", runs, "--dry-run")
    assert code == 0, err
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["guided  seed 1", "four  seed 1", "two  seed 1"]
    assert lines[1].endswith("beginning as the student of guided") and lines[2].endswith("the student of four")

    code, out, err = call(capsys, chain, "--run-dir", runs, "--json")
    assert code == 0, err
    root = runs / "chain"
    manifests = {
        name: json.loads((root / name / "seed1/student/manifest.json").read_text()) for name in ("four", "two")
    }
    assert manifests["four"]["recipe"]["student"]["init"]["path"] == str(root / "guided/seed1")
    assert manifests["two"] == manifests["four"] and (root / "two/seed1/student").is_symlink()
    rows = {row["name"]: (row["steps"], row["evaluations"]) for row in json.loads(out)["rows"]}
    # The teacher of few-step students samples in bench.teacher_steps, that of the others in the recipe's.
    assert rows == {
        "teacher:two": (6, 12),
        "teacher:guided": (4, 8),
        "two": (2, 2),
        "four": (4, 4),
        "guided": (4, 4),
    }
    text = (root / "compare.md").read_text()
    assert "|  | Steps | Evaluations an image | FID, w=2 |" in text and "| teacher, 6 steps | 6 | 12 |" in text

    made = {p: p.stat().st_mtime_ns for p in runs.rglob("manifest.json")}
    code, _, err = call(capsys, chain, "--run-dir", runs)
    assert code == 0, err
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("manifest.json")} == made, "nothing is made again"


def test_a_student_is_fine_tuned_as_the_one_that_it_begins_as(
    capsys: pytest.CaptureFixture[str], chain: Path, tmp_path: Path
) -> None:
    matched = (
        "matched: {label: m, start: four, set: {distill.objective: {kind: distribution_matching, fake_updates: 3, "
        "steps: STEPS}}}"
    )
    for steps, expected in (
        ("[4, 2]", None),
        ("[4]", "makes 4 or 2 steps, and its distill.objective.steps asks for 4: "),
    ):
        other = chain.with_name("other.yaml")
        other.write_text(chain.read_text() + f"  {matched.replace('STEPS', steps)}\n")
        code, out, err = call(capsys, other, "--run-dir", tmp_path / "runs", "--dry-run")
        if expected is None:
            assert code == 0, err
            assert out.splitlines()[-1].endswith("beginning as the student of four")
        else:
            assert code == 2 and expected in err


def test_a_consistency_student_is_no_start_of_distribution_matching(
    capsys: pytest.CaptureFixture[str], chain: Path, tmp_path: Path
) -> None:
    chain.write_text(
        chain.read_text()
        .replace("{kind: segments, steps: [4, 2], teacher_steps: 1}", "{kind: consistency, steps: [4, 2]}")
        .replace("set:\n", "set:\n  sampling: {solver: consistency, num_inference_steps: 4}\n", 1)
        .replace("objective: {kind: guided}", "objective: {kind: guided}, sampling.solver: ddim")
        + "  matched: {label: m, start: four, set: {sampling.solver: ddim, distill.objective: "
        "{kind: distribution_matching, steps: [4, 2], fake_updates: 3}}}\n"
    )
    code, _, err = call(capsys, chain, "--run-dir", tmp_path / "runs", "--dry-run")
    assert code == 2
    assert "variant matched: distribution_matching fine-tunes the student of four, which samples by the solver " in err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("start: guided", "start: gided"), "variants.four.start: unknown variant 'gided'. Did you mean 'guided'"),
        (("label: guided", "label: guided, start: two"), "two → four → guided → two: a circle of start and train_as"),
        (
            ("label: guided", "label: guided, start: four, train_as: four"),
            "start trains a student and train_as takes one",
        ),
        (("start: guided", "train_as: guided"), "variants.two.train_as: four has the student of another variant"),
        (
            ("sampling.num_inference_steps: 2", "distill.steps: 2"),
            "variant two: it has the student of four, .* distill",
        ),
        (("start: guided", "start: guided, set: {student.init.kind: random}"), "variant four: it changes student.init"),
        (
            ("kind: guided}", "kind: guided, w_max: 5}"),
            "variant four, two: start guided: its student has one branch for",
        ),
        (
            (
                "{kind: segments, steps: [4, 2], teacher_steps: 1}",
                "{kind: distribution_matching, steps: [4, 2], fake_updates: 3}",
            ),
            "variant (four|two): distribution_matching fine-tunes the student of guided, which makes any number of",
        ),
    ],
)
def test_a_chain_of_students_that_cannot_be_is_told_before_anything_runs(
    capsys: pytest.CaptureFixture[str], chain: Path, tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    chain.write_text(chain.read_text().replace(*change))
    code, _, err = call(capsys, chain, "--run-dir", tmp_path / "runs")
    assert code == 2
    assert re.search(expected, err), err
    assert not (tmp_path / "runs").exists()

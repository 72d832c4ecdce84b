"""benchmarks/: what a comparison, the training race and the cost estimate become as tables and pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from dashdeploy.cli.app import main
from dashdeploy.compare.summary import parse
from dashdeploy.compare.tables import markdown
from dashdeploy.report.plots import on_white
from dashdeploy.training.batches import Batch
from tests.scripts import load

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
COMPARISON = """
name: ablation-small
recipe: {recipe}
seeds: [0]
set: {{distill.steps: 20, bench.quality.guidance: [1.0, 2.0], distill.teacher_bank: 64}}
variants:
  scratch: {{label: from scratch, set: {{distill.objective: {{kind: scratch}}}}}}
  dash: {{label: DASH}}
  no-un: {{label: without L_un, set: {{distill.objective: {{kind: dash, unconditional: 0}}}}}}
shares: {{full: dash, baseline: scratch, without: {{unconditional: no-un}}}}
"""


@pytest.fixture(scope="module")
def compared(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real comparison of 20 steps a student."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("compared")
    (folder / "tiny.yaml").write_text(tiny_text)
    (folder / "ablation-small.yaml").write_text(COMPARISON.format(recipe=folder / "tiny.yaml"))
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(folder / "ablation-small.yaml"), "--run-dir", str(folder / "runs")])
    assert not stopped.value.code
    return folder / "runs" / "ablation-small"


@pytest.mark.slow
def test_a_comparison_is_kept_and_rendered_as_its_own_tables(compared: Path, tmp_path: Path) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    docs.mkdir()
    assert (
        load(BENCHMARKS / "keep_comparison.py").main([str(compared), "--results", str(results), "--docs", str(docs)])
        == 0
    )
    kept = json.loads((results / "ablation-small.json").read_text())
    assert markdown(parse(kept)) == (compared / "compare.md").read_text()

    page = docs / "evidence.md"
    page.write_text("# Page\n\n<!-- results:begin ablation-small -->\n<!-- results:end ablation-small -->\n")
    render = load(BENCHMARKS / "render.py")
    options = ["--readme", str(page), "--results", str(results)]
    assert render.main([*options, "--check"]) == 1
    assert render.main(options) == 0
    text = page.read_text()
    assert (compared / "compare.md").read_text() in text
    assert "seed 0; measured on" in text and "| DASH |" in text
    assert render.main([*options, "--check"]) == 0
    for kind in ("fid", "gap"):
        svg = (docs / f"ablation-small-{kind}.svg").read_text()
        assert svg == on_white((compared / f"{kind}.svg").read_text())
        ElementTree.fromstring(svg)


@pytest.mark.slow
def test_a_comparison_without_a_renderer_is_refused(
    compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (compared / "compare.json").read_text().replace('"ablation-small"', '"small"')
    (tmp_path / "compare.json").write_text(text)
    capsys.readouterr()
    assert (
        load(BENCHMARKS / "keep_comparison.py").main(
            [str(tmp_path), "--results", str(tmp_path), "--docs", str(tmp_path)]
        )
        == 2
    )
    assert "names that begin with ablation- or few-" in capsys.readouterr().err


def test_an_unfinished_comparison_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(BENCHMARKS / "keep_comparison.py").main([str(tmp_path)]) == 2
    assert "compare.json: no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_training_race_has_every_way_at_both_precisions(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    options = ["--cases", "digits", "--repeats", "1", "--threads", "1", "--results", str(tmp_path)]
    load(BENCHMARKS / "train_speed.py").main(options)
    torch.set_num_threads(threads)
    result: dict[str, Any] = json.loads((tmp_path / "train-speed.json").read_text())
    found = {(row["stage"], row["precision"], row["way"]): row for row in result["rows"]}
    ways = {"teach": ["plain", "ours"], "distill": ["plain", "live teacher", "bank"]}
    assert set(found) == {(s, p, w) for s, names in ways.items() for p in ("fp32", "bf16") for w in names}
    assert all(row["over_plain"] == 1 for row in result["rows"] if row["way"] == "plain")
    assert result["cases"]["digits"]["bank_uses"] == pytest.approx(140_800 / 28_000)
    lines = [
        x
        for x in load(BENCHMARKS / "speed_tables.py").RENDERERS["train-speed"](result).splitlines()
        if x.startswith("|")
    ]
    assert len(lines) == 2 + len(found) and len({line.count("|") for line in lines}) == 1


def test_the_plain_loop_takes_the_same_loss_as_ours() -> None:
    """On the same draw: two forwards or one, the objective is one."""
    speed = load(BENCHMARKS / "train_speed.py")
    torch.set_num_threads(1)
    case = speed.digits()
    torch.manual_seed(0)
    config = case.recipe.distill.model_copy(update={"batch_size": 4})
    weights = speed.TimestepWeights(config.timestep_weights, case.teacher.interface.schedule)
    step = speed.student_step(case.recipe, case.student, case.teacher, weights, case.data)
    plain = speed.Plain(step.denoiser, case.data, config, weights, teacher=case.teacher)
    x_t, t, y, eps = plain.noised()
    plain.noised = lambda: (x_t, t, y, eps)
    source = speed.live_source(case.recipe, case.data, case.teacher)
    batch = Batch(x_t=x_t, t=t, y=y, target=eps, uniform=torch.rand(4))
    ours = step(source.complete(batch), t).total.item()
    assert plain.distill() == pytest.approx(ours, rel=1e-5)


def test_the_papers_own_operations_are_counted() -> None:
    cost = load(BENCHMARKS / "paper_cost.py")
    result = json.loads((BENCHMARKS / "results" / "paper-cost.json").read_text())
    # arXiv:2606.00798: 1247.8 and 216.3 GFLOP for 50 guided steps.
    assert 100 * result["forward_flop"]["teacher"] == pytest.approx(1247.8e9, rel=0.01)
    assert 100 * result["forward_flop"]["student"] == pytest.approx(216.3e9, rel=0.01)
    assert cost.T4_MS["teacher"] / cost.T4_MS["student"] == pytest.approx(3.62, abs=0.01)

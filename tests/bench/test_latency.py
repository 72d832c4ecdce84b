from __future__ import annotations

import time

import pytest
import torch

from dashdeploy.bench.latency import TwoPass, interleave, speedups
from dashdeploy.bench.record import LatencyRow


def test_calls_take_turns() -> None:
    order: list[str] = []
    interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warm=False)
    assert order == ["a", "b", "a", "b"]


def test_a_turn_is_warmed_up_by_an_untimed_call() -> None:
    pauses = iter([0.05, 0.0] * 3)
    times = interleave({"a": lambda: time.sleep(next(pauses))}, repeats=3)
    assert len(times["a"]) == 3
    assert max(times["a"]) < 0.04


def test_a_call_that_has_used_up_its_time_is_left_out() -> None:
    times = interleave({"slow": lambda: time.sleep(0.03), "fast": lambda: None}, repeats=5, warm=False, budget_s=0.05)
    assert len(times["slow"]) == 2
    assert len(times["fast"]) == 5


def row(model: str, p50: float, branches: str = "batched") -> LatencyRow:
    return LatencyRow(
        model=model, branches=branches, scope="step", batch_size=8,
        p50_ms=p50, p90_ms=p50, p99_ms=p50, mean_ms=p50, repeats=3, images_per_s=1,
    )  # fmt: skip


def test_speedup_is_the_ratio_of_medians_of_batched_runs() -> None:
    rows = [row("teacher", 30), row("teacher", 50, "two-pass"), row("s", 10)]
    assert speedups(rows, slow="teacher", fast="s") == [
        {"slow": "teacher", "fast": "s", "scope": "step", "batch_size": 8, "ratio": pytest.approx(3.0)}
    ]


def test_two_passes_give_the_batched_result(tiny_run) -> None:
    from dashdeploy.teachers import unet2d

    student = unet2d.load(tiny_run / "student")
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = (x, torch.tensor([1, 500, 999]), torch.tensor([0, 5, 9]), torch.tensor([0.0, 1.0, 4.0]))
    with torch.no_grad():
        torch.testing.assert_close(
            TwoPass(student).guided(*arguments), student.guided(*arguments), rtol=1e-4, atol=1e-5
        )

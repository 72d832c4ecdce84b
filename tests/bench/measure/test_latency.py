from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from dashdeploy.bench.measure.latency import TwoPass, interleave, median_interval, row


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


@pytest.mark.parametrize("runs", [1, 5])
def test_too_few_runs_have_no_confidence_interval(runs: int) -> None:
    assert all(math.isnan(v) for v in median_interval(np.arange(runs) + 1.0, seed=0))


def test_the_confidence_interval_of_the_median_covers_it_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    samples = generator.lognormal(sigma=0.5, size=(300, 20))
    intervals = [median_interval(sample, seed=i) for i, sample in enumerate(samples)]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    # The percentile bootstrap of a median at n = 20 covers 0.93 to 0.96; the share's error is 0.013.
    assert 0.89 < covered < 0.99
    assert np.mean([high - low for low, high in intervals]) < 0.8


def test_a_row_holds_the_percentiles_and_the_confidence_interval_in_ms() -> None:
    times = [0.010, 0.011, 0.012, 0.013, 0.014, 0.015, 0.100]
    measured = row(times, "m", "batched", "sampler", 8, plan="recipe", graph="step", evaluations=8, seed=0)
    assert measured.p50_ms == pytest.approx(13) and measured.images_per_s == pytest.approx(8 / 0.013)
    assert 10 <= measured.p50_low_ms < 13 < measured.p50_high_ms <= 100
    assert math.isnan(measured.p90_ms) and math.isnan(measured.p99_ms) and measured.repeats == 7


@pytest.mark.parametrize(("runs", "has_p90", "has_p99"), [(9, False, False), (10, True, False), (100, True, True)])
def test_a_percentile_needs_as_many_runs_as_it_has_a_share_of(runs: int, has_p90: bool, has_p99: bool) -> None:
    times = [0.001 * (i + 1) for i in range(runs)]
    measured = row(times, "m", "batched", "step", 1, plan=None, graph=None, evaluations=2, seed=0)
    assert math.isfinite(measured.p90_ms) is has_p90 and math.isfinite(measured.p99_ms) is has_p99
    if has_p99:
        assert (measured.p90_ms, measured.p99_ms) == (pytest.approx(90.1), pytest.approx(99.01))


def test_two_passes_give_the_batched_result(tiny_run) -> None:
    from dashdeploy.teachers import unet2d

    student = unet2d.load(tiny_run / "student")
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = (x, torch.tensor([1, 500, 999]), torch.tensor([0, 5, 9]), torch.tensor([0.0, 1.0, 4.0]))
    with torch.no_grad():
        torch.testing.assert_close(
            TwoPass(student).guided(*arguments), student.guided(*arguments), rtol=1e-4, atol=1e-5
        )

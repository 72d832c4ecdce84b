"""Speed-ups: a ratio of two rows that did not do the same work cannot be had, nor written into a record."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from dashdeploy.bench.record import speed
from dashdeploy.bench.record.parts import PlanInfo
from dashdeploy.bench.record.record import parse
from dashdeploy.bench.record.times import GuidanceIntervalStudy, LatencyRow, Pair
from dashdeploy.errors import UserError

STEPS = tuple(range(999, 0, -20))
PLANS = {
    "recipe": PlanInfo(guidance="w=2", timesteps=STEPS, weights=(2.0,) * 50, clip_sample=True, solver="ddim"),
    "same": PlanInfo(guidance="w=2", timesteps=STEPS, weights=(2.0,) * 50, clip_sample=True, solver="ddim"),
    "few": PlanInfo(guidance="w=2", timesteps=STEPS[::5], weights=(2.0,) * 10, clip_sample=True, solver="ddim"),
    "shifted": PlanInfo(
        guidance="w=2", timesteps=tuple(t - 9 for t in STEPS), weights=(2.0,) * 50, clip_sample=True, solver="ddim"
    ),
    "strong": PlanInfo(guidance="w=4", timesteps=STEPS, weights=(4.0,) * 50, clip_sample=True, solver="ddim"),
    "steeper": PlanInfo(guidance="w=2", timesteps=STEPS, weights=(3.0,) * 50, clip_sample=True, solver="ddim"),
    "free": PlanInfo(guidance="w=2", timesteps=STEPS, weights=(2.0,) * 50, clip_sample=False, solver="ddim"),
    "solved": PlanInfo(guidance="w=2", timesteps=STEPS, weights=(2.0,) * 50, clip_sample=True, solver="dpmpp_2m"),
}


def row(
    model: str,
    p50: float,
    *,
    plan: str | None = "recipe",
    batch: int = 8,
    branches: Any = "batched",
    graph: Any = "guided",
    interval: float = 0.0,
) -> LatencyRow:
    """interval: half the width of the median's confidence interval over the median."""
    return LatencyRow(
        model=model, branches=branches, scope="step" if plan is None else "sampler", batch_size=batch, plan=plan,
        graph=None if plan is None else graph, p50_ms=p50, p50_low_ms=p50 * (1 - interval),
        p50_high_ms=p50 * (1 + interval), p90_ms=p50, p99_ms=p50, mean_ms=p50, repeats=3, images_per_s=1,
    )  # fmt: skip


@pytest.mark.parametrize("plan", ["recipe", "same"])
def test_rows_of_the_same_work_have_a_ratio(plan: str) -> None:
    ratio = speed.ratio(PLANS, row("teacher", 30), row("s", 10, plan=plan))
    assert (ratio.value, ratio.refused) == (3.0, "")


@pytest.mark.parametrize(
    ("fast", "why"),
    [
        (row("s", 10, plan="few"), "steps (50 and 10) differ"),
        (row("s", 10, plan="shifted"), "timesteps differ"),
        (row("s", 10, plan="strong"), "guidance (w=2 and w=4) differ"),
        (row("s", 10, plan="steeper"), "guidance (both w=2, with other scales at some steps) differ"),
        (row("s", 10, plan="free"), "clip_sample differ"),
        (row("s", 10, plan="solved"), "solver (ddim and dpmpp_2m) differ"),
        (row("s", 10, batch=1), "batch sizes (8 and 1) differ"),
        (row("s", 10, batch=1, plan="strong"), "batch sizes (8 and 1), guidance (w=2 and w=4) differ"),
        (row("s", 10, plan=None), "what was timed (sampler and step) differ"),
        (row("s", math.nan), "a median is missing"),
    ],
)
def test_a_ratio_of_different_work_is_refused_and_says_why(fast: LatencyRow, why: str) -> None:
    ratio = speed.ratio(PLANS, row("teacher", 30), fast)
    assert math.isnan(ratio.value) and ratio.refused == why


def test_the_faster_branches_count() -> None:
    rows = [row("teacher", 50), row("teacher", 30, branches="two-pass"), row("teacher", 1, batch=1)]
    ratio = speed.against(PLANS, rows, row("s", 10))
    assert ratio.value == 3.0 and ratio.slow is rows[1]


def test_pairs_say_which_branches_they_compare_and_why_one_is_missing() -> None:
    rows = [row("teacher", 50), row("teacher", 30, branches="two-pass"), row("s", 10, plan="few"), row("u", 5)]
    made = [p for p in speed.pairs(PLANS, rows, slow="teacher", fast="u", batch_sizes=[8]) if p.scope == "sampler"]
    assert (made[0].low, made[0].high) == (pytest.approx(6.0), pytest.approx(6.0))
    assert [p.model_copy(update={"low": 6.0, "high": 6.0}) for p in made] == [
        Pair(
            batch_size=8,
            scope="sampler",
            slow="teacher",
            fast="u",
            slow_branches="two-pass",
            fast_branches="batched",
            ratio=6.0,
            low=6.0,
            high=6.0,
            refused="",
        )
    ]
    step, sampler = speed.pairs(PLANS, rows, slow="teacher", fast="s", batch_sizes=[8])
    assert sampler.refused == "steps (50 and 10) differ" and math.isnan(sampler.ratio)
    assert step.refused == "s was not timed at this batch"
    assert speed.refusals([sampler]) == ["No speed-up of s over teacher (sampler, batch 8): steps (50 and 10) differ."]


def sampler_pair(payload: dict[str, Any], ratio: float) -> None:
    """Claims a sampler speed-up of the artifact at batch 8: 21.4 / 3.4 by the medians."""
    payload["pairs"] = [payload["pairs"][0] | {"fast": "student-onnx-cpu", "scope": "sampler", "batch_size": 8}]
    payload["pairs"][0]["ratio"] = ratio


def test_a_record_takes_a_ratio_of_one_plan(payload: dict[str, Any]) -> None:
    sampler_pair(payload, 21.4 / 3.4)
    assert parse(json.dumps(payload)).pairs[0].ratio == pytest.approx(6.294, rel=1e-3)


@pytest.mark.parametrize("change", ["guidance", "timesteps", "ratio"])
def test_a_record_refuses_a_ratio_of_different_plans(payload: dict[str, Any], change: str) -> None:
    sampler_pair(payload, 21.4 / 3.4)
    other = dict(payload["plans"]["recipe"])
    if change == "ratio":
        payload["pairs"][0]["ratio"] = 9.9
    else:
        other |= {"guidance": "w=1"} if change == "guidance" else {"timesteps": [999], "weights": [2.0]}
        for latency in payload["latency"]:
            if (latency["model"], latency["scope"]) == ("student-onnx-cpu", "sampler"):
                latency["plan"] = "other"
    payload["plans"]["other"] = other
    with pytest.raises(UserError, match="there are no medians of one plan with that ratio"):
        parse(json.dumps(payload))


def test_tables_have_no_figure_for_rows_of_another_plan(payload: dict[str, Any]) -> None:
    from dashdeploy.bench.report import tables

    payload["plans"]["other"] = payload["plans"]["recipe"] | {"guidance": "w=1"}
    for latency in payload["latency"]:
        if (latency["model"], latency["scope"]) == ("student-onnx-cpu", "sampler"):
            latency["plan"] = "other"
    table = tables.latency_table(parse(json.dumps(payload)))
    place = table.headings.index("Teacher ÷ this")
    cells = {(r[0], r[2]): (r[place], r[place + 1]) for r in table.rows}
    assert cells["50 steps", "student (ONNX Runtime)"] == ("–", "–")
    assert cells["step", "student (ONNX Runtime)"] != ("–", "–")


@pytest.mark.parametrize(("ratio", "refused"), [(None, ""), (2.0, "steps differ")])
def test_a_pair_is_a_ratio_or_says_why_not(payload: dict[str, Any], ratio: float | None, refused: str) -> None:
    payload["pairs"][0] |= {"ratio": ratio, "refused": refused}
    with pytest.raises(UserError, match="a pair has a ratio, or says in refused why it has none"):
        parse(json.dumps(payload))


def test_a_ratio_has_an_interval_and_is_noise_where_that_holds_1() -> None:
    apart = speed.ratio(PLANS, row("teacher", 30, interval=0.1), row("s", 10, interval=0.1))
    assert apart.low < 3.0 < apart.high and not apart.is_noise
    close = speed.ratio(PLANS, row("teacher", 10.5, interval=0.1), row("s", 10, interval=0.1))
    assert close.low < 1 < close.high and close.is_noise
    few = speed.ratio(PLANS, row("teacher", 10.5, interval=math.nan), row("s", 10))
    assert math.isnan(few.low) and not few.is_noise and few.value == pytest.approx(1.05)


def study(constant: LatencyRow, interval: LatencyRow) -> GuidanceIntervalStudy:
    return GuidanceIntervalStudy(
        model="s",
        constant_plan="recipe",
        interval_plan="strong",
        cond_only_steps=20,
        latency=(constant, interval),
        quality=(),
    )


def test_what_an_interval_saves_has_a_confidence_interval() -> None:
    timed = study(row("s", 10, interval=0.05), row("s", 8, plan="strong", graph="step", interval=0.05))
    saving = speed.saved(timed, 8)
    assert saving.value == pytest.approx(0.2) and saving.none == ""
    assert 0.1 < saving.low < 0.2 < saving.high < 0.3
    assert speed.saved(timed, 1).none == "not timed"


@pytest.mark.parametrize(
    ("constant", "graph", "interval", "why"),
    [
        (24.0, "sampler", 0.01, "one graph ran both"),
        (24.0, "step", 0.2, "within the noise"),
        (24.0, "step", math.nan, "too few runs for an interval"),
    ],
)
def test_no_saving_is_told_that_was_not_seen(constant: float, graph: str, interval: float, why: str) -> None:
    """The whole sampler's graph runs both branches at every step, whatever the plan."""
    rows = (
        row("s", constant, graph="sampler", interval=interval),
        row("s", 26.9, plan="strong", graph=graph, interval=interval),
    )
    saving = speed.saved(study(*rows), 8)
    assert saving.none == why and math.isnan(saving.value)

"""What records add up to, on figures whose sums are known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dashdeploy.compare import plots, tables
from dashdeploy.compare.compare import jobs, sharded
from dashdeploy.compare.spread import Spread
from dashdeploy.compare.summary import Run, Summary, parse, summarise
from dashdeploy.recipe.comparison import Comparison

FIDS = {  # variant -> seed -> FID at w = 1 and w = 2
    "scratch": {0: (10.0, 20.0), 1: (12.0, 20.0)},
    "dash": {0: (2.0, 4.0), 1: (4.0, 30.0)},
    "less": {0: (6.0, 12.0), 1: (6.0, 25.0)},
}
COMPARISON = Comparison.model_validate(
    {
        "name": "x",
        "recipe": "digits",
        "seeds": [0, 1],
        "variants": {name: {"label": name.upper()} for name in FIDS},
        "shares": {"full": "dash", "baseline": "scratch", "without": {"unconditional": "less"}},
        "closes": "less",
    }
)


def record(
    fids: tuple[float, float], gap: float, *, seed: int = 0, noise: tuple[float, ...] = (0.0,)
) -> dict[str, Any]:
    """noise: what each sampling adds to FID; the samplings' seeds are seed, seed + 100, …"""
    overall = {"relative_error": gap, "energy_cosine": 0.5, "rho": 1.0, "guided_error": 0.1}
    rows = [
        {
            "model": model,
            "guidance": f"w={w}",
            "w": float(w),
            "fid": {"value": value},
            "kid": {"value": value / 100},
            "fid_to_teacher": {"value": value / 10} if model == "student" else None,
            "accuracy": 1 / (1 + value) if w == 1 else None,
            "by_seed": [
                {
                    "seed": seed + 100 * i,
                    "fid": value + more,
                    "kid": value / 100,
                    "fid_to_teacher": value / 10 if model == "student" else None,
                    "accuracy": 1 / (1 + value) if w == 1 else None,
                }
                for i, more in enumerate(noise)
            ],
        }
        for model, values in (("teacher", (1.0, 2.0)), ("student", fids))
        for w, value in zip((1, 2), values, strict=True)
    ]
    bins = [{"t_low": low, "t_high": low + 500, "relative_error": gap} for low in (0, 500)]
    return {
        "quality": {
            "rows": rows,
            "features": {"name": "digits-classifier"},
            "num_images": 1000,
            "seeds": [seed + 100 * i for i in range(len(noise))],
        },
        "fidelity": {"rows": [{"overall": overall, "bins": bins}]},
        "models": {"student": {"parameters": 10}, "teacher": {"parameters": 60}},
        "images_seen": 100,
    }


EVEN = [0.1] * 10
FALLING = [0.5, 0.3, 0.1, 0.05, 0.02, 0.012, 0.009, 0.006, 0.002, 0.001]


def summary_of(teachers: dict[str, str], weights: list[float]) -> Summary:
    """teachers: variant -> its teacher's hash; all have these timestep weights, and less is taught evenly."""
    runs = {
        (v, s): Run(record(fids, 0.1 + s), teachers[v], weights, EVEN if v == "less" else weights)
        for v, by_seed in FIDS.items()
        for s, fids in by_seed.items()
    }
    return summarise(COMPARISON, runs)


@pytest.fixture
def summary() -> Summary:
    return summary_of(dict.fromkeys(FIDS, "a"), EVEN)


def test_rows_are_means_with_their_range(summary) -> None:
    rows = {row.name: row for row in summary.rows}
    assert rows["dash"].fid == {"w=1": Spread(3.0, 2.0, 4.0), "w=2": Spread(17.0, 4.0, 30.0)}
    assert rows["dash"].gap["relative_error"] == Spread(pytest.approx(0.6), 0.1, 1.1)
    assert rows["teacher"].fid["w=2"] == Spread(2.0, 2.0, 2.0)
    assert [(one.t_low, one.t_high) for one in rows["dash"].gap_by_t] == [(0, 500), (500, 1000)]
    assert rows["dash"].gap_by_t[0].relative_error == Spread(pytest.approx(0.6), 0.1, 1.1)
    assert summary.scales == {"w=1": 1.0, "w=2": 2.0}


def test_a_share_is_what_is_lost_of_the_gain_seed_by_seed(summary) -> None:
    # w = 1: (6 − 2)/(10 − 2) and (6 − 4)/(12 − 4). At w = 2 seed 1 gains nothing, so there is no share.
    assert summary.shares == {"unconditional": {"w=1": Spread(0.375, 0.25, 0.5)}}


def test_what_a_variant_closes_is_counted_from_the_named_one_to_the_teacher_seed_by_seed(summary) -> None:
    # less leaves 6 − 1 at w = 1; dash closes 6 − 2 and 6 − 4 of it. At w = 2: (12 − 4)/(12 − 2) and (25 − 30)/(25 − 2).
    assert summary.closed["dash"] == {
        "w=1": Spread(pytest.approx(0.6), 0.4, 0.8),
        "w=2": Spread(pytest.approx((0.8 - 5 / 23) / 2), pytest.approx(-5 / 23), pytest.approx(0.8)),
    }
    assert summary.closed["scratch"]["w=1"].mean == pytest.approx(-1.0), "it leaves more, not less"
    assert (
        tables.closed(summary).title
        == "FID distance between LESS and its teacher: the part that each variant closes (%)"
    )
    assert tables.closed(summary).rows[1][0] == "DASH" and tables.closed(summary).rows[1][1] == "60.0 [40.0, 80.0]"


def test_nothing_is_closed_where_the_teacher_is_no_better() -> None:
    asked = COMPARISON.model_copy(update={"closes": "dash"})
    runs = {
        (v, s): Run(record((f[0], 2.0) if v == "dash" else f, 0.1), "a", EVEN, EVEN)
        for v, by_seed in FIDS.items()
        for s, f in by_seed.items()
    }
    assert {name: list(shares) for name, shares in summarise(asked, runs).closed.items()} == {
        "scratch": ["w=1"],
        "less": ["w=1"],
    }


def test_fid_to_the_teachers_images_is_a_table_of_students(summary) -> None:
    table = tables.to_teacher(summary)
    assert [row[0] for row in table.rows] == ["SCRATCH", "DASH", "LESS"]
    assert table.rows[1][1] == "0.300 [0.200, 0.400]" and table.headings == ("", "w=1", "w=2")


def test_tables_and_plots_show_every_variant(summary) -> None:
    text = tables.markdown(summary)
    assert text.startswith(
        "Students of 10 parameters, 100 images seen. FID of 1000 images in features of digits-classifier."
    )
    assert "| DASH | 3.00 [2.00, 4.00] | 17.0 [4.00, 30.0] |" in text
    assert "| unconditional | 37.5 [25.0, 50.0] |" in text
    for svg in plots.all_of(summary).values():
        assert all(label in svg for label in ("SCRATCH", "DASH", "LESS"))
    assert plots.all_of(summary) == plots.all_of(summary)


def test_every_teacher_has_a_row_that_its_students_name() -> None:
    summary = summary_of({"scratch": "a", "dash": "a", "less": "b"}, FALLING)
    assert [(row.name, row.teacher) for row in summary.rows] == [
        ("teacher:scratch", None),
        ("teacher:less", None),
        ("scratch", "teacher:scratch"),
        ("dash", "teacher:scratch"),
        ("less", "teacher:less"),
    ]
    text = tables.markdown(summary)
    assert (
        "of 2 trainings, one sampling of each; FID of 1000 images; each gap is against the student's teacher**" in text
    )
    assert "| teacher of LESS | 1.00 | 2.00 | – | – | – | – |" in text
    assert (
        "| DASH | 3.00 [2.00, 4.00] | 17.0 [4.00, 30.0] | 0.600 [0.100, 1.10] | 0.500 | 1.00 | teacher of SCRATCH |"
        in text
    )
    assert "teacher of" not in plots.all_of(summary)["fid"]


def test_starved_tenths_of_t_are_marked() -> None:
    summary = summary_of({"scratch": "a", "dash": "a", "less": "b"}, FALLING)
    rows = {row.name: row for row in summary.rows}
    assert rows["dash"].starved == rows["teacher:scratch"].starved == (6, 7, 8, 9)
    assert rows["teacher:less"].starved == ()
    text = tables.markdown(summary)
    assert "| DASH | 50.0 | 30.0 | 10.0 | 5.0 | 2.0 | 1.2 | 0.9* | 0.6* | 0.2* | 0.1* |" in text
    assert f"| teacher of LESS |{' 10.0 |' * 10}" in text


def test_uniform_weights_alone_are_no_table(summary) -> None:
    assert "Timestep weight" not in tables.markdown(summary)


def test_kid_and_accuracy_are_kept_and_shown(summary) -> None:
    rows = {row.name: row for row in summary.rows}
    assert rows["dash"].kid["w=1"] == Spread(pytest.approx(0.03), 0.02, 0.04)
    assert rows["teacher"].accuracy == {"w=1": Spread(0.5, 0.5, 0.5)}, "none where the features are of no classifier"
    table = tables.other_quality(summary)
    assert table.headings[1:] == ("KID, w=1", "KID, w=2", "Accuracy, w=1 (%)")
    assert table.rows[0] == ("teacher", "0.0100", "0.0200", "50.0")


def test_a_summary_is_read_back_from_its_json(summary) -> None:
    for one in (summary, summary_of({"scratch": "a", "dash": "a", "less": "b"}, FALLING)):
        assert parse(json.loads(json.dumps(one.as_dict()))) == one


def test_the_mean_of_equal_values_is_that_value() -> None:
    values = [0.1] * 3
    assert sum(values) / 3 != 0.1, "as rounding has it"
    for value in (0.1, 0.7, 1.1, 30.3):
        for count in range(1, 12):
            assert Spread.of([[value]] * count) == Spread(value, value, value)


def test_the_spread_of_training_and_that_of_sampling_are_told_apart() -> None:
    # The variance of 1, 3 and that of 5, 7 is 2. The means 2 and 6 vary by 8, of which 2 / 2 is the sampling's.
    spread = Spread.of([[1.0, 3.0], [5.0, 7.0]])
    assert (spread.mean, spread.low, spread.high) == (4.0, 1.0, 7.0)
    assert spread.sampling == pytest.approx(2**0.5) and spread.training == pytest.approx(7**0.5)
    assert Spread.of([[1.0, 3.0], [1.0, 3.0]]).training == 0.0, "the means vary by less than the sampling explains"
    assert Spread.of([[1.0, 3.0]]) == Spread(2.0, 1.0, 3.0, None, pytest.approx(2**0.5))
    assert Spread.of([[1.0], [3.0]]) == Spread(2.0, 1.0, 3.0), "one sampling of each: not known"


def test_the_components_of_variance_are_those_that_the_figures_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    found = [Spread.of((rng.normal(0, 2.0, 3)[:, None] + rng.normal(0, 1.0, (3, 2))).tolist()) for _ in range(2000)]
    assert np.mean([one.sampling**2 for one in found if one.sampling]) == pytest.approx(1.0, rel=0.1)
    # Those below zero are taken as zero, which adds a little.
    assert np.mean([one.training**2 for one in found if one.training is not None]) == pytest.approx(4.0, rel=0.15)


def sampled(noise: dict[int, tuple[float, ...]], comparison: Comparison = COMPARISON) -> Summary:
    """Each training with the noise of its seed's samplings, as the teacher has it too."""
    seeds = (*comparison.seeds, *(comparison.confirm.seeds if comparison.confirm else ()))
    runs = {
        (v, s): Run(record(FIDS[v][s % 2], 0.1 + s, seed=s, noise=noise[s]), "a", EVEN, EVEN)
        for v in FIDS
        for s in seeds
    }
    return summarise(comparison, runs)


def test_samplings_of_a_training_are_its_own_and_the_teacher_has_a_range_over_all_of_them() -> None:
    summary = sampled({0: (-0.5, 0.5), 1: (-1.0, 1.0)})
    rows = {row.name: row for row in summary.rows}
    assert rows["dash"].fid["w=1"] == Spread(
        3.0, 1.5, 5.0, pytest.approx((2.0 - 1.25 / 2) ** 0.5), pytest.approx(1.25**0.5)
    )
    # One teacher, four samplings; each is in the records of three variants and counts once.
    assert rows["teacher"].fid["w=1"] == Spread(1.0, 0.0, 2.0, None, pytest.approx((2.5 / 3) ** 0.5))
    table = tables.spreads(summary)
    assert table.rows[0][:2] == ("teacher", "– / 0.913") and table.rows[2][:2] == ("DASH", "1.173 / 1.118")
    assert "Mean [smallest, largest] of 2 trainings, 2 samplings of each; FID of 1000 images" in tables.markdown(
        summary
    )
    assert parse(json.loads(json.dumps(summary.as_dict()))) == summary


def test_nothing_is_closed_of_a_distance_within_the_sampling_noise() -> None:
    # less is 5 from its teacher at w = 1, and the standard deviation of its sampling is 0.14 or 4.2.
    assert "w=1" in sampled({0: (-0.1, 0.1), 1: (-0.1, 0.1)}).closed["dash"]
    assert "w=1" not in sampled({0: (-3.0, 3.0), 1: (-3.0, 3.0)}).closed["dash"]


CONFIRMED = Comparison.model_validate(
    COMPARISON.model_dump() | {"confirm": {"variants": ["dash", "less"], "seeds": [2, 3]}}
)


def test_chosen_variants_are_scored_again_on_seeds_of_their_own() -> None:
    noise = {0: (0.0,), 1: (0.0,), 2: (10.0,), 3: (10.0,)}
    summary = sampled(noise, CONFIRMED)
    assert [row.name for row in summary.rows] == ["teacher", "scratch", "dash", "less"]
    assert summary.rows[2].fid["w=1"].mean == 3.0, "the fresh seeds are no part of the first tables"
    again = summary.confirmed
    assert again is not None and again.seeds == (2, 3)
    assert [row.name for row in again.rows] == ["teacher", "dash", "less"]
    assert again.rows[1].fid["w=1"].mean == 13.0 and set(again.closed) == {"dash"}
    text = tables.markdown(summary)
    title = "**The chosen variants, trained and drawn again with seeds 2, 3, which had no part in the choice. Mean"
    assert title in text
    assert parse(json.loads(json.dumps(summary.as_dict()))) == summary
    assert jobs(CONFIRMED) == [
        *((v, s) for s in (0, 1) for v in ("scratch", "dash", "less")),
        *((v, s) for s in (2, 3) for v in ("dash", "less")),
    ]


@pytest.mark.parametrize(
    ("confirm", "problem"),
    [
        ({"variants": ["dahs"], "seeds": [5]}, "confirm: .*'dahs'"),
        ({"variants": ["dash"], "seeds": [1, 5]}, "confirm: seeds 1 had a part in the choice; give other ones"),
    ],
)
def test_a_confirmation_names_variants_and_fresh_seeds(confirm: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Comparison.model_validate(COMPARISON.model_dump() | {"confirm": confirm})


def test_a_chain_of_students_goes_to_one_shard_and_the_others_are_dealt_in_turn() -> None:
    needs = {"c": {"start": "b"}, "b": {"start": "a"}}
    variants = {name: {"label": name, **needs.get(name, {})} for name in ("c", "a", "b", "x", "y")}
    chained = Comparison.model_validate({"name": "x", "recipe": "digits", "seeds": [0, 1], "variants": variants})
    assert jobs(chained)[:5] == [("a", 0), ("b", 0), ("c", 0), ("x", 0), ("y", 0)]
    parts = [[(v, seed) for _, v, seed in sharded(chained, (i, 2))] for i in (0, 1)]
    assert parts[0] == [("a", 0), ("b", 0), ("c", 0), ("x", 1), ("y", 1)]
    assert parts[1] == [("x", 0), ("y", 0), ("a", 1), ("b", 1), ("c", 1)]
    plain = [(place, *job) for place, job in enumerate(jobs(COMPARISON))]
    assert [sharded(COMPARISON, (i, 2)) for i in (0, 1)] == [plain[0::2], plain[1::2]]


def test_a_teacher_sampled_in_unlike_steps_has_a_row_for_each() -> None:
    def of(fids: tuple[float, float], steps: int) -> Run:
        plans = {"recipe": {"timesteps": list(range(steps))}, "teacher": {"timesteps": list(range(50))}}
        models = {
            "student": {"parameters": 10, "plan": "recipe", "evaluations": steps},
            "teacher": {"parameters": 60, "plan": "teacher" if steps < 8 else "recipe", "evaluations": 100},
        }
        return Run(record(fids, 0.1) | {"plans": plans, "models": models}, "a", EVEN, EVEN)

    runs = {(v, s): of(fids, {"dash": 4}.get(v, 8)) for v, by_seed in FIDS.items() for s, fids in by_seed.items()}
    found = summarise(COMPARISON, runs)
    assert [(row.label, row.steps) for row in found.teachers] == [("teacher, 8 steps", 8), ("teacher, 50 steps", 50)]
    assert {row.name: (row.teacher, row.evaluations) for row in found.students} == {
        "scratch": ("teacher:scratch", 8),
        "dash": ("teacher:dash", 4),
        "less": ("teacher:scratch", 8),
    }
    assert tables.quality(found).headings[:3] == ("", "Steps", "Evaluations an image")

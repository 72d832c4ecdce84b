"""What records add up to, on figures whose sums are known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dashdeploy.compare import plots, tables
from dashdeploy.compare.summary import Run, Spread, Summary, parse, summarise
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


def record(fids: tuple[float, float], gap: float) -> dict[str, Any]:
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
        }
        for model, values in (("teacher", (1.0, 2.0)), ("student", fids))
        for w, value in zip((1, 2), values, strict=True)
    ]
    bins = [{"t_low": low, "t_high": low + 500, "relative_error": gap} for low in (0, 500)]
    return {
        "quality": {"rows": rows, "features": {"name": "digits-classifier"}},
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
    assert text.startswith("Students of 10 parameters, 100 images seen. FID in features of digits-classifier.")
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
    assert "2 seeds; each gap is against the student's teacher**" in text
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
    assert table.headings[1:] == ("KID, w=1", "KID, w=2", "Accuracy, w=1 (%)", "Accuracy, w=2 (%)")
    assert table.rows[0] == ("teacher", "0.0100", "0.0200", "50.0", "–")


def test_a_summary_is_read_back_from_its_json(summary) -> None:
    for one in (summary, summary_of({"scratch": "a", "dash": "a", "less": "b"}, FALLING)):
        assert parse(json.loads(json.dumps(one.as_dict()))) == one


def test_the_mean_of_equal_values_is_that_value() -> None:
    values = [0.1] * 3
    assert sum(values) / 3 != 0.1, "as rounding has it"
    for value in (0.1, 0.7, 1.1, 30.3):
        for count in range(1, 12):
            assert Spread.of([value] * count) == Spread(value, value, value)

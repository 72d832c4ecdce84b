"""Figures as text: as many digits as they need, the same decimals for a figure and its confidence interval."""

from __future__ import annotations

import math

import pytest

from dashdeploy.report import cells


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.234, "1.23"), (15865.2, "15865"), (0.01234, "0.0123"), (-2.5, "-2.50"), (math.nan, "–")],
)
def test_numbers_keep_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert cells.significant(value) == text


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ((2.014, 1.873, 2.158), "2.01 [1.87, 2.16]"),
        ((0.001, -0.002, 0.012), "0.0010 [-0.0020, 0.0120]"),
        ((2.014, math.nan, math.nan), "2.01"),
        ((2.014,), "2.01"),
        ((math.nan, math.nan, math.nan), "–"),
    ],
)
def test_a_confidence_interval_shares_the_decimals_of_its_figure(figure: tuple[float, ...], text: str) -> None:
    assert cells.estimate(*figure) == text


def test_a_span_has_the_decimals_of_its_figure_and_is_left_out_without_an_end() -> None:
    assert cells.span(12.34, 11.987, 13.0) == "12.0–13.0"
    assert cells.span(12.34, math.nan, 13.0) == "–"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0000"), (0.0123456, "0.0123"), (3.57e-6, "3.6e-06"), (math.nan, "–")]
)
def test_a_small_relative_error_is_not_rounded_to_nothing(value: float, text: str) -> None:
    assert cells.error(value) == text


def test_ratios_shares_and_counts_have_their_signs() -> None:
    assert [cells.times(value) for value in (0.846, 1.68, 12.34, math.nan)] == ["0.85×", "1.7×", "12.3×", "–"]
    assert [cells.percent(value) for value in (0.4661, math.nan)] == ["46.6", "–"]
    assert [cells.count(value) for value in (1952513, None)] == ["1,952,513", "–"]
    assert [cells.kilobytes(value) for value in (3_921_090, None)] == ["3,921", "–"]

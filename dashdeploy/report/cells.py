"""Figures as text: how each kind of number reads in every table, on the terminal, in Markdown and in the report."""

from __future__ import annotations

import math

MISSING = "–"


def significant(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, never in exponent form; – for NaN."""
    return f"{value:.{_decimals(value, digits)}f}" if math.isfinite(value) else MISSING


def estimate(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """``1.23 [1.10, 1.36]``: a figure and its confidence interval; the figure without brackets where it has none."""
    if not math.isfinite(value):
        return MISSING
    if not math.isfinite(low + high):
        return significant(value)
    decimals = _decimals(max(abs(value), abs(low), abs(high)), 3)
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def span(value: float, low: float, high: float) -> str:
    """``1.10–1.36``: the confidence interval of a figure, with the figure's decimals; – where it has none."""
    if not math.isfinite(low + high):
        return MISSING
    decimals = _decimals(value, 3)
    return f"{low:.{decimals}f}–{high:.{decimals}f}"


def fixed(value: float, decimals: int = 3) -> str:
    """A number with this many decimals; – for NaN."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else MISSING


def error(value: float) -> str:
    """A relative error: four decimals, or ``3.6e-06`` below 0.001; – for NaN."""
    if math.isfinite(value) and 0 < value < 1e-3:
        return f"{value:.1e}"
    return fixed(value, 4)


def percent(value: float) -> str:
    """A share in percent, without the sign; – for NaN."""
    return f"{100 * value:.1f}" if math.isfinite(value) else MISSING


def times(value: float) -> str:
    """A ratio, as in ``1.7×``; – for NaN."""
    return f"{significant(value, 2 if value < 10 else 3)}×" if math.isfinite(value) else MISSING


def count(value: int | None) -> str:
    """A whole number with commas between thousands; – for None."""
    return MISSING if value is None else f"{value:,}"


def kilobytes(value: int | None) -> str:
    """Bytes as kB (1000 bytes), without the unit; – for None."""
    return MISSING if value is None else f"{value / 1000:,.0f}"


def _decimals(value: float, digits: int) -> int:
    if not math.isfinite(value) or value == 0:
        return 0
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))

"""Figures as text: how each kind of number is quoted in every table, on the terminal, in Markdown and in the report."""

from __future__ import annotations

import math

from dashdeploy.bench.record.parts import Interval, LatencyRow

MISSING = "–"


def significant(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, never in exponent form; – for NaN."""
    return f"{value:.{_decimals(value, digits)}f}" if math.isfinite(value) else MISSING


def interval(found: Interval | None, digits: int = 3) -> str:
    """``1.23 [1.10, 1.36]``, or the value alone where no interval was computed."""
    if found is None or not math.isfinite(found.value):
        return MISSING
    if not math.isfinite(found.low + found.high):
        return significant(found.value, digits)
    decimals = _decimals(max(abs(found.value), abs(found.low), abs(found.high)), digits)
    return f"{found.value:.{decimals}f} [{found.low:.{decimals}f}, {found.high:.{decimals}f}]"


def fixed(value: float, decimals: int = 3) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else MISSING


def span(row: LatencyRow) -> str:
    """The interval of a row's median in ms; – where it has none."""
    if not math.isfinite(row.p50_low_ms + row.p50_high_ms):
        return MISSING
    decimals = _decimals(row.p50_ms, 3)
    return f"{row.p50_low_ms:.{decimals}f}–{row.p50_high_ms:.{decimals}f}"


def median_ms(row: LatencyRow | None) -> str:
    """A row's median and its interval, in ms."""
    return MISSING if row is None else interval(Interval(value=row.p50_ms, low=row.p50_low_ms, high=row.p50_high_ms))


def percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else MISSING


def times(value: float) -> str:
    return f"{significant(value, 2 if value < 10 else 3)}×" if math.isfinite(value) else MISSING


def count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def kilobytes(value: int | None) -> str:
    return MISSING if value is None else f"{value / 1000:,.0f}"


def _decimals(value: float, digits: int) -> int:
    if not math.isfinite(value) or value == 0:
        return 0
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))

"""95 % confidence intervals of the ratio and of the difference of two figures, from the intervals of both."""

from __future__ import annotations

import math

from dashdeploy.bench.record.parts import Estimate


def ratio_interval(a: Estimate, b: Estimate) -> tuple[float, float]:
    """95 % confidence interval of b / a from those of a and b, by MOVER on logarithms (Zou and Donner 2008, Eq. 7).

    NaN where a figure has no confidence interval, or is not positive.
    """
    values = (a.value, a.low, a.high, b.value, b.low, b.high)
    if not all(math.isfinite(v) and v > 0 for v in values):
        return math.nan, math.nan
    low, high = difference_interval(_logs(a), _logs(b))
    return math.exp(low), math.exp(high)


def difference_interval(a: Estimate, b: Estimate) -> tuple[float, float]:
    """95 % confidence interval of b − a by MOVER (Zou and Donner 2008, Eq. 7); NaN where a figure has none."""
    moved = b.value - a.value
    low = moved - math.hypot(b.value - b.low, a.high - a.value)
    return low, moved + math.hypot(b.high - b.value, a.value - a.low)


def _logs(a: Estimate) -> Estimate:
    return Estimate(value=math.log(a.value), low=math.log(a.low), high=math.log(a.high))

"""A figure over trainings and samplings: its mean, its range, and how much of its spread each of the two makes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A figure over all trainings and samplings.

    Attributes:
        mean, low, high: the mean, and the smallest and largest value.
        training: standard deviation between trainings, without what the sampling adds. None: not known.
        sampling: standard deviation between the samplings of one training. None: not known.
    """

    mean: float
    low: float
    high: float
    training: float | None = None
    sampling: float | None = None

    @classmethod
    def of(cls, trainings: Sequence[Sequence[float]]) -> Spread:
        """From the values of each training's samplings, by the components of variance of a one-way layout.

        With S samplings of each training, the means of the trainings vary by σ²_training + σ²_sampling / S. A variance
        below zero is taken as zero. Trainings and samplings are told apart only where there are two of each.
        """
        values = [value for samplings in trainings for value in samplings]
        low, high = min(values), max(values)
        mean = min(max(statistics.fmean(values), low), high)  # equal values round to another mean
        repeated = [samplings for samplings in trainings if len(samplings) > 1]
        if not repeated:
            return cls(mean, low, high)
        within = statistics.fmean(map(statistics.variance, repeated))
        training = None
        if len(trainings) > 1:
            share = statistics.fmean(1 / len(samplings) for samplings in trainings)
            between = statistics.variance(map(statistics.fmean, trainings))
            training = math.sqrt(max(0.0, between - within * share))
        return cls(mean, low, high, training, math.sqrt(within))

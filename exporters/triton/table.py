"""The measured table of step times, and the batch size that follows from it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

LOSS = 0.05
"""Of the best throughput, that shorter steps are worth."""
ROUNDS = 9
"""Of all sizes, at most."""
COLD_S = 20.0
"""For the first calls of all sizes, at most: on GPUs each takes seconds, and says nothing of the ones after it."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds that a step takes, by the size of its batch.

    The rule for the number of places: of all measured sizes, the smallest whose throughput (images × steps a second) is
    within 5 % of the best one. More places would make each step longer, for requests that run and for those that wait
    for the next step, and give nothing for it.

    The rule for the size of a step's batch: as many images as run. A larger measured size, filled up, is taken where a
    step of it is shorter than one of this size, between its measured neighbours, would be; or always, where `only` says
    that the runtime prepares each size it meets anew, as on GPUs.

    Attributes:
        sizes: ascending, from 1.
        seconds: the median of a step, by size.
        only: no other sizes are run.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    only: bool = False

    @property
    def places(self) -> int:
        """Images that run at the same time, at most."""
        rates = [size / s for size, s in zip(self.sizes, self.seconds, strict=True)]
        return next(size for size, rate in zip(self.sizes, rates, strict=True) if rate >= (1 - LOSS) * max(rates))

    def rows(self, count: int) -> int:
        """The size of the batch for so many images, at most `places`."""
        larger = [i for i, size in enumerate(self.sizes) if size >= count]
        if self.only:
            return self.sizes[larger[0]]
        best = min(larger, key=lambda i: self.seconds[i])
        return self.sizes[best] if self.seconds[best] < self._at(count) else count

    def _at(self, count: int) -> float:
        """Seconds of a size, on a straight line between its neighbours."""
        i = next(i for i, size in enumerate(self.sizes) if size >= count)
        if self.sizes[i] == count:
            return self.seconds[i]
        low, high = self.sizes[i - 1], self.sizes[i]
        share = (count - low) / (high - low)
        return (1 - share) * self.seconds[i - 1] + share * self.seconds[i]

    def text(self) -> str:
        """As JSON, size -> milliseconds: what `parse` reads."""
        pairs = zip(self.sizes, self.seconds, strict=True)
        return json.dumps({str(size): round(1e3 * s, 4) for size, s in pairs})


def parse(text: str, *, largest: int, only: bool = False) -> StepTimes:
    """A table that was measured before.

    Raises:
        ValueError: it is not one.
    """
    try:
        pairs = sorted((int(size), float(ms) / 1e3) for size, ms in json.loads(text).items())
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"step_times must be JSON, batch size -> milliseconds, got {text[:80]}") from error
    if not pairs or pairs[0][0] != 1 or pairs[-1][0] > largest or any(not 0 < s < 3600 for _, s in pairs):
        raise ValueError(f"step_times must have sizes from 1 to {largest} and times above 0, got {text[:80]}")
    sizes, seconds = zip(*pairs, strict=True)
    return StepTimes(sizes, seconds, only)


def measure(
    move: Callable[[int], None],
    *,
    largest: int,
    only: bool = False,
    budget_s: float = 1.5,
    clock: Callable[[], float] = time.perf_counter,
) -> StepTimes:
    """Time a step at the batch sizes 1, 2, 4, … and `largest`.

    The first call of each size prepares it: it is not counted, nor of the budget. A second one is, and then come rounds
    of all sizes, so that what disturbs the machine for a while disturbs all of them, until the time is up. Sizes for
    which no time is left are not in the table: a slow student starts within about the budget and the first calls, and
    never runs a batch that was not measured.

    Args:
        move: a step of so many images.
    """
    begin, last, cold = clock(), 0.0, 0.0
    times: dict[int, list[float]] = {}
    for size in [*(1 << k for k in range((largest - 1).bit_length())), largest]:
        # A larger step takes at most in proportion, and comes twice at least.
        spent = clock() - begin - cold
        if times and (spent + 2 * last * size / max(times) > budget_s / 2 or cold > COLD_S):
            break
        start = clock()
        move(size)
        warm = clock()
        cold += warm - start
        move(size)
        last = clock() - warm
        times[size] = [last]
    for done in range(1, ROUNDS):
        if (clock() - begin - cold) * (done + 2) / (done + 1) > budget_s:
            break
        for size, seconds in times.items():
            start = clock()
            move(size)
            seconds.append(clock() - start)
    return StepTimes(tuple(times), tuple(map(statistics.median, times.values())), only)

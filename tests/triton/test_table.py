"""The measured table of step times: how it is taken, and the batch sizes that follow from it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.triton.conftest import ROOT, load


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return load("triton_table", ROOT / "exporters" / "triton" / "table.py")


class Machine:
    """A clock, and steps that take the time which `cost` says."""

    def __init__(self, cost: Any) -> None:
        self.now, self.cost, self.ran = 0.0, cost, list[int]()

    def clock(self) -> float:
        return self.now

    def move(self, size: int) -> None:
        self.ran.append(size)
        self.now += self.cost(size)


def measured(table: ModuleType, cost: Any, *, largest: int = 64, budget_s: float = 1.5) -> tuple[Any, Machine]:
    machine = Machine(cost)
    times = table.measure(machine.move, largest=largest, budget_s=budget_s, clock=machine.clock)
    return times, machine


def test_sizes_double_up_to_the_largest_and_the_median_counts(table: ModuleType) -> None:
    machine = Machine(lambda size: 1e-4 * size + (5e-3 if len(machine.ran) % 10 == 1 else 0))  # a disturbance
    times = table.measure(machine.move, largest=48, clock=machine.clock)
    assert times.sizes == (1, 2, 4, 8, 16, 32, 48)
    assert times.seconds == pytest.approx([1e-4 * size for size in times.sizes])


@pytest.mark.parametrize("step_s", [1e-5, 1e-3, 0.05, 0.3, 10.0])
def test_a_slow_student_is_measured_at_fewer_sizes_within_the_time(table: ModuleType, step_s: float) -> None:
    times, machine = measured(table, lambda size: step_s * size, budget_s=2.0)
    assert times.sizes[0] == 1 and max(machine.ran) == times.sizes[-1]
    first_calls = step_s * sum(times.sizes)
    assert machine.now - first_calls <= max(2.0, step_s)
    assert (len(times.sizes) == 7) == (step_s <= 1e-3)


@pytest.mark.parametrize("first_s", [0.5, 3.0])
def test_first_calls_that_are_slow_say_nothing_of_the_ones_after_them(table: ModuleType, first_s: float) -> None:
    """As on GPUs, where each new size is prepared: a table of one size would end all batching."""
    machine = Machine(lambda size: 2e-3 + 1e-4 * size + (first_s if machine.ran.count(size) == 1 else 0))
    times = table.measure(machine.move, largest=64, clock=machine.clock)
    assert len(times.sizes) == 7 and times.places > 1
    assert times.seconds == pytest.approx([2e-3 + 1e-4 * size for size in times.sizes])


def test_the_places_are_the_fewest_within_5_percent_of_the_best_throughput(table: ModuleType) -> None:
    # A fixed cost of a step that is shared: half of the throughput is lost at 4, 5.9 % at 64, 3 % at 128.
    times, _ = measured(table, lambda size: 4e-3 + 1e-3 * size, largest=256, budget_s=60.0)
    assert times.places == 64
    assert measured(table, lambda size: 1e-3 * size)[0].places == 1  # nothing is gained by more
    # Past the cache: throughput falls again, and its best is not the largest size.
    assert measured(table, lambda size: 1e-3 + 1e-4 * size * (1 + (size > 16)))[0].places == 16


def test_a_step_has_as_many_rows_as_images_unless_a_measured_size_is_faster(table: ModuleType) -> None:
    plain = table.StepTimes((1, 2, 4, 8), (1.0, 2.0, 4.0, 8.0))
    assert [plain.rows(n) for n in range(1, 9)] == list(range(1, 9))
    odd = table.StepTimes((1, 2, 4, 8), (1.0, 3.0, 2.5, 4.0))  # a slow kernel at 2
    assert [odd.rows(n) for n in range(1, 9)] == [1, 4, 4, 4, 5, 6, 7, 8]
    only = table.StepTimes((1, 2, 4, 8), (1.0, 1.0, 1.0, 1.0), only=True)
    assert [only.rows(n) for n in range(1, 9)] == [1, 2, 4, 4, 8, 8, 8, 8]


def test_a_table_is_written_and_read_again(table: ModuleType) -> None:
    times, _ = measured(table, lambda size: 1e-3 * size)
    again = table.parse(times.text(), largest=64)
    assert again.sizes == times.sizes and again.seconds == pytest.approx(times.seconds)
    for text in ("", "[]", "{}", '{"2": 1}', '{"1": -1}', '{"1": 1, "128": 2}', '{"a": 1}', '{"1": null}'):
        with pytest.raises(ValueError, match=r"^step_times must"):
            table.parse(text, largest=64)

"""Quality: labels in the data's proportions, several sampling seeds, and a classifier of the data's classes only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dashdeploy.bench.bench import _grids
from dashdeploy.bench.measure import quality
from dashdeploy.bench.record.parts import QualityRow
from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.metrics import reference
from dashdeploy.metrics.features import committed
from dashdeploy.recipe.schema import Data, Quality


def data_of(counts: list[int]) -> LabelledImages:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"class {i}" for i in range(len(counts)))
    return LabelledImages("x", np.zeros((len(labels), 1, 2, 2), np.uint8), labels, names, False)


@pytest.mark.parametrize(
    ("counts", "num", "expected"),
    [
        ([50, 30, 20], 10, [5, 3, 2]),
        ([7, 7, 7], 10, [4, 3, 3]),  # of equal remainders the lower class comes first
        ([1, 1, 98], 20, [0, 0, 20]),
        ([10, 0, 30], 16, [4, 0, 12]),
        ([158, 166, 158, 171, 166, 165, 159, 159, 154, 161], 1000, [98, 103, 98, 106, 103, 102, 98, 98, 95, 99]),
    ],
)
def test_labels_have_the_proportions_of_the_data_by_the_largest_remainder(
    counts: list[int], num: int, expected: list[int]
) -> None:
    labels = quality.class_labels(num, data_of(counts))
    assert labels.dtype == torch.int64 and torch.bincount(labels, minlength=len(counts)).tolist() == expected


def test_every_prefix_follows_the_proportions() -> None:
    labels = quality.class_labels(400, data_of([60, 30, 10])).numpy()
    for num in range(1, 401):
        found = np.bincount(labels[:num], minlength=3)
        assert np.abs(found - num * np.array([0.6, 0.3, 0.1])).max() <= 1.0


@pytest.mark.parametrize("num", [16, 20, 25])
def test_classes_of_equal_size_take_turns(num: int) -> None:
    assert quality.class_labels(num, data_of([5] * 10)).tolist() == [i % 10 for i in range(num)]


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    """In random order: those that stand together in the dataset are of the same writers."""
    data = load_dataset(Data(name="digits"))
    return data.take(np.random.default_rng(0).permutation(len(data)))


def sets_of(digits: LabelledImages, labels: torch.Tensor, num: int) -> list[torch.Tensor]:
    """Real images as samples: of each class other ones in each set."""
    rows = {c: np.flatnonzero(digits.labels == c) for c in range(10)}
    taken = dict.fromkeys(rows, 0)
    sets = []
    for _ in range(num):
        places = []
        for label in labels.tolist():
            places.append(rows[label][taken[label]])
            taken[label] += 1
        sets.append(torch.from_numpy(digits.images[places]))
    return sets


def test_several_sampling_seeds_are_scored_one_by_one_and_together(digits: LabelledImages) -> None:
    train = digits.take(np.arange(1200, len(digits)))
    labels = quality.class_labels(200, train)
    extractor = committed("digits")
    real = reference.of_images(train, extractor)
    first, second, *others = sets_of(digits.take(np.arange(1200)), labels, 4)
    config = Quality(num_images=200, bootstrap=20)
    _, of_teacher = quality.score("teacher", 2.0, others, labels, real, None, extractor, config, seeds=(0, 5))
    row, drawn = quality.score(
        "student", 2.0, [first, second], labels, real, of_teacher, extractor, config, seeds=(0, 5)
    )
    assert [one.seed for one in row.by_seed] == [0, 5] and [len(f) for f in drawn.features] == [200, 200]
    assert row.fid.value == pytest.approx(np.mean([one.fid for one in row.by_seed]))
    assert row.fid_to_teacher is not None
    assert row.fid_to_teacher.value == pytest.approx(np.mean([one.fid_to_teacher for one in row.by_seed]))
    assert row.accuracy == pytest.approx(np.mean([one.accuracy for one in row.by_seed])) and row.accuracy > 0.95
    for name in ("precision", "recall", "density", "coverage"):
        found = [getattr(one.neighbours, name) for one in row.by_seed]
        assert getattr(row.neighbours, name) == pytest.approx(np.mean(found)) and 0.7 < found[0] < 1.2, name
    alone, _ = quality.score("student", 2.0, [first], labels, real, None, extractor, config, seeds=(0,))
    assert alone.by_seed[0].fid == row.by_seed[0].fid and alone.fid_to_teacher is None
    assert row.kid.high - row.kid.low < alone.kid.high - alone.kid.low
    assert row.kid.low < 0 < row.kid.high, "real digits against other real digits"


def test_accuracy_is_of_a_classifier_of_the_datas_classes_only(digits: LabelledImages) -> None:
    renamed = replace(digits, classes=tuple("abcdefghij"))
    extractor = committed("digits")
    labels = quality.class_labels(100, digits)
    (images,) = sets_of(digits, labels, 1)
    config = Quality(num_images=100, bootstrap=0)
    accuracies = []
    for data in (digits, renamed):
        real = reference.of_images(data, extractor)
        row, _ = quality.score("student", 2.0, [images], labels, real, None, extractor, config, seeds=(0,))
        accuracies.append((row.accuracy, row.by_seed[0].accuracy))
    assert accuracies[0][0] > 0.95
    assert np.isnan(accuracies[1]).all()


def test_the_first_sampling_seed_is_the_benchmarks(tiny_recipe) -> None:
    def seeds(first: int, num: int) -> tuple[int, ...]:
        config = tiny_recipe.bench.quality.model_copy(update={"seeds": num})
        bench = tiny_recipe.bench.model_copy(update={"seed": first, "quality": config})
        return quality.sampling_seeds(tiny_recipe.model_copy(update={"bench": bench}))

    assert seeds(3, 1) == (3,)
    assert seeds(3, 3)[:2] == seeds(3, 2) and len({*seeds(3, 3), *seeds(4, 3)}) == 6


def test_a_grid_has_as_many_images_of_each_class_as_the_rarest_one_that_was_drawn(tiny_recipe) -> None:
    labels = quality.class_labels(40, data_of([60, 0, 30, 10]))
    images = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 1, 2, 2)
    drawn = quality.Measured({}, {("teacher", "w=2"): images, ("teacher", "w=1"): images}, labels, 0, ())
    grid = _grids(drawn, tiny_recipe)
    assert grid.columns == 4 and grid.labels.tolist() == [0] * 4 + [2] * 4 + [3] * 4
    assert list(grid.images) == ["teacher"]
    assert labels[grid.images["teacher"][:, 0, 0, 0].tolist()].tolist() == grid.labels.tolist()


def test_images_are_compared_one_by_one_with_the_teachers_of_the_same_noise(digits: LabelledImages) -> None:
    labels = quality.class_labels(100, digits)
    first, second = sets_of(digits, labels, 2)
    extractor = committed("digits")
    real = reference.of_images(digits, extractor)
    config = Quality(num_images=100, bootstrap=0)

    def scored(sets: list[torch.Tensor], teacher: quality.Drawn | None) -> tuple[QualityRow, quality.Drawn]:
        return quality.score("x", 2.0, sets, labels, real, teacher, extractor, config, seeds=range(len(sets)))

    row, teacher = scored([first, second], None)
    assert row.pixel_distance is None and row.feature_distance is None
    row, _ = scored([first, second], teacher)
    assert row.pixel_distance == row.feature_distance == 0
    # The same images in another order: the same distribution, and no longer the same images.
    places = torch.arange(100).view(10, 10).roll(1, 0).flatten()
    assert torch.equal(labels[places], labels)
    row, _ = scored([first[places], second], teacher)
    assert row.by_seed[0].fid_to_teacher == pytest.approx(0, abs=1e-6)
    difference = (first[places].double() - first.double()) / 127.5
    assert row.by_seed[0].pixel_distance == pytest.approx(float(difference.square().mean().sqrt()))
    assert row.by_seed[0].feature_distance > 0.05 and row.by_seed[1].feature_distance == 0
    assert row.pixel_distance == pytest.approx(row.by_seed[0].pixel_distance / 2)


def test_confidence_is_of_each_images_own_class_and_falls_as_images_fade(digits: LabelledImages) -> None:
    labels = quality.class_labels(100, digits)
    (images,) = sets_of(digits, labels, 1)
    extractor = committed("digits")
    real = reference.of_images(digits, extractor)
    config = Quality(num_images=100, bootstrap=0)
    grey = images.double().mean().round()
    found = []
    for kept in (1.0, 0.4, 0.15):
        faded = (grey + kept * (images.double() - grey)).round().to(torch.uint8)
        row, _ = quality.score("x", 2.0, [faded], labels, real, None, extractor, config, seeds=(0,))
        found.append(row.confidence)
    assert 1 >= found[0] > found[1] + 0.02 > found[2] + 0.04
    row, _ = quality.score("x", 2.0, [images.roll(1, 0)], labels, real, None, extractor, config, seeds=(0,))
    assert row.confidence < 0.2


def test_what_is_to_know_of_the_reference_is_the_first_of_the_notes(digits: LabelledImages) -> None:
    own = reference.of_images(digits.take(np.arange(9)), committed("digits"))
    measured = quality.Measured({}, {}, torch.zeros(1), own, ("teacher",))
    (reused,) = measured.notes
    assert replace(measured, reference=replace(own, note="x")).notes == ("x", reused)
    assert replace(measured, reference=None, reused=()).notes == ()

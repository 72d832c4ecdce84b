"""Labelled images: what is refused, how they are split, and batches that depend on (seed, step) alone."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from dashdeploy.data.images import ImageStream, LabelledImages, ShuffledRows, prepare, resize, to_float
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Data


def make(n: int = 20, *, size: int = 4, flip: bool = False) -> LabelledImages:
    """Image i holds i in its left column and 100 + i elsewhere, so that it differs from its mirror."""
    images = np.broadcast_to(np.arange(n)[:, None, None, None] + 100, (n, 1, size, size)).astype(np.uint8)
    images[..., 0] -= 100
    return LabelledImages("made", images, np.arange(n) % 3, ("a", "b", "c"), flip)


def identities(data: LabelledImages) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


# What is refused


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_of_the_classes_is_refused(label: int) -> None:
    labels = np.zeros(20, np.int64)
    labels[5] = label
    with pytest.raises(UserError, match=rf"dataset made: label {label} is none of the 3 classes 0\.\.2"):
        replace(make(), labels=labels)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(UserError, match="dataset made: it holds no images"):
        make().take(np.empty(0, np.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((20, 1, 4, 4), np.float32)}, "uint8"),
        ({"images": np.zeros((20, 4, 4), np.uint8)}, "uint8"),
        ({"labels": np.zeros(19, np.int64)}, r"labels must be \(20,\)"),
    ],
)
def test_other_shapes_and_dtypes_are_our_own_mistake(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make(), **change)  # type: ignore[arg-type]


def test_the_hash_follows_pixels_labels_and_names() -> None:
    data = make()
    pixels, labels = data.images.copy(), data.labels.copy()
    pixels[0, 0, 0, 0] += 1
    labels[0] = 1
    others = [replace(data, images=pixels), replace(data, labels=labels), replace(data, classes=("a", "b", "d"))]
    assert make().sha256 == data.sha256
    assert len({data.sha256, *(other.sha256 for other in others)}) == 4


# Splits


@pytest.mark.parametrize("holdout", [0.01, 0.1, 0.5, 0.9])
def test_a_split_is_disjoint_covering_and_never_without_held_out_images(holdout: float) -> None:
    train, held_out = make().split(holdout, seed=0)
    assert sorted(identities(train) + identities(held_out)) == list(range(20))
    assert len(held_out) == max(1, round(20 * holdout))


def test_a_split_keeps_each_image_with_its_label() -> None:
    for part in make().split(0.3, seed=0):
        assert part.labels.tolist() == [i % 3 for i in identities(part)]


def test_a_split_depends_on_its_seed_alone() -> None:
    first, again, other = (identities(make().split(0.3, seed=seed)[1]) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("n", "holdout"), [(1, 0.1), (2, 0.9), (20, 0.98)])
def test_a_split_that_would_leave_nothing_to_train_on_names_its_setting(n: int, holdout: float) -> None:
    with pytest.raises(UserError, match=rf"dataset made: data\.holdout {holdout} holds out all {n} images"):
        make(n).split(holdout, seed=0)


def test_without_holdout_both_are_the_whole_set() -> None:
    data = make()
    assert data.split(0, seed=0) == (data, data)


# Batches


@pytest.mark.parametrize("batch_size", [1, 4, 7, 20, 45])
def test_each_epoch_visits_every_row_once(batch_size: int) -> None:
    rows = ShuffledRows(20, batch_size=batch_size, seed=0)
    flat = np.concatenate([rows.rows(step) for step in range(-(-60 // batch_size))])
    epochs = flat[:60].reshape(3, 20)
    assert (np.sort(epochs, axis=1) == np.arange(20)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    data = make(flip=True)
    forward, backward = ImageStream(data, batch_size=6, seed=3), ImageStream(data, batch_size=6, seed=3)
    expected = [forward.batch(step) for step in range(10)]
    for step in reversed(range(10)):
        x, y = backward.batch(step)
        np.testing.assert_array_equal(x, expected[step][0])
        np.testing.assert_array_equal(y, expected[step][1])


def test_a_resumed_stream_equals_an_uninterrupted_one() -> None:
    data = make(flip=True)
    whole, resumed = ImageStream(data, batch_size=6, seed=3), ImageStream(data, batch_size=6, seed=3)
    for step in range(5):
        whole.batch(step)
    for step in range(5, 10):
        np.testing.assert_array_equal(whole.batch(step)[0], resumed.batch(step)[0])


def test_another_seed_gives_other_rows() -> None:
    first, other = (ImageStream(make(), batch_size=20, seed=seed).rows(0).tolist() for seed in (0, 1))
    assert first != other


def test_a_batch_holds_the_rows_images_and_labels_in_the_unit_range() -> None:
    data = make()
    stream = ImageStream(data, batch_size=6, seed=0)
    x, y = stream.batch(2)
    rows = stream.rows(2)
    assert (x.dtype, y.dtype, x.shape) == (np.float32, np.int64, (6, 1, 4, 4))
    np.testing.assert_allclose(x, data.images[rows] / 127.5 - 1.0, atol=1e-6)  # float32 against float64
    np.testing.assert_array_equal(y, rows % 3)


def test_flips_mirror_about_half_of_the_images_and_nothing_else() -> None:
    data = make(100, flip=True)
    stream = ImageStream(data, batch_size=100, seed=0)
    mirrored = 0
    for step in range(10):
        x, _ = stream.batch(step)
        plain = to_float(data.images[stream.rows(step)])
        same, flipped = ((x == other).all((1, 2, 3)) for other in (plain, plain[..., ::-1]))
        assert (same ^ flipped).all()
        mirrored += int(flipped.sum())
    assert 430 < mirrored < 570  # 500 ± 4.4 standard deviations of 1000 fair coins


def test_flips_leave_the_stored_images_alone() -> None:
    data = make(flip=True)
    before = data.sha256
    ImageStream(data, batch_size=20, seed=0).batch(0)
    assert data.sha256 == before


def test_no_flip_without_the_setting() -> None:
    data = make(flip=False)
    stream = ImageStream(data, batch_size=20, seed=0)
    np.testing.assert_array_equal(stream.batch(0)[0], to_float(data.images[stream.rows(0)]))


def test_to_float_maps_the_ends_and_the_middle() -> None:
    np.testing.assert_array_equal(to_float(np.array([0, 255], np.uint8)), np.array([-1, 1], np.float32))
    assert to_float(np.array([127, 128], np.uint8)).sum() == pytest.approx(0, abs=1e-6)


# The recipe's size and flip


def test_resize_keeps_constant_images_and_averages_fine_detail() -> None:
    board = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = np.stack([np.full((16, 16), 77, np.uint8), board])[None]
    small = resize(pixels, 4)
    assert (small.shape, small.dtype) == ((1, 2, 4, 4), np.uint8)
    assert (small[0, 0] == 77).all()
    assert abs(small[0, 1].astype(int) - 127.5).max() < 4  # the filter is not an exact mean at the border


def test_prepare_resizes_only_when_asked() -> None:
    data = make(size=8)
    assert prepare(data, Data(image_size=4)).image_shape == (1, 4, 4)
    for config in (Data(), Data(image_size=8)):
        np.testing.assert_array_equal(prepare(data, config).images, data.images)


@pytest.mark.parametrize("own", [True, False])
def test_prepare_lets_the_recipe_override_the_flip(own: bool) -> None:
    data = make(flip=own)
    assert prepare(data, Data()).horizontal_flip is own
    assert prepare(data, Data(horizontal_flip=not own)).horizontal_flip is not own


def test_rectangular_images_need_a_size() -> None:
    data = replace(make(), images=np.zeros((20, 1, 4, 6), np.uint8))
    with pytest.raises(UserError, match=r"dataset made: images are 4×6 \(H×W\), not square\. Set data\.image_size"):
        prepare(data, Data())
    assert prepare(data, Data(image_size=5)).image_shape == (1, 5, 5)


@pytest.mark.parametrize(("h", "w"), [(4, 9), (9, 4), (4, 8), (4, 4)])
def test_rectangular_images_lose_their_ends_and_are_not_squashed(h: int, w: int) -> None:
    # Every pixel holds its position along the longer side, so that a squashed image would hold other values.
    along = np.broadcast_to(np.arange(max(h, w), dtype=np.uint8), (20, 1, min(h, w), max(h, w)))
    images = along if w >= h else along.transpose(0, 1, 3, 2)
    prepared = prepare(replace(make(), images=images), Data(image_size=4)).images
    start = (max(h, w) - 4) // 2
    expected = np.broadcast_to(np.arange(start, start + 4), (20, 1, 4, 4))
    np.testing.assert_array_equal(prepared, expected if w >= h else expected.transpose(0, 1, 3, 2))


def test_rectangular_images_are_cropped_before_they_are_resized() -> None:
    data = replace(make(), images=np.random.default_rng(0).integers(0, 256, (20, 1, 8, 12), np.uint8))
    found = prepare(data, Data(image_size=4)).images
    np.testing.assert_array_equal(found, resize(data.images[..., 2:10], 4))


def test_the_hash_is_of_the_arrays_without_a_copy_of_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 64, 64), dtype=np.uint8)
    data = LabelledImages("x", images, np.zeros(64, np.int64), ("a",), False)
    tracemalloc.start()
    found = data.sha256
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes / 4
    strided = np.concatenate([images, images], axis=3)[..., :64]
    assert LabelledImages("x", strided, data.labels, ("a",), False).sha256 == found


def test_an_image_that_stands_in_for_all_stays_one_in_every_part() -> None:
    one = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    images = np.broadcast_to(one, (10**7, 3, 2, 2))
    data = LabelledImages("x", images, np.arange(10**7) % 3, ("a", "b", "c"), False)
    part = data.take(np.array([4, 0, 2]))
    assert part.labels.tolist() == [1, 0, 2] and (part.images == one).all()
    train, held_out = data.split(0.25)
    assert len(train) == 3 * len(held_out) and train.images.strides[0] == held_out.images.strides[0] == 0

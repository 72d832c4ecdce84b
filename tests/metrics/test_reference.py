"""References of FID from files: images in ADM's layout, and published statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.errors import UserError
from dashdeploy.metrics import frechet, reference
from dashdeploy.metrics.features import Extractor, dimension, open_extractor
from dashdeploy.recipe.schema import Data


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return load_dataset(Data(name="digits")).take(np.arange(200))


@pytest.fixture(scope="module")
def extractor(data: LabelledImages) -> Extractor:
    opened = open_extractor("digits", data, weights=None, holdout=0.1)
    assert opened is not None
    return opened


def arrays(data: LabelledImages) -> dict[str, Any]:
    return {"arr_0": data.images.transpose(0, 2, 3, 1), "arr_1": data.labels}


def statistics(data: LabelledImages, extractor: Extractor) -> dict[str, Any]:
    found = reference.of_images(data, extractor).statistics
    return {"mu": found.mean, "sigma": found.covariance}


def saved(tmp_path: Path, held: dict[str, Any]) -> Path:
    np.savez(tmp_path / "x.npz", **held)
    return tmp_path / "x.npz"


def test_images_of_a_file_are_as_those_of_the_recipe(
    data: LabelledImages, extractor: Extractor, tmp_path: Path
) -> None:
    own = reference.of_images(data, extractor)
    read = reference.of_file(saved(tmp_path, arrays(data)), data, extractor)
    assert read.features is not None and own.features is not None and read.labels is not None
    np.testing.assert_array_equal(read.features, own.features)
    np.testing.assert_array_equal(read.labels, data.labels)
    assert (read.num, read.file, own.file) == (200, "x.npz", None) and read.sha256 is not None
    unlabelled = {name: array for name, array in arrays(data).items() if name == "arr_0"}
    assert reference.of_file(saved(tmp_path, unlabelled), data, extractor).labels is None


def test_statistics_give_the_same_fid_and_nothing_that_needs_images(
    data: LabelledImages, extractor: Extractor, tmp_path: Path
) -> None:
    own = reference.of_images(data, extractor)
    held = {name: array.astype(np.float32) for name, array in statistics(data, extractor).items()}
    read = reference.of_file(saved(tmp_path, held), data, extractor)
    assert read.features is None and read.surroundings is None and read.num == 0
    assert own.features is not None
    half = own.features[:100]
    expected = frechet.fid([half], own.statistics, resamples=0, seed=0).value
    assert frechet.fid([half], read.statistics, resamples=0, seed=0).value == pytest.approx(expected, rel=1e-4)
    assert frechet.fid([own.features], read.statistics, resamples=0, seed=0).value < 1e-4


def test_of_adms_batches_fid_takes_the_statistics_and_all_else_the_images(
    data: LabelledImages, extractor: Extractor, tmp_path: Path
) -> None:
    some, whole = data.take(np.arange(50)), reference.of_images(data, extractor)
    path = saved(tmp_path, {**arrays(some), **statistics(data, extractor), "mu_s": np.zeros(3)})
    reference.refuse(path, data, features="auto")
    read = reference.of_file(path, data, extractor)
    np.testing.assert_array_equal(read.statistics.mean, whole.statistics.mean)
    np.testing.assert_array_equal(read.statistics.covariance, whole.statistics.covariance)
    assert whole.features is not None and read.features is not None
    np.testing.assert_allclose(read.features, whole.features[:50], atol=1e-5)
    assert (read.num, read.published, read.note) == (50, True, None)


def test_statistics_of_another_network_beside_images_are_left_out_and_the_note_says_so(
    data: LabelledImages, extractor: Extractor, tmp_path: Path
) -> None:
    own = reference.of_images(data, extractor)
    path = saved(tmp_path, {**arrays(data), "mu": np.zeros(2048), "sigma": np.eye(2048)})
    reference.refuse(path, data, features="auto")
    read = reference.of_file(path, data, extractor)
    np.testing.assert_array_equal(read.statistics.mean, own.statistics.mean)
    assert not read.published and read.note == (
        "The statistics in x.npz are of 2048 features, and digits-classifier has 64: FID is against the images in it."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: {"other": h["arr_0"]}, r"has no arr_0, and no mu with sigma"),
        (lambda h: h | {"arr_0": h["arr_0"].astype(np.float32)}, r"arr_0 is .* float32"),
        (lambda h: h | {"arr_0": h["arr_0"].transpose(0, 3, 1, 2)}, r"its images are \(1, 8, 8\) \(H, W, C\), and the"),
        (lambda h: h | {"arr_0": h["arr_0"][:1], "arr_1": h["arr_1"][:1]}, "at least two images"),
        (lambda h: h | {"arr_1": h["arr_1"][:7]}, r"arr_1 is \(7,\)"),
        (lambda h: h | {"arr_1": h["arr_1"] + 9}, "arr_1 go from 9 to 18; the data have 10 classes"),
        (lambda h: {"mu": np.zeros(16)}, "no mu with sigma"),
        (lambda h: h | {"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "holds NaN or Inf"),
        (lambda h: {"mu": np.zeros(16), "sigma": np.zeros((16, 15))}, r"sigma \(16, 15\)"),
        (lambda h: {"mu": np.zeros(16, int), "sigma": np.eye(16)}, "expected real numbers"),
        (lambda h: {"mu": np.full(16, np.nan), "sigma": np.eye(16)}, "holds NaN or Inf"),
        (lambda h: {"mu": np.zeros(16), "sigma": np.tri(16)}, "sigma is no covariance"),
        (lambda h: {"mu": np.zeros(16), "sigma": -np.eye(16)}, "sigma is no covariance"),
        (lambda h: {"mu": np.zeros(2048), "sigma": np.eye(2048)}, r"statistics of 2048 features, and the network"),
    ],
)
def test_what_is_no_reference_is_refused_in_one_line(
    data: LabelledImages,
    extractor: Extractor,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
) -> None:
    path = saved(tmp_path, change(arrays(data)))
    with pytest.raises(UserError, match=message) as caught:
        reference.of_file(path, data, extractor)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_damaged_or_missing_is_refused(
    data: LabelledImages, extractor: Extractor, tmp_path: Path
) -> None:
    path = saved(tmp_path, arrays(data))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"not a whole \.npz file"):
        reference.read(path, data)
    with pytest.raises(UserError, match="no such file"):
        reference.read(tmp_path / "none.npz", data)
    np.savez(tmp_path / "o.npz", arr_0=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"without pickled objects"):
        reference.read(tmp_path / "o.npz", data)


@pytest.mark.parametrize(("features", "width"), [("auto", 64), ("fit", 64), ("inception", 2048)])
def test_statistics_of_another_width_are_told_without_a_network(
    data: LabelledImages, tmp_path: Path, features: str, width: int
) -> None:
    reference.refuse(saved(tmp_path, {"mu": np.zeros(width), "sigma": np.eye(width)}), data, features=features)
    path = saved(tmp_path, {"mu": np.zeros(100), "sigma": np.eye(100)})
    with pytest.raises(UserError, match=rf"statistics of 100 features, and the network \w+ has {width}\."):
        reference.refuse(path, data, features=features)


def test_the_known_widths_are_the_networks(data: LabelledImages, extractor: Extractor) -> None:
    assert reference.of_images(data, extractor).statistics.mean.shape == (dimension("digits"),)

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.errors import UserError
from dashdeploy.metrics import features, fit
from dashdeploy.recipe.schema import Data


@functools.cache
def images() -> LabelledImages:
    return load_dataset(Data(name="digits"))


def opened(name: str, data: LabelledImages, *, weights: str | None = None, holdout: float = 0.1) -> Any:
    return features.open_extractor(name, data, weights=weights, holdout=holdout)


def test_the_digits_network_classifies_held_out_digits() -> None:
    data = load_dataset(Data(name="digits"))
    _, held_out = data.split(0.1)
    extractor = opened("auto", data)
    found, probabilities = extractor(torch.from_numpy(held_out.images))
    assert found.shape == (len(held_out), 64)
    assert probabilities is not None and probabilities.shape == (len(held_out), 10)
    assert (probabilities.argmax(1) == held_out.labels).mean() > 0.97
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_the_fashion_mnist_network_takes_images_of_another_size() -> None:
    extractor = features.committed("fashion_mnist")
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found, probabilities = extractor(images)
    assert found.shape == (3, 64)
    assert probabilities is not None
    assert np.isfinite(found).all()


def test_features_do_not_depend_on_the_batch() -> None:
    images = torch.randint(0, 256, (600, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = features.committed("digits")
    whole, _ = extractor(images)
    part, _ = extractor(images[590:])
    np.testing.assert_allclose(whole[590:], part, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(features.SPECS))
def test_every_committed_network_is_the_one_whose_hash_is_in_the_code(name: str) -> None:
    assert features.committed(name).sha256 == features.SPECS[name].sha256


def test_a_changed_network_is_refused(tmp_path: Path) -> None:
    spec = features.SPECS["digits"]
    shutil.copy(features.NETWORKS / spec.file, tmp_path)
    with (tmp_path / spec.file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="not the feature network"):
        features.committed("digits", tmp_path)


def test_a_dataset_without_a_network_is_told_of_the_three_choices() -> None:
    with pytest.raises(UserError, match=r"none .* fit .* inception, with features_weights"):
        opened("auto", replace(images(), name="image_folder"))


def test_a_network_for_other_channels_is_refused() -> None:
    rgb = replace(images(), images=images().images.repeat(3, axis=1))
    with pytest.raises(UserError, match="with 1 channels, and those of digits have 3"):
        opened("auto", rgb)


def test_no_network_is_opened_where_none_is_wanted() -> None:
    assert opened("none", images()) is None


def test_inception_needs_the_published_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs its weights"):
        opened("inception", images())
    with pytest.raises(UserError, match="no such file"):
        opened("inception", images(), weights=str(tmp_path / "w.pth"))
    (tmp_path / "w.pth").write_bytes(b"other")
    with pytest.raises(UserError, match="SHA-256"):
        opened("inception", images(), weights=str(tmp_path / "w.pth"))


def test_a_network_is_fitted_to_labelled_images_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fit, "STEPS", 300)
    data = replace(images(), name="image_folder")
    first = opened("fit", data, holdout=0.1)
    assert first.held_out_accuracy > 0.9
    assert "fitting a feature network to 1617 images" in capsys.readouterr().err
    again = opened("fit", data, holdout=0.1)
    assert (again.sha256, again.held_out_accuracy) == (first.sha256, first.held_out_accuracy)
    assert capsys.readouterr().err == ""
    _, held_out = data.split(0.1)
    probabilities = again(torch.from_numpy(held_out.images))[1]
    assert probabilities is not None
    assert (probabilities.argmax(1) == held_out.labels).mean() == first.held_out_accuracy
    (cached,) = (tmp_path / "dashdeploy" / "features").iterdir()
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    assert opened("fit", data, holdout=0.1).sha256 == first.sha256
    assert "damaged; it is made again" in capsys.readouterr().err


def test_a_classifier_cannot_be_fitted_to_one_class() -> None:
    one = replace(images(), labels=np.zeros_like(images().labels), classes=("all",))
    with pytest.raises(UserError, match="the data have one class"):
        opened("fit", one)

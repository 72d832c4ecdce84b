from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dashdeploy.data import load_dataset
from dashdeploy.errors import UserError
from dashdeploy.metrics import features
from dashdeploy.recipe.schema import Data


def test_the_digits_network_classifies_held_out_digits() -> None:
    data = load_dataset(Data(name="digits"))
    _, held_out = data.split(0.1)
    extractor = features.open_extractor("auto", "digits", weights=None)
    found, labels = extractor(torch.from_numpy(held_out.images))
    assert found.shape == (len(held_out), 64)
    assert labels is not None
    assert (labels == held_out.labels).mean() > 0.97


def test_the_fashion_mnist_network_takes_images_of_another_size() -> None:
    extractor = features.open_extractor("auto", "fashion_mnist", weights=None)
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found, labels = extractor(images)
    assert found.shape == (3, 64)
    assert labels is not None
    assert np.isfinite(found).all()


def test_features_do_not_depend_on_the_batch() -> None:
    images = torch.randint(0, 256, (600, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = features.open_extractor("digits", "digits", weights=None)
    whole, _ = extractor(images)
    part, _ = extractor(images[590:])
    np.testing.assert_allclose(whole[590:], part, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(features.SPECS))
def test_every_committed_network_is_the_one_whose_hash_is_in_the_code(name: str) -> None:
    assert (
        features.ClassifierFeatures(name, features.SPECS[name], features.NETWORKS).sha256 == features.SPECS[name].sha256
    )


def test_a_changed_network_is_refused(tmp_path: Path) -> None:
    spec = features.SPECS["digits"]
    shutil.copy(features.NETWORKS / spec.file, tmp_path)
    with (tmp_path / spec.file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="not the feature network"):
        features.ClassifierFeatures("digits", spec, tmp_path)


def test_a_dataset_without_a_network_is_told_of_inception() -> None:
    with pytest.raises(UserError, match="--features inception"):
        features.open_extractor("auto", "cifar10", weights=None)


def test_inception_needs_the_published_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs its weights"):
        features.open_extractor("inception", "digits", weights=None)
    with pytest.raises(UserError, match="no such file"):
        features.open_extractor("inception", "digits", weights=str(tmp_path / "w.pth"))
    (tmp_path / "w.pth").write_bytes(b"other")
    with pytest.raises(UserError, match="SHA-256"):
        features.open_extractor("inception", "digits", weights=str(tmp_path / "w.pth"))

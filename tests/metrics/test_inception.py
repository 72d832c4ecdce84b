"""Inception features and their FID, held against torch-fidelity's on one file of random weights."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dashdeploy.data import load_dataset
from dashdeploy.errors import UserError
from dashdeploy.metrics.features import InceptionFeatures, open_extractor
from dashdeploy.metrics.inception import Inception, resize
from dashdeploy.recipe.schema import Data
from dashdeploy.stages import file_sha256
from tests.scripts import load

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "inception_fid.py"


# torch-fidelity 0.4.0 on the same weights and images.
REFERENCE = ((0.0, 0.0115477, 0.0272129, 7.4252286), (0.0025902, 0.0242398, 0.0617758, 8.0874786))
REFERENCE_MEANS = (2.0396738, 2.2131157)


@pytest.fixture
def modules_kept() -> Iterator[None]:
    """torchvision's stand-in is gone after the test: others look whether torchvision is there."""
    before = dict(sys.modules)
    yield
    for name in sys.modules.keys() - before.keys():
        if name.partition(".")[0] in ("torchvision", "torch_fidelity"):
            del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.slow
@pytest.mark.usefixtures("modules_kept")
def test_features_and_fid_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed; pip install --no-deps torch-fidelity")
    torch.set_num_threads(1)
    found = load(SCRIPT).compare(8, tmp_path)
    assert found["torch_fidelity_fid"] > 1
    assert found["fid_difference"] < 1e-3
    assert found["feature_mean"] > 0.1
    assert found["feature_max_difference"] < 1e-4


def test_features_are_what_torch_fidelity_gave(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    script = load(SCRIPT)
    weights = script.random_weights(tmp_path / "w.pth")
    features, labels = InceptionFeatures(weights, sha256=file_sha256(weights))(script.two_sets(2)[1])
    assert labels is None and features.shape == (2, 2048) and features.dtype == np.float32
    np.testing.assert_allclose(features[:, :4], REFERENCE, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.mean(1), REFERENCE_MEANS, rtol=1e-4)


def test_grey_images_are_taken_as_three_equal_channels(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    weights = load(SCRIPT).random_weights(tmp_path / "w.pth")
    extractor = InceptionFeatures(weights, sha256=file_sha256(weights))
    grey = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(extractor(grey)[0], extractor(grey.expand(-1, 3, -1, -1).contiguous())[0])


def test_a_recipe_takes_no_weights_but_the_published_ones(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    torch.save({}, weights)
    with pytest.raises(UserError, match="expected 6726825d"):
        open_extractor("inception", load_dataset(Data(name="digits")), weights=str(weights), holdout=0.1)


def test_the_layout_is_that_of_the_published_weights() -> None:
    with torch.device("meta"):
        state = Inception().state_dict()
    # Inception v3 with 1008 outputs and no auxiliary head.
    assert sum(v.numel() for k, v in state.items() if k.endswith(("weight", "bias"))) == 23_850_960
    assert state["fc.weight"].shape == (1008, 2048)
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)


def test_the_resize_has_no_half_pixel_centres() -> None:
    ramp = torch.tensor([0.0, 10.0]).expand(1, 1, 2, 2)
    assert resize(ramp, 4)[0, 0, 0].tolist() == [0.0, 5.0, 10.0, 10.0]
    assert resize(ramp.mT, 4)[0, 0, :, 0].tolist() == [0.0, 5.0, 10.0, 10.0]

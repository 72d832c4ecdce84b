"""What is looked at before latents are made or decoded, and what a benchmark need not decode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashdeploy.autoencoder import Autoencoder
from dashdeploy.bench import subjects
from dashdeploy.data import encode, load_dataset
from dashdeploy.errors import UserError
from dashdeploy.preflight import examine as preflight
from dashdeploy.recipe.load import load_recipe
from dashdeploy.recipe.schema import Recipe
from tests import latent

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def of_files(latent_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe with the same latents in a file, and a file that samples are compared with."""
    folder, data = tmp_path_factory.mktemp("files"), load_dataset(load_recipe(latent_folder / "recipe.yaml").data)
    np.savez(folder / "x.npz", latents=data.images, labels=data.labels, classes=np.array(data.classes))
    np.savez(folder / "real.npz", arr_0=np.zeros((4, 16, 16, 3), np.uint8))
    given = [f"data={{name: latents, path: {folder}/x.npz, vae: {latent_folder}/pipeline/vae}}"]
    return load_recipe(
        latent_folder / "recipe.yaml",
        overrides=[*given, f"bench.quality={{features: none, reference: {folder}/real.npz}}"],
    )


def test_where_no_pixel_is_read_one_latent_is_decoded(
    of_files: Recipe, latent_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, plain = [], encode.decode

    def decode(held: Any, *args: Any, **more: Any) -> Any:
        counts.append(len(held))
        return plain(held, *args, **more)

    monkeypatch.setattr(encode, "decode", decode)
    monkeypatch.setattr(subjects, "_refuse_other_data", lambda *args: None)
    assert preflight.examine(of_files, latent_run).data is not None
    found = subjects.find(latent_run, of_files)
    assert counts == [1, 1]
    assert found.pictures.image_shape == (3, 16, 16) and (found.pictures.labels == found.data.labels).all()
    quality = of_files.bench.quality.model_copy
    for features, given, reads in [
        ("fit", "x", True),
        ("auto", "x", False),
        ("auto", None, True),
        ("none", None, False),
    ]:
        assert subjects._reads_pixels(quality(update={"features": features, "reference": given})) == reads


def test_another_autoencoder_than_the_students_is_refused_by_the_benchmark(
    of_files: Recipe, latent_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "_refuse_other_data", lambda *args: None)
    Autoencoder(latent.tiny(), source="x").save(tmp_path / "tiny")
    changed = of_files.data.model_copy(update={"vae": str(tmp_path / "tiny")})
    with pytest.raises(UserError, match=r"data\.vae .*tiny .* is another autoencoder than the one .*student/vae"):
        subjects.find(latent_run, of_files.model_copy(update={"data": changed}))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"latent_channels": 8}, r"its latents are \(8, 4, 4\) .* takes \(4, 4, 4\)\. Take the autoencoder"),
        (None, r"its latents are \(4, 8, 8\) .* set data\.image_size"),
    ],
)
def test_latents_that_the_teacher_does_not_take_are_told_before_any_is_made(
    latent_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Any, message: str
) -> None:
    monkeypatch.setattr(encode, "encode", lambda *a, **k: pytest.fail("encoded"))
    changes = ["data.image_size=32"]
    if other is not None:
        Autoencoder(latent.kl(**other), source="x").save(tmp_path / "other")
        changes = [f"data.vae={tmp_path}/other"]
    made = load_recipe(latent_folder / "recipe.yaml", overrides=changes)
    (problem,) = preflight.examine(made, tmp_path / "run").problems
    assert re.search(message, problem)

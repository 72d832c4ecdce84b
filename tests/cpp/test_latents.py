"""The C++ runtime with a student of latents: images by the decoder, latents where they are asked for."""

from __future__ import annotations

import ctypes as c
import shutil
from collections.abc import Iterator
from pathlib import Path

import building
import numpy as np
import pytest
import torch
from library import Library, Model, Request, StatusError, guidance

from dashdeploy.diffusion.sampling import initial_noise, plan
from dashdeploy.export.export import export
from dashdeploy.runtime.model import Model as PythonModel
from dashdeploy.runtime.opening import open_path
from dashdeploy.target import load_target

pytestmark = pytest.mark.slow

LABELS = np.array([2, 0, 1, 1, 2])


@pytest.fixture(scope="module")
def artifact(latent_folder: Path, latent_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its decoder takes two images at a time, and gives bytes."""
    folder = tmp_path_factory.mktemp("cpp-latents") / "latent"
    shutil.copytree(latent_run / "student", folder / "student")
    text = (latent_folder / "vino.yaml").read_text() + "vae: {at_once: 2, output: uint8}\n"
    (folder / "vino.yaml").write_text(text)
    return export(folder, load_target(str(folder / "vino.yaml"))).folder


@pytest.fixture(scope="module")
def model(library: Library, artifact: Path) -> Iterator[Model]:
    with Model(library, artifact, threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def python(artifact: Path) -> Iterator[PythonModel]:
    with open_path(artifact, threads=1) as opened:
        yield opened


def expected(python: PythonModel, *, decode: bool) -> np.ndarray:
    interface = python.denoiser.interface
    run = plan(python.sampling, interface.schedule.num_train_timesteps)
    noise = initial_noise(4, 0, len(LABELS), interface.noise_shape(run))
    return python.sample(noise, torch.from_numpy(LABELS), run, decode=decode).numpy()


def test_it_says_what_it_writes(model: Model) -> None:
    assert (model.info.latents, model.info.decodes) == (1, 1)
    assert model.noise_shape == (4, 4, 4) and model.image_shape == (3, 16, 16)


def test_images_and_latents_are_those_of_python(model: Model, python: PythonModel) -> None:
    images = model.sample(LABELS, seed=4)
    latents = model.sample(LABELS, seed=4, latents=1)
    assert images.shape == (5, 3, 16, 16) and latents.shape == (5, 4, 4, 4)
    assert np.abs(images - expected(python, decode=True)).max() < 1e-3
    assert np.abs(latents - expected(python, decode=False)).max() < 1e-5


def test_an_application_may_decode_by_itself(model: Model) -> None:
    latents = model.sample(LABELS, seed=4, latents=1)
    np.testing.assert_array_equal(model.decode(latents), model.sample(LABELS, seed=4))


def test_a_caller_of_an_earlier_version_gets_what_it_has_room_for(model: Model, library: Library) -> None:
    labels = np.ascontiguousarray(LABELS, np.int64)
    out = np.full((len(labels) + 1, *model.noise_shape), 7, np.float32)
    request = Request(size=Request.latents.offset, count=len(labels), labels=labels.ctypes.data, seed=4)
    request.guidance = guidance()
    library.call("dd_sample", model.handle, c.byref(request), c.c_void_p(out.ctypes.data))
    np.testing.assert_array_equal(out[:-1], model.sample(LABELS, seed=4, latents=1))
    assert (out[-1] == 7).all()


def test_what_cannot_be_decoded_is_refused(model: Model, library: Library, package: Path) -> None:
    with pytest.raises(StatusError, match=r"latents\[2\] is not a finite number"):
        latents = np.zeros((1, 4, 4, 4), np.float32)
        latents.flat[2] = np.nan
        model.decode(latents)
    with pytest.raises(StatusError, match="count is 0"):
        model.decode(np.zeros((0, 4, 4, 4), np.float32))
    shutil.copytree(package / "artifact", package.parent / "of-images", dirs_exist_ok=True)
    with Model(library, package.parent / "of-images") as images:
        assert (images.info.latents, images.info.decodes) == (0, 0) and images.image_shape == images.noise_shape
        with pytest.raises(StatusError, match="the artifact has no decoder; it draws images as they are"):
            images.decode(np.zeros((1, 1, 8, 8), np.float32))


def test_the_cpp_header_refuses_a_part_of_a_latent(released: Path, artifact: Path, tmp_path: Path) -> None:
    source = (
        "#include <dashdeploy/dashdeploy.hpp>\n#include <iostream>\n"
        "int main(int, char **arguments) {\n"
        "  dashdeploy::Model model(arguments[1]);\n"
        "  std::vector<float> latents(2 * model.noise_size());\n"
        "  std::cout << model.decode(latents).size() / model.image_size();\n"
        "  latents.push_back(0);\n"
        "  try { model.decode(latents); } catch (const dashdeploy::Error &error) { std::cout << error.what(); }\n"
        "}\n"
    )
    said = building.run(building.program(source, tmp_path, released), artifact).stdout
    assert said == "2invalid argument: latents: 129 values are no whole number of latents of 64 values each"


def test_the_program_writes_a_picture(released: Path, artifact: Path, tmp_path: Path) -> None:
    done = building.run(released / "dashdeploy-sample", artifact, "--columns", "2", "--out", tmp_path / "x.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    told = building.run(released / "dashdeploy-sample", artifact, "--info").stdout
    assert "images      3 x 16 x 16" in told

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from dashdeploy.diffusion import schedule
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Architecture, NoiseSchedule
from dashdeploy.teachers import formats, networks, unet2d

SMALL = Architecture(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
SCHEDULE = schedule.from_recipe(NoiseSchedule())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    unet = unet2d.build(SMALL, image_shape=(1, 8, 8), num_classes=4, seed=0)
    networks.save(unet, SCHEDULE, tmp_path / "model")
    return tmp_path / "model"


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0, 500, 999]), torch.tensor([0, 3, 4])


def test_a_saved_model_loads_here_and_in_plain_diffusers_with_the_same_output(saved: Path) -> None:
    ours = unet2d.load(saved)
    theirs = UNet2DModel.from_pretrained(saved, subfolder="unet").eval()
    with torch.no_grad():
        expected = theirs(*inputs()[:2], class_labels=inputs()[2]).sample
        assert torch.equal(ours(*inputs()), expected)
    scheduler = DDIMScheduler.from_pretrained(saved, subfolder="scheduler")
    torch.testing.assert_close(scheduler.alphas_cumprod, SCHEDULE.alphas_cumprod, rtol=1e-3, atol=1e-7)
    assert ours.interface.num_classes == 4
    assert ours.interface.image_shape == (1, 8, 8)


def test_a_model_folder_without_sub_folders_loads_too(saved: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(saved / "unet", flat)
    shutil.copy(saved / "scheduler" / "scheduler_config.json", flat)
    assert unet2d.load(flat).interface.num_classes == 4


def test_the_seed_alone_decides_the_first_weights() -> None:
    torch.manual_seed(1)
    a = unet2d.build(SMALL, image_shape=(1, 8, 8), num_classes=4, seed=7)
    torch.manual_seed(2)
    b = unet2d.build(SMALL, image_shape=(1, 8, 8), num_classes=4, seed=7)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_half_precision_storage_halves_the_file_and_loads_as_float32(saved: Path, tmp_path: Path) -> None:
    unet = unet2d.load(saved).unet
    networks.save(unet, SCHEDULE, tmp_path / "half", dtype=torch.float16)
    sizes = [(folder / "unet" / networks.WEIGHTS).stat().st_size for folder in (saved, tmp_path / "half")]
    assert sizes[1] < 0.7 * sizes[0]
    loaded = unet2d.load(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs()), unet2d.load(saved)(*inputs()), rtol=1e-2, atol=1e-2)


def test_a_loaded_model_is_in_eval_mode_and_takes_no_gradient(saved: Path) -> None:
    model = unet2d.load(saved)
    assert not model.unet.training
    assert not any(p.requires_grad for p in model.parameters())


def edit(path: Path, **changes: object) -> None:
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_class_embeds": None}, "null class"),
        ({"block_out_channels": [8, 24]}, "do not fit together"),
        ({"sample_size": None}, "sample_size is missing"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(saved: Path, changes: dict, message: str) -> None:
    edit(saved / "unet" / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        unet2d.load(saved)


def test_a_model_of_another_class_is_refused_with_the_supported_ones(saved: Path) -> None:
    assert formats.load(saved, role="teacher").interface.num_classes == 4
    edit(saved / "unet" / "config.json", _class_name="UNet2DConditionModel")
    with pytest.raises(UserError, match="it is a UNet2DConditionModel; supported are class-conditional networks: DiT"):
        formats.load(saved, role="teacher")


def test_a_truncated_weights_file_is_named(saved: Path) -> None:
    path = saved / "unet" / networks.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{networks.WEIGHTS}: not a whole safetensors file"):
        unet2d.load(saved)


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", f"unet/{networks.WEIGHTS}"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(UserError, match="no such file"):
        unet2d.load(saved)


def test_invalid_json_is_named(saved: Path) -> None:
    (saved / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError, match="not a whole configuration of a teacher in JSON"):
        unet2d.load(saved)


def test_an_image_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be halved"):
        unet2d.build(SMALL, image_shape=(1, 9, 9), num_classes=4, seed=0)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_a_teacher_that_predicts_something_else_gives_that_and_its_interface_gives_eps(saved: Path, kind: str) -> None:
    x, t, y = inputs()
    with torch.no_grad():
        raw = unet2d.load(saved)(x, t, y)
        edit(saved / "scheduler" / "scheduler_config.json", prediction_type=kind)
        teacher = unet2d.load(saved)
        assert teacher.interface.prediction == kind
        assert torch.equal(teacher(x, t, y), raw)
    bar = SCHEDULE.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    a, s = bar.sqrt(), (1 - bar).sqrt()
    eps = a * raw + s * x if kind == "v_prediction" else (x - a * raw) / s
    torch.testing.assert_close(teacher.interface.convert(raw, x, t, "epsilon").double(), eps, rtol=1e-5, atol=1e-5)


def test_an_unknown_prediction_type_is_refused_and_names_the_file(saved: Path) -> None:
    edit(saved / "scheduler" / "scheduler_config.json", prediction_type="flow")
    with pytest.raises(UserError, match=r"scheduler_config\.json: prediction_type 'flow' is not supported"):
        unet2d.load(saved)


def test_zero_terminal_snr_is_exact_and_nothing_is_said_of_it(saved: Path) -> None:
    edit(saved / "scheduler" / "scheduler_config.json", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = unet2d.load(saved).interface.schedule
    assert schedule.zero_terminal_snr and float(schedule.alphas_cumprod[-1]) == 0


def test_eps_with_betas_that_end_at_zero_snr_is_refused(saved: Path) -> None:
    edit(saved / "scheduler" / "scheduler_config.json", trained_betas=[*SCHEDULE.betas[:-1].tolist(), 1.0])
    with pytest.raises(UserError, match=r"scheduler_config\.json: alphas_cumprod is 0 at the last timestep"):
        unet2d.load(saved)

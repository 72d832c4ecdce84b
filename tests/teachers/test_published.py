"""A checkpoint of the paper's layout computes as a UNet2DModel what it computed, and its λ goes to the student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dashdeploy.diffusion import schedule as schedules
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import NoiseSchedule, TimestepWeights
from dashdeploy.teachers import formats, networks, published
from dashdeploy.training.adopt import adopt
from dashdeploy.training.timestep_weights import transfer
from tests.teachers.paper_unet import PaperUNet, checkpoint

K = 5
LAMBDA = torch.linspace(-1, 1, 1000)


@pytest.fixture(scope="module")
def network() -> PaperUNet:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return PaperUNet(channels=(32, 64, 64), blocks=2, attention_levels=(1,), classes=K).eval()


@pytest.fixture(scope="module")
def saved(network: PaperUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "ckpt_epoch_0003.pth"
    torch.save(checkpoint(network, lam=LAMBDA), path)
    return path


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0, 431, 999]), torch.tensor([0, K - 1, K])


def test_an_adopted_network_computes_what_the_original_computed(
    network: PaperUNet, saved: Path, tmp_path: Path
) -> None:
    made = adopt(saved, tmp_path / "teacher", image_size=16)
    teacher = formats.load(tmp_path / "teacher", role="teacher")
    with torch.no_grad():
        expected, found = network(*inputs()), teacher(*inputs())
        both = teacher.branches(*inputs())
    # Other kernels add in another order; a tensor in the wrong place would be a difference of the outputs' own size.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[0][2], expected[2], rtol=1e-4, atol=1e-5)
    assert (made.num_classes, made.has_lambda) == (K, True)
    assert made.parameters == sum(p.numel() for p in network.parameters())
    assert teacher.interface.image_shape == (3, 16, 16)
    cosine = schedules.from_recipe(NoiseSchedule(kind="cosine", beta_start=1e-4, beta_end=0.9999))
    assert teacher.interface.schedule.sha256 == cosine.sha256


def test_the_papers_own_architectures_have_its_parameter_counts() -> None:
    for channels, blocks, expected in ((128, 2, 35_751_939), (64, 1, 6_082_627)):
        widths = (channels, *[2 * channels] * 3)
        with torch.device("meta"):
            network = PaperUNet(channels=widths, blocks=blocks, attention_levels=(1,), classes=10)
        config = published.unet_arguments(network.state_dict(), Path("x"), image_size=32)
        assert networks.count_parameters(config) == sum(p.numel() for p in network.parameters()) == expected


def test_lambda_is_transferred_bit_identical(saved: Path, tmp_path: Path) -> None:
    adopt(saved, tmp_path / "teacher", image_size=16)
    schedule, _ = networks.load_schedule(tmp_path / "teacher", "teacher")
    for kind in ("published", "tirt"):
        weights = transfer(TimestepWeights(kind=kind), schedule, tmp_path / "teacher")
        assert weights.frozen and torch.equal(weights.lam, LAMBDA)


def test_the_averaged_weights_are_taken_unless_the_last_are_asked_for(saved: Path, tmp_path: Path) -> None:
    taken = {}
    for weights in ("ema", "model"):
        adopt(saved, tmp_path / weights, image_size=16, weights=weights)
        taken[weights] = load_file(tmp_path / weights / "unet" / networks.WEIGHTS)["conv_in.bias"]
    torch.testing.assert_close(taken["model"], taken["ema"] + 0.25)


def test_a_students_checkpoint_without_lambda_and_from_data_parallel_is_read(network, tmp_path: Path) -> None:
    found = checkpoint(network, lam=None)
    for part in (found["model_state_dict"], found["ema_state_dict"]["shadow"]):
        for name in list(part):
            part[f"module.{name}"] = part.pop(name)
    torch.save(found, tmp_path / "ckpt_epoch_0001.pth")
    made = adopt(tmp_path / "ckpt_epoch_0001.pth", tmp_path / "student", image_size=16)
    assert not made.has_lambda
    assert not (tmp_path / "student" / "timestep_weights.safetensors").exists()


class Harmful:
    """Would run code where a pickle is loaded without weights_only."""

    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('executed')",))


def without(found: dict, *names: str) -> dict:
    return {k: v for k, v in found.items() if k not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: without(f, "model_state_dict"), "has no model_state_dict .it has epoch, optimizer"),
        (lambda f: without(f, "ema_state_dict"), "ema_state_dict does not hold an average.*--weights model"),
        (lambda f: {**f, "tirt_state_dict": {}}, "tirt_state_dict holds no λ"),
        (lambda f: {**f, "extra": Harmful()}, "which only running its code would read"),
        (lambda f: [f], "holds a list; expected a dict"),
    ],
)
def test_another_file_is_refused_with_what_is_wrong(network, tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "ckpt_epoch_0001.pth"
    torch.save(change(checkpoint(network, lam=LAMBDA)), path)
    with pytest.raises(UserError, match=message) as caught:
        adopt(path, tmp_path / "teacher", image_size=16)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (("down.0.downsample.conv", "down.0.downsample.op"), r"it has no down\.0\.downsample\.conv\.weight"),
        (("mid.attn_1.q", "mid.attn_1.query"), r"2 unknown names, such as mid\.attn_1\.query\.weight"),
        (("mid.attn_1.q", "mid.attn_1.k"), "do not fit together"),
    ],
)
def test_another_layout_is_refused_and_names_the_difference(network, tmp_path: Path, rename, message: str) -> None:
    found = checkpoint(network, lam=None)
    renamed = {name.replace(*rename): tensor for name, tensor in network.state_dict().items()}
    found["model_state_dict"] = found["ema_state_dict"]["shadow"] = renamed
    torch.save(found, tmp_path / "ckpt_epoch_0001.pth")
    with pytest.raises(UserError, match=message):
        adopt(tmp_path / "ckpt_epoch_0001.pth", tmp_path / "teacher", image_size=16)


def test_a_truncated_or_missing_file_is_named(saved: Path, tmp_path: Path) -> None:
    cut = tmp_path / "ckpt_epoch_0002.pth"
    with pytest.raises(UserError, match=r"ckpt_epoch_0002\.pth: no such file"):
        adopt(cut, tmp_path / "teacher")
    cut.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"ckpt_epoch_0002\.pth: is damaged, or holds more"):
        adopt(cut, tmp_path / "teacher")


def test_a_size_that_cannot_be_halved_and_a_folder_in_use_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="18 pixels do not allow: give --image-size"):
        adopt(saved, tmp_path / "teacher", image_size=18)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match="is there already; give a new folder"):
        adopt(saved, tmp_path / "used", image_size=16)

"""A DiT cut out of a DiT: the same network where nothing is cut, and what matters most where something is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.recipe.initialisation import Pruned
from dashdeploy.recipe.schema import Student
from dashdeploy.students import dit_pruning
from dashdeploy.students.architecture import design
from dashdeploy.teachers import networks
from tests.made import schedule

HEADS, HEAD, DEPTH, CLASSES = 4, 8, 4, 3


@dataclass
class Draw:
    x_t: torch.Tensor
    t: torch.Tensor
    y: torch.Tensor
    target: torch.Tensor


def draws() -> Iterator[Draw]:
    generator = torch.Generator().manual_seed(5)
    for _ in range(2):
        x = torch.randn((6, 4, 8, 8), generator=generator)
        yield Draw(x, torch.arange(6) * 150, torch.arange(6) % CLASSES, x)


def network(**more: Any) -> Any:
    """With gates and modulations that are not near 0, as in a trained one."""
    torch.manual_seed(0)
    made: Any = DiTTransformer2DModel(
        **{
            "num_attention_heads": HEADS,
            "attention_head_dim": HEAD,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": DEPTH,
            "sample_size": 8,
            "patch_size": 2,
            "num_embeds_ada_norm": CLASSES,
            **more,
        }
    )
    with torch.no_grad():
        for block in made.transformer_blocks:
            block.norm1.linear.weight.mul_(3)
    return networks.without_label_dropout(made).eval()


@pytest.fixture
def teacher() -> TorchDenoiser:
    return TorchDenoiser(network(), Interface(CLASSES, (4, 8, 8), schedule(), latents=True))


def config(teacher: TorchDenoiser, **changes: Any) -> dict[str, Any]:
    return {**networks.arguments(dict(teacher.unet.config)), "out_channels": 4, **changes}


def pruned(teacher: TorchDenoiser, *, seed: int = 0, importance: Any = "magnitude", **changes: Any) -> TorchDenoiser:
    init = Pruned(importance=importance)
    made = dit_pruning.prune(teacher, config(teacher, **changes), init, draws=draws(), seed=seed)
    return TorchDenoiser(made.eval(), teacher.interface)


def error(student: TorchDenoiser, teacher: TorchDenoiser) -> float:
    """Relative, of both branches."""
    draw = next(draws())
    with torch.no_grad():
        ours, theirs = (torch.cat(d.branches(draw.x_t, draw.t, draw.y)) for d in (student, teacher))
    return float((ours - theirs).norm() / theirs.norm())


def test_of_the_same_size_it_is_the_teacher_without_its_variance(teacher: TorchDenoiser) -> None:
    student = pruned(teacher)
    assert student.unet.config.out_channels == 4
    assert error(student, teacher) < 1e-6


@pytest.mark.parametrize("idle", [1, 3])
def test_the_block_that_does_nothing_goes_first(teacher: TorchDenoiser, idle: int) -> None:
    with torch.no_grad():
        linear = teacher.unet.transformer_blocks[idle].norm1.linear
        for gate in (2, 5):  # of the attention and of the MLP
            rows = slice(gate * HEADS * HEAD, (gate + 1) * HEADS * HEAD)
            linear.weight[rows], linear.bias[rows] = 0, 0
    effects = dit_pruning.block_effects(teacher, draws())
    assert effects[idle] == 0 and (effects > 0.01).sum() == DEPTH - 1
    assert error(pruned(teacher, num_layers=DEPTH - 1), teacher) < 1e-6
    assert error(pruned(teacher, num_layers=DEPTH - 2), teacher) > 0.01


def test_the_first_block_stays_because_the_last_layer_reads_its_embedding(teacher: TorchDenoiser) -> None:
    student = pruned(teacher, num_layers=1)
    ours, theirs = (d.unet.transformer_blocks[0].norm1.linear.weight for d in (student, teacher))
    assert torch.equal(ours, theirs)


def test_heads_and_channels_of_the_mlp_that_add_nothing_go_first(teacher: TorchDenoiser) -> None:
    block = teacher.unet.transformer_blocks[2]
    with torch.no_grad():
        for head in (0, 2):
            block.attn1.to_out[0].weight[:, head * HEAD : (head + 1) * HEAD] = 0
        block.ff.net[2].weight[:, ::2] = 0
    student = pruned(teacher, num_attention_heads=2).unet.transformer_blocks[2]
    stream = dit_pruning.positions(HEADS * HEAD, 2 * HEAD)
    kept = torch.cat([torch.arange(8, 16), torch.arange(24, 32)])
    assert torch.equal(student.attn1.to_q.weight, block.attn1.to_q.weight[kept][:, stream])
    assert torch.equal(student.attn1.to_out[0].weight, block.attn1.to_out[0].weight[stream][:, kept])
    assert student.ff.net[2].weight.shape == (16, 64)
    assert (student.ff.net[2].weight.abs().sum(0) > 0).all()


@pytest.mark.parametrize("narrow", [16, 8])
def test_the_stream_keeps_the_positions_of_the_narrower_one(teacher: TorchDenoiser, narrow: int) -> None:
    ours = network(num_attention_heads=narrow // HEAD).pos_embed.pos_embed
    theirs = teacher.unet.pos_embed.pos_embed
    torch.testing.assert_close(theirs[..., dit_pruning.positions(HEADS * HEAD, narrow)], ours)
    assert len(set(dit_pruning.positions(48, 36).tolist())) == 36


def test_it_begins_nearer_to_the_teacher_than_a_random_choice(teacher: TorchDenoiser) -> None:
    chosen = error(pruned(teacher, num_layers=3), teacher)
    random = [error(pruned(teacher, num_layers=3, importance="random", seed=seed), teacher) for seed in range(4)]
    assert chosen <= min(random) < max(random)


def test_it_is_a_function_of_its_arguments(teacher: TorchDenoiser) -> None:
    for importance in ("magnitude", "random"):
        one, two = (pruned(teacher, num_attention_heads=2, num_layers=2, importance=importance) for _ in range(2))
        assert error(one, two) == 0
    other = pruned(teacher, num_attention_heads=2, num_layers=2, importance="random", seed=1)
    assert error(other, two) > 0


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"dit": {"num_attention_heads": 5, "attention_head_dim": 8, "num_layers": 4}}, "more than the teacher's 4"),
        ({"dit": {"num_attention_heads": 2, "attention_head_dim": 4}}, "attention_head_dim is 4, the teacher's 8"),
        ({"dit": {"num_attention_heads": 2, "attention_head_dim": 8, "patch_size": 4}}, "patch_size is 4"),
        ({"architecture": {}}, "the one is a UNet and the other a DiT"),
        ({"compression": 2.0, "init": {"kind": "pruned", "importance": "taylor"}}, "importance taylor is for UNets"),
    ],
)
def test_students_that_cannot_be_cut_out_are_refused(
    teacher: TorchDenoiser, student: dict[str, Any], message: str
) -> None:
    section = Student.model_validate({"init": {"kind": "pruned"}, **student})
    with pytest.raises(UserError, match=message):
        design(section, networks.config_of(teacher.unet))


@pytest.mark.parametrize(
    ("of_teacher", "message"),
    [
        ({"activation_fn": "geglu"}, "activation_fn geglu is not supported by pruning, which takes gelu-approximate"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine True is not supported by pruning"),
        ({"attention_bias": False}, "attention_bias False is not supported by pruning"),
    ],
)
def test_a_teacher_whose_weights_have_another_layout_is_refused(of_teacher: dict[str, Any], message: str) -> None:
    section = Student.model_validate({"init": {"kind": "pruned"}, "compression": 2.0})
    with pytest.raises(UserError, match=message):
        design(section, networks.config_of(network(**of_teacher)))

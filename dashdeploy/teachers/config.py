"""What a model's config.json and scheduler_config.json may say: checked before diffusers builds anything of it.

The bounds keep a damaged or hostile file from taking all memory or minutes. Whether the weights are of such a network
is checked after this, on shapes alone (`networks.restore`).
"""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dashdeploy import manifest
from dashdeploy.diffusion.schedule import SCHEDULERS
from dashdeploy.errors import UserError

Width = Annotated[int, Field(ge=1, le=65_536)]
Side = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=1, le=256)]
Scale = Annotated[float, Field(ge=0, le=1e6)]
Grid = Annotated[tuple[Annotated[int, Field(ge=0, lt=100_000)], ...], Field(min_length=1, max_length=100_000)]
Down = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"]
Up = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]
Levels = Field(min_length=1, max_length=16)
MOST_PATCHES = 16_384
"""Of a DiT's image: every one attends to every other."""
POSITIONS = 4
"""A DiT's width is a multiple of it: a sine and a cosine for each of the two directions."""


class _Config(BaseModel):
    """What diffusers writes. Keys that begin with _ are its bookkeeping."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class _Network(_Config):
    """What a student's config.json says beside; null of others.

    Attributes:
        guidance_range: the lowest and the highest guidance scale of a network of one branch.
        timestep_grids: the lists of timesteps, descending, that a few-step student was trained for.
        consistency: it was trained for the solver consistency.
    """

    guidance_range: tuple[Scale, Scale] | None = None
    timestep_grids: Annotated[tuple[Grid, ...], Field(max_length=64)] | None = None
    consistency: bool | None = None

    @model_validator(mode="after")
    def _descends(self) -> _Network:
        for grid in self.timestep_grids or ():
            if any(now <= after for now, after in itertools.pairwise(grid)):
                raise ValueError(f"timestep_grids: the timesteps of each must descend, got {list(grid[:8])}")
        return self


class UNet(_Network):
    """Arguments of `UNet2DModel`."""

    sample_size: Side | tuple[Side, Side] | None = None
    in_channels: Width = 3
    out_channels: Width = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Width | None = None
    freq_shift: Literal[0, 1] = 0
    flip_sin_to_cos: bool = True
    down_block_types: Annotated[tuple[Down, ...], Levels] = ("DownBlock2D", *("AttnDownBlock2D",) * 3)
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[Up, ...], Levels] = (*("AttnUpBlock2D",) * 3, "UpBlock2D")
    block_out_channels: Annotated[tuple[Width, ...], Levels] = (224, 448, 672, 896)
    layers_per_block: Depth = 2
    mid_block_scale_factor: Annotated[float, Field(gt=0)] = 1.0
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    attention_head_dim: Width | None = 8
    norm_num_groups: Width = 32
    attn_norm_num_groups: Width | None = None
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    num_train_timesteps: int | None = None

    @model_validator(mode="after")
    def _levels_agree(self) -> UNet:
        levels = {len(self.down_block_types), len(self.up_block_types), len(self.block_out_channels)}
        if len(levels) > 1:
            raise ValueError("down_block_types, up_block_types and block_out_channels must be equally long")
        if bad := [c for c in self.block_out_channels if c % self.norm_num_groups]:
            raise ValueError(f"block_out_channels {bad[0]} is not a multiple of norm_num_groups {self.norm_num_groups}")
        if narrow := levels_without_heads(self.model_dump()):
            raise ValueError(
                f"block_out_channels {narrow[0]} has attention and is narrower than a head: attention_head_dim is "
                f"{self.attention_head_dim}"
            )
        return self


def levels_without_heads(unet: Mapping[str, Any]) -> list[int]:
    """Channels of the levels of a UNet that have attention and are narrower than one head, so that none is left."""
    widths, head = unet["block_out_channels"], unet.get("attention_head_dim")
    down, up = unet["down_block_types"], reversed(unet["up_block_types"])
    attended = [width for width, *kinds in zip(widths, down, up, strict=True) if any("Attn" in kind for kind in kinds)]
    if unet.get("mid_block_type", True) and unet.get("add_attention", True):
        attended.append(widths[-1])
    return [width for width in attended if head is not None and width < head]


class DiT(_Network):
    """Arguments of `DiTTransformer2DModel`."""

    num_attention_heads: Annotated[int, Field(ge=1, le=1024)] = 16
    attention_head_dim: Annotated[int, Field(ge=1, le=4096)] = 72
    in_channels: Width = 4
    out_channels: Width | None = None
    num_layers: Depth = 28
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    norm_num_groups: int = 32
    attention_bias: bool = True
    sample_size: Side = 32
    patch_size: Side = 2
    activation_fn: Literal["gelu-approximate", "gelu", "geglu"] = "gelu-approximate"
    num_embeds_ada_norm: Annotated[int, Field(ge=1, le=1_000_000)] | None = 1000
    upcast_attention: bool = False
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"
    norm_elementwise_affine: bool = False
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5

    @model_validator(mode="after")
    def _cut_into_patches(self) -> DiT:
        if self.sample_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide sample_size {self.sample_size}")
        if (self.sample_size // self.patch_size) ** 2 > MOST_PATCHES:
            raise ValueError(f"sample_size {self.sample_size} makes more than {MOST_PATCHES} patches")
        if self.num_attention_heads * self.attention_head_dim % POSITIONS:
            raise ValueError("num_attention_heads · attention_head_dim must be a multiple of 4, for its positions")
        return self


class Scheduler(_Config):
    """Arguments of diffusers' DDPM and DDIM schedulers, of whatever version."""

    model_config = ConfigDict(extra="ignore")

    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    beta_schedule: str = "linear"
    trained_betas: Annotated[list[float], Field(max_length=100_000)] | None = None
    variance_type: str = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: Annotated[float, Field(gt=0)] = 1.0
    prediction_type: str = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    timestep_spacing: str = "leading"
    steps_offset: Annotated[int, Field(ge=0, le=100_000)] = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False


NETWORKS: dict[str, type[_Config]] = {"UNet2DModel": UNet, "DiTTransformer2DModel": DiT}
RENAMED = {"Transformer2DModel": "DiTTransformer2DModel"}
"""The class under which diffusers saved DiTs before it was given its own."""


def network(config: dict[str, Any], *, source: str) -> dict[str, Any]:
    """The arguments of a network's class that its configuration gives, with `_class_name`, checked.

    Raises:
        UserError: an unknown key, or a value of a wrong type or range; a class that is not known is not looked at.
    """
    name = config.get("_class_name", "UNet2DModel")
    if not isinstance(name, str):
        raise UserError(f"{source}: _class_name must be the name of a model's class, got {str(name)[:60]!r}")
    name = RENAMED.get(name, name) if config.get("norm_type") == "ada_norm_zero" else name
    if name not in NETWORKS:
        return config
    kind = NETWORKS[name]
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    if name != config.get("_class_name"):  # arguments of the older class, for other networks than a DiT
        given = {key: value for key, value in given.items() if key in kind.model_fields or value not in (None, False)}
        given.pop("attention_type", None)
    embedding = given.get("class_embed_type")
    if embedding is not None:
        raise UserError(
            f"{source}: class_embed_type {str(embedding)[:60]!r} takes labels as numbers or vectors. A teacher has "
            "a row of an embedding for each class and one for the null class, which is class_embed_type null."
        )
    _read(kind, given, source)
    return {"_class_name": name, **given}


def scheduler(config: dict[str, Any], *, source: str) -> None:
    """Check a scheduler's configuration, if it is of a kind that is supported.

    Raises:
        UserError: a misspelt key, or a value of a wrong type or range.
    """
    if config.get("_class_name", SCHEDULERS[0]) not in SCHEDULERS:
        return
    for key in config.keys() - Scheduler.model_fields.keys():
        close = difflib.get_close_matches(key, Scheduler.model_fields, n=1, cutoff=0.85)
        if not key.startswith("_") and close:
            raise UserError(f"{source}: unknown key {key[:60]!r}. Did you mean {close[0]!r}?")
    _read(Scheduler, config, source)


def _read(kind: type[_Config], values: dict[str, Any], source: str) -> None:
    try:
        # As JSON: its lists may stand for tuples, and apart from that types are strict.
        kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(f"{source}: {manifest.problem(error, whole='its values')}") from error

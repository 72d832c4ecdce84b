"""The networks that a recipe can give in full, in diffusers' terms; part of the schema."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dashdeploy.fields import DISTINCT, WHOLE, Count, Model, Number

Width = Annotated[int, Field(ge=1, le=8192), WHOLE]
"""Channels: a convolution of as many to as many has 0.6 billion weights."""
Layers = Annotated[int, Field(ge=1, le=100), WHOLE]
"""Blocks of each level of a UNet."""


class Architecture(Model):
    """A class-conditional UNet2DModel of diffusers, by its arguments there."""

    block_out_channels: tuple[Width, ...] = Field(
        (64, 128), min_length=1, max_length=10, description="channels of each level"
    )
    layers_per_block: Layers = Field(2, description="residual blocks of each level")
    attention_levels: Annotated[tuple[Count, ...], DISTINCT] = Field(
        (), description="levels (0: finest) with self-attention; the middle always has it"
    )
    attention_head_dim: Width | None = Field(None, description="channels of each attention head; null: one head")
    norm_num_groups: Width = Field(8, description="groups of each GroupNorm; divides all block_out_channels")
    dropout: Number = Field(0.0, ge=0, lt=1, description="in the residual blocks, while training")

    @model_validator(mode="after")
    def _fits(self) -> Architecture:
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels {width} is not a multiple of norm_num_groups {self.norm_num_groups}"
                )
        for level in self.attention_levels:
            if level >= len(self.block_out_channels):
                raise ValueError(
                    f"attention level {level} does not exist: there are {len(self.block_out_channels)} levels"
                )
        head, attended = self.attention_head_dim, [*self.attention_levels, len(self.block_out_channels) - 1]
        for width in (self.block_out_channels[level] for level in attended):
            if head is not None and width < head:
                raise ValueError(f"attention_head_dim {head} exceeds block_out_channels {width}, which has attention")
        return self


class DiT(Model):
    """A class-conditional DiTTransformer2DModel of diffusers, by its arguments there."""

    num_layers: Annotated[int, Field(ge=1, le=1000), WHOLE] = Field(6, description="the depth, in transformer blocks")
    num_attention_heads: Width = Field(4, description="the width is heads × attention_head_dim")
    attention_head_dim: Width = Field(32, description="channels of each attention head")
    patch_size: Annotated[int, Field(ge=1, le=64), WHOLE] = Field(
        2, description="side of a token, in pixels or latents"
    )

    @model_validator(mode="after")
    def _fits(self) -> DiT:
        if (width := self.num_attention_heads * self.attention_head_dim) > 8192:
            raise ValueError(f"the width, num_attention_heads × attention_head_dim, is {width:,}; at most 8,192")
        if width % 4:
            raise ValueError(
                f"the width, num_attention_heads × attention_head_dim, is {width}; it must be a multiple of 4, for the "
                "positions of the tokens"
            )
        return self

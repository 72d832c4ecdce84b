"""What the benchmark measures, as a recipe says it; part of the schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dashdeploy.fields import (
    DISTINCT,
    WHOLE,
    Batch,
    Bins,
    Images,
    Model,
    Number,
    Repeats,
    Seed,
    Text,
    Threads,
    Timesteps,
)
from dashdeploy.recipe.sampling import Guidance, Tag


class Latency(Model):
    """What the latency benchmark times."""

    batch_sizes: Annotated[tuple[Batch, ...], DISTINCT] = Field(
        (1, 8, 64), description="[]: neither latency nor loading time nor memory is measured"
    )
    warmup: Repeats = Field(3, ge=0, description="untimed runs before the timed ones")
    repeats: Repeats = Field(20, ge=3, description="timed single steps for each batch size")
    sampler_repeats: Repeats = Field(6, ge=1, description="timed whole samplers for each batch size; intervals need 6")
    sampler_budget_s: Number = Field(
        60.0, gt=0, description="past this time a row gets no further whole-sampler repeats, seconds"
    )
    threads: Threads | None = Field(None, description="CPU threads of every runtime; null: all cores")


class Quality(Model):
    """What the quality benchmark measures."""

    num_images: Images = Field(1000, ge=16, description="of each model, guidance and seed, in the classes' proportions")
    seeds: Annotated[int, Field(ge=1, le=100), WHOLE] = Field(1, description="so often num_images are drawn anew")
    guidance: Annotated[tuple[Guidance, ...], DISTINCT] = Field((1.0, 1.5, 2.0, 3.0, 4.0, Tag()), min_length=1)
    features: Text = Field(
        "auto",
        description="network of FID and KID: auto (the dataset's), a network's name, inception, fit (a small "
        "classifier is trained on the recipe's images) or none (no FID; images are drawn only for the report's grids)",
    )
    features_weights: Text | None = Field(None, description="inception: its weights file, relative to this file")
    reference: Text | None = Field(
        None,
        description=".npz file that samples are compared with in place of the recipe's images, relative to this file: "
        "images (arr_0, and perhaps labels arr_1), or statistics of the same features (mu, sigma), which give FID "
        "only; of a file with both, as ADM's are, FID takes the statistics and all else the images",
    )
    torch_student: Literal["recipe", "all"] = Field(
        "recipe",
        description="the guidances at which the student is also sampled in torch: sampling.guidance, or all",
    )
    batch_size: Batch = Field(128, description="images that are drawn at a time")
    bootstrap: Repeats = Field(200, ge=0, description="resamples for the confidence intervals; 0: none")


class Fidelity(Model):
    """What the guidance-fidelity table measures."""

    num_pairs: Images = Field(2000, ge=100, description="held-out (x_0, eps, t, y) draws")
    bins: Bins = Field(10, ge=2, description="number of equal ranges of t")

    @model_validator(mode="after")
    def _fills_its_bins(self) -> Fidelity:
        if self.bins > self.num_pairs:
            raise ValueError(f"bins {self.bins} exceeds num_pairs {self.num_pairs}: some would be empty")
        return self


class Bench(Model):
    """What the benchmark measures: latency, quality, guidance fidelity."""

    seed: Seed = Field(0, description="seed of the benchmark's noise and draws; independent of the training's")
    teacher_steps: Timesteps = Field(50, description="steps of the teacher of a few-step student, by ddim")
    latency: Latency = Latency()
    quality: Quality = Quality()
    fidelity: Fidelity = Fidelity()

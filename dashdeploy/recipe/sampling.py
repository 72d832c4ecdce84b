"""How images are sampled and guided, as a recipe says it; part of the schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from dashdeploy.fields import Coefficient, Model, Number, Timesteps


class Tag(Model):
    """TAG guidance (Eq. 3): w(t) = w_min + (w_max − w_min)·sigmoid(β(0.5 − t/T))."""

    kind: Literal["tag"] = "tag"
    w_min: Coefficient = Field(1.0, description="w towards the noisy end")
    w_max: Coefficient = Field(4.0, description="w towards the clean end")
    beta: Number = Field(5.0, gt=0, le=1e9, description="how steeply w rises as t falls")

    @model_validator(mode="after")
    def _ordered(self) -> Tag:
        if self.w_max < self.w_min:
            raise ValueError(f"w_max ({self.w_max:g}) must not be below w_min ({self.w_min:g})")
        return self


class GuidanceInterval(Model):
    """Guidance only at middle noise levels (arXiv:2404.07724): w where low ≤ t/T < high, 1 (off) elsewhere."""

    kind: Literal["interval"] = "interval"
    w: Coefficient = Field(2.0, description="guidance scale inside the interval")
    low: Number = Field(0.2, ge=0, le=1, description="as a share of num_train_timesteps; 0 is clean")
    high: Number = Field(0.8, ge=0, le=1, description="the same; 1 is noise")

    @model_validator(mode="after")
    def _ordered(self) -> GuidanceInterval:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


Guidance = Coefficient | Annotated[Tag | GuidanceInterval, Field(discriminator="kind")]


def extremes(guidance: Guidance) -> tuple[float, ...]:
    """The lowest and the highest scale that it may take; outside of an interval it is 1."""
    if isinstance(guidance, Tag):
        return guidance.w_min, guidance.w_max
    if isinstance(guidance, GuidanceInterval):
        return (guidance.w,) if (guidance.low, guidance.high) == (0, 1) else (1.0, guidance.w)
    return (guidance,)


Solver = Literal["ddim", "dpmpp_2m", "consistency"]


class Sampling(Model):
    """The sampler that the benchmark and `sample` use."""

    solver: Solver = Field(
        "ddim",
        description="ddim: first order (η = 0), as in the step and sampler graphs. dpmpp_2m: second order. "
        "consistency: each step goes to x_0, and fresh noise is added before the next; of consistency students alone",
    )
    num_inference_steps: Timesteps = Field(50, description="steps of the sampler")
    timestep_spacing: Literal["leading", "trailing", "linspace"] = Field(
        "trailing", description="how the steps are spread over T (arXiv:2305.08891, Table 2)"
    )
    clip_sample: StrictBool = Field(
        True, description="clip the predicted x_0 to [-1, 1] and recompute eps, at every step. false: clip nothing"
    )
    guidance: Guidance = Field(2.0, description="guidance scale w (1 = off), {kind: tag, …} or {kind: interval, …}")

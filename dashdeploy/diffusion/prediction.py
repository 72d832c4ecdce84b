"""What a network predicts (eps, v or x_0), and its conversion to eps, which is what a Denoiser returns."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch

from dashdeploy.errors import UserError

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""diffusers' names: eps; v = √ᾱ·eps − √(1 − ᾱ)·x_0 (Salimans & Ho 2022); x_0."""


def to_eps(output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, *, prediction: Prediction) -> torch.Tensor:
    """eps from what the network predicted, in float32 unless it is eps already, which is returned as it is.

    v: eps = √ᾱ·v + √(1 − ᾱ)·x_t; x_0: eps = (x_t − √ᾱ·x_0) / √(1 − ᾱ).

    Args:
        output, x_t: (B, C, H, W).
        alpha_bar: ᾱ of each sample's timestep, (B,), below 1.
    """
    if prediction == "epsilon":
        return output
    signal = alpha_bar.float().view(-1, 1, 1, 1)
    noise = 1.0 - signal
    if prediction == "v_prediction":
        return signal.sqrt() * output.float() + noise.sqrt() * x_t.float()
    return (x_t.float() - signal.sqrt() * output.float()) / noise.sqrt()


def from_scheduler_config(config: dict[str, Any], *, source: str) -> Prediction:
    """The prediction type of a diffusers scheduler configuration.

    Raises:
        UserError: one that is not known.
    """
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in get_args(Prediction):
        raise UserError(
            f"{source}: prediction_type {prediction!r} is not supported; expected {', '.join(get_args(Prediction))}. "
            "Set it to what the model was trained to predict."
        )
    return cast(Prediction, prediction)

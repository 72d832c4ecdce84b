"""What a network predicts (eps, v or x_0), and how a sampler gets x_0 and eps of it.

Each is computed from the network's own prediction. Only where that prediction is eps is anything divided by √ᾱ, and
only where it is x_0 by √(1 − ᾱ): a network that predicts v loses nothing at either end, and one that predicts v or x_0
may have ᾱ = 0 at the last timestep (zero terminal SNR, Lin et al. 2024, arXiv:2305.08891).
"""

from __future__ import annotations

from typing import Any, cast, get_args

import torch

from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Prediction


def x_0_and_eps(
    output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, *, prediction: Prediction
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_0, eps) from what the network predicted.

    eps: x_0 = (x_t − √(1 − ᾱ)·eps) / √ᾱ. v: x_0 = √ᾱ·x_t − √(1 − ᾱ)·v, eps = √(1 − ᾱ)·x_t + √ᾱ·v. x_0: `eps_of`.

    Args:
        output, x_t: (B, C, H, W), float32 or float64.
        alpha_bar: ᾱ of the timesteps, below 1, of a shape that broadcasts: () or (B, 1, 1, 1).
    """
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction == "v_prediction":
        return signal * x_t - noise * output, noise * x_t + signal * output
    if prediction == "sample":
        return output, eps_of(output, x_t, alpha_bar)
    return (x_t - noise * output) / signal, output


def eps_of(x_0: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """The noise that x_t holds if x_0 is its image: (x_t − √ᾱ·x_0) / √(1 − ᾱ)."""
    return (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()


def of(x_0: torch.Tensor, eps: torch.Tensor, alpha_bar: torch.Tensor, *, prediction: Prediction) -> torch.Tensor:
    """What a network of this prediction says of an image and its noise; shapes as of `x_0_and_eps`."""
    if prediction == "v_prediction":
        return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0
    return x_0 if prediction == "sample" else eps


def convert(
    output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, *, given: Prediction, wanted: Prediction
) -> torch.Tensor:
    """One prediction as another, in float32 at least; the same one is returned as it is. Shapes as of `x_0_and_eps`."""
    if given == wanted:
        return output
    dtype = torch.promote_types(output.dtype, torch.float32)
    x_0, eps = x_0_and_eps(output.to(dtype), x_t.to(dtype), alpha_bar.to(dtype), prediction=given)
    return of(x_0, eps, alpha_bar.to(dtype), prediction=wanted)


def common(student: Prediction, teacher: Prediction) -> Prediction:
    """The prediction in which a student's error is measured.

    Its own, if the teacher's is the same. Else eps, which all can be converted to without a division by √ᾱ; of v and
    x_0 v, which says something of the image where ᾱ = 0 too.
    """
    if student == teacher:
        return student
    return "epsilon" if "epsilon" in (student, teacher) else "v_prediction"


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

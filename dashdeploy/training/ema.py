"""The average of the weights over the steps, which is what a stage stores: exponential, or a power function."""

from __future__ import annotations

import numpy as np
from diffusers.training_utils import EMAModel
from torch import nn

from dashdeploy.recipe.schema import PowerEma


class PowerEmaModel(EMAModel):
    """θ̂(t) = β_t·θ̂(t − 1) + (1 − β_t)·θ(t), β_t = (1 − 1/t)^(γ + 1) (Karras et al. 2024, arXiv:2312.02696 Eq. 3).

    Its profile over the steps 1 … t is proportional to τ^γ at every t. So it needs no warm-up, and one width suits runs
    of any length.
    """

    def __init__(self, module: nn.Module, std: float) -> None:
        super().__init__(module.parameters(), foreach=True)
        self.gamma = gamma(std)

    def get_decay(self, optimization_step: int) -> float:
        """β_t; the first step takes the weights as they are."""
        return float((1 - 1 / optimization_step) ** (self.gamma + 1))


def average(module: nn.Module, decay: float | PowerEma) -> EMAModel:
    """The average that the recipe asks for, of the module's parameters.

    A number is the decay that diffusers' warm-up rises to: min(decay, n / (9 + n)) at step n, and 0 at the first, so
    that the first weights are forgotten soon.
    """
    if isinstance(decay, PowerEma):
        return PowerEmaModel(module, decay.std)
    return EMAModel(module.parameters(), decay=decay, foreach=True)


def gamma(std: float) -> float:
    """γ of a relative width: the positive root of σ² = (γ + 1) / ((γ + 2)²·(γ + 3)), for 0 < σ < 1/√12."""
    t = std**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())

"""The one contract: everything that predicts noise, in torch or out of it, is a Denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.prediction import Prediction, convert
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError


@dataclass(frozen=True)
class Interface:
    """What a caller must know of a denoiser. The null class is index K.

    Attributes:
        image_shape: (C, H, W) of what it predicts; of a latent model, of the latents.
        latents: it is known to predict latents.
        prediction: what it predicts.
        branches: 2: the guided output is combined from a conditional and an unconditional one. 1: the guidance scale is
            an input of the network (Meng et al. 2023, arXiv:2210.03142), and there is no unconditional branch.
        guidance_range: of one branch, the lowest and the highest scale that it was trained for; None for two.
        grids: the lists of timesteps, descending, that a few-step student was trained for. (): any timesteps.
        consistency: it was trained to say x_0 at once, from any of its timesteps (a consistency model, Song et al.
            2023, arXiv:2303.01469): the solver consistency samples it, and no other.
        decoded: (C, H, W) of the images that its latents are decoded to; None: it makes images, or has no decoder.

    Raises:
        UserError: it predicts eps, and ᾱ is 0 at the last timestep.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    schedule: NoiseSchedule
    latents: bool = False
    prediction: Prediction = "epsilon"
    branches: Literal[1, 2] = 2
    guidance_range: tuple[float, float] | None = None
    grids: tuple[tuple[int, ...], ...] = ()
    consistency: bool = False
    decoded: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.prediction == "epsilon" and self.schedule.zero_terminal_snr:
            raise UserError(
                f"{self.schedule.source}: alphas_cumprod is 0 at the last timestep, and the model predicts epsilon: "
                "there eps says nothing of the image. Take a model that predicts v_prediction or sample, or a schedule "
                "without rescale_betas_zero_snr."
            )

    @property
    def null_class(self) -> int:
        return self.num_classes

    @property
    def base_scale(self) -> float:
        """The guidance scale that a response to guidance counts from: 1 (off), or the end of its range nearest to 1."""
        low, high = self.guidance_range or (1.0, 1.0)
        return min(max(1.0, low), high)

    def convert(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, wanted: Prediction) -> torch.Tensor:
        """What it predicted, as another prediction: output, x_t (B, C, H, W), t (B,) int64; float32 if it changes."""
        alpha_bar = self.schedule.alphas_cumprod.to(x_t.device)[t].view(-1, 1, 1, 1)
        return convert(output, x_t, alpha_bar, given=self.prediction, wanted=wanted)

    def varied(self, w: torch.Tensor, *, by: float = 1.0) -> torch.Tensor:
        """Guidance scales (B,) that differ between neighbouring images: w, w + by, w + 2·by, and again, in its range.

        For checks: a graph that takes one scale for all images must fail.
        """
        turn = torch.arange(len(w), device=w.device) % 3
        if self.guidance_range is None:
            return w + by * turn
        # In steps of at most a quarter of the range, reflected at its end: of three in turn, two at most are the same.
        low, high = self.guidance_range
        shifted = w.clamp(low, high) + min(by, (high - low) / 4) * turn
        return shifted - 2 * (shifted - high).clamp(min=0)

    def check_plan(self, plan: Steps) -> None:
        """Refuse a guidance scale, a solver or timesteps that it was not trained for.

        Raises:
            UserError: it names the range, or the solvers and numbers of steps that there are.
        """
        if self.guidance_range is not None:
            low, high = self.guidance_range
            if bad := [w for w in plan.weights if not low <= w <= high]:
                raise UserError(
                    f"guidance {bad[0]:g} is out of range: this model has one branch, which was trained for "
                    f"{low:g} … {high:g}"
                )
        if plan.solver not in self.solvers:
            raise UserError(
                f"solver {plan.solver}: this model was not trained for it. Take {' or '.join(self.solvers)}, and "
                f"{self.step_counts} steps."
            )
        if self.grids and plan.timesteps not in self.grids:
            given = f"{len(plan.timesteps)} steps at the timesteps {', '.join(map(str, plan.timesteps[:8]))}"
            listed = "; ".join(", ".join(map(str, grid)) for grid in self.grids)
            raise UserError(
                f"{given}{', …' if len(plan.timesteps) > 8 else ''}: this model was trained for {self.step_counts} "
                f"steps (timesteps {listed})"
            )

    @property
    def solvers(self) -> tuple[str, ...]:
        """The solvers that sample it: of a few-step student the one that it was trained for."""
        if self.consistency:
            return ("consistency",)
        return ("ddim",) if self.grids else ("ddim", "dpmpp_2m")

    @property
    def step_counts(self) -> str:
        """The numbers of steps of a few-step student, in words: "1, 2 or 4"."""
        counts = [str(len(grid)) for grid in self.grids]
        return " or ".join(filter(None, [", ".join(counts[:-1]), counts[-1]])) if counts else "any number of"

    @property
    def drawn_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what is drawn: images, or latents where nothing decodes them."""
        return self.decoded or self.image_shape

    @property
    def makes_images(self) -> bool:
        """Whether grey or RGB images are drawn, and not latents."""
        return self.decoded is not None or (not self.latents and self.image_shape[0] in (1, 3))

    def check_images(self) -> None:
        """Refuse a model whose samples are not images.

        Raises:
            UserError: they are latents.
        """
        if not self.makes_images:
            raise UserError(
                f"the model makes latents {self.image_shape} (C, H, W), not images, and it has no decoder. Make "
                "it again with data.vae in its recipe, or take the latents themselves: dashdeploy.open(…).sample(…)."
            )

    def check_labels(self, labels: torch.Tensor) -> None:
        """Refuse labels that are not (B,) int64, B ≥ 1, in 0..K−1. The null class is not a label to sample.

        Raises:
            UserError: it names the first bad label and the valid range.
        """
        if labels.dtype != torch.int64 or labels.dim() != 1 or not len(labels):
            raise UserError(
                f"labels must be class indices, one or more, (B,) int64; got {tuple(labels.shape)} {_dtype(labels)}"
            )
        bad = labels[(labels < 0) | (labels >= self.num_classes)]
        if bad.numel():
            raise UserError(
                f"class index {int(bad[0])} is out of range: this model has classes 0..{self.num_classes - 1}"
            )

    def noise_shape(self, plan: Steps) -> tuple[int, ...]:
        """Of one image's noise: (C, H, W); of the solver consistency (N, C, H, W), one for each of its N steps."""
        return (len(plan.timesteps), *self.image_shape) if plan.solver == "consistency" else self.image_shape

    def check_start(self, noise: torch.Tensor, labels: torch.Tensor, plan: Steps) -> None:
        """Refuse what a plan cannot start from: bad labels, or noise that is not finite (B, *noise_shape) float32.

        float64 passes too: a loop in torch may compute in it.

        Raises:
            UserError: what was given and what was expected.
        """
        self.check_labels(labels)
        expected = (len(labels), *self.noise_shape(plan))
        if noise.dtype not in (torch.float32, torch.float64) or tuple(noise.shape) != expected:
            raise UserError(
                f"noise must be {expected} float32 for {len(labels)} labels; got {tuple(noise.shape)} {_dtype(noise)}"
            )
        if not noise.isfinite().all():
            raise UserError("noise holds NaN or Inf; it must be standard normal")


class Steps(Protocol):
    """What `Interface` reads of a `sampling.Plan`."""

    @property
    def timesteps(self) -> tuple[int, ...]: ...
    @property
    def weights(self) -> tuple[float, ...]: ...
    @property
    def solver(self) -> str: ...


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


class Denoiser(Protocol):
    """Predicts what `interface.prediction` names: eps, v or x_0.

    x_t (B, C, H, W) float32, t (B,) int64, y (B,) int64, w (B,) float32 -> (B, C, H, W) float32. Guidance is linear in
    the prediction, whichever it is, so that branches are combined as they come.
    """

    interface: Interface

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The prediction for labels y (K = null class), without guidance: one branch."""
        ...

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(uncond, cond).

        Raises:
            UserError: it has one branch.
        """
        ...

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """uncond + w·(cond − uncond); of one branch, what it predicts at w."""
        ...


def no_branches() -> UserError:
    """The error where the two branches of a denoiser that has one are asked for."""
    return UserError(
        "this model has one branch: the guidance scale is an input of its network, and there is no unconditional "
        "prediction"
    )


class TorchDenoiser(nn.Module):
    """A class-conditional diffusers network as a Denoiser: UNet2DModel or DiTTransformer2DModel.

    A network with more than C output channels has a learned variance behind them (Nichol & Dhariwal 2021), which DDIM
    does not use: the first C are taken. The network of one branch takes the pair (y, w) in place of y; see
    `teachers/guidance_embedding.py`.
    """

    def __init__(self, unet: Any, interface: Interface) -> None:
        super().__init__()
        # Any: diffusers' models are not fully typed.
        self.unet: Any = unet
        self.interface = interface

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def is_native(self) -> bool:
        """Whether its network takes x_t and t as they are, and predicts what `interface.prediction` says."""
        return True

    def around(self, unet: Any, interface: Interface | None = None) -> TorchDenoiser:
        """The same denoiser around another form of its network; interface None: its own."""
        return TorchDenoiser(unet, interface or self.interface)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.interface.branches == 1:
            return self.guided(x, t, y, torch.ones(y.shape, device=x.device))
        return self._output(x, t, y)

    def _output(self, x: torch.Tensor, t: torch.Tensor, condition: Any) -> torch.Tensor:
        output: torch.Tensor = self.unet(x, t, condition, return_dict=False)[0]
        if output.shape[1] > self.interface.image_shape[0]:
            output = output[:, : self.interface.image_shape[0]]
        return output

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(uncond, cond) by one forward over 2B."""
        if self.interface.branches == 1:
            raise no_branches()
        return guidance.both_branches(self, x, t, y, null_class=self.interface.null_class)

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The guided prediction, float32; the graph that the ONNX export traces."""
        if self.interface.branches == 1:
            return self._output(x, t, (y, w)).float()
        return self.combine(*self.branches(x, t, y), w)

    def combine(self, uncond: torch.Tensor, cond: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The guided prediction, float32, of two branches that were predicted already; see `guidance.combine`."""
        return guidance.combine(uncond, cond, w)

    def drop_labels(self, y: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """y (B,) with the null class where `dropped` (B,) bool is true."""
        return y.masked_fill(dropped, self.interface.null_class)

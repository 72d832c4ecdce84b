"""One image on its way from noise to x_0, and one step of a batch of images of any age and any plan.

The step graph makes DDIM's update with a t, t_prev, y and w of each image. Where t_prev is -1 it gives x_0, from which
the two other solvers go on by themselves, image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from plans import CLEAN, Plan

Feeds = tuple[np.ndarray, ...]
"""x (B, C, H, W) float32, t, t_prev, y (B,) int64, w (B,) float32: the step graph's inputs, in order."""


class Image:
    """One image; `x` (C, H, W) is what its next step takes, and after the last step the sample.

    Args:
        noise: (C, H, W) float32; of the solver consistency (N, C, H, W), for each step its own.

    Attributes:
        step: steps that are done.
        bad: the first step, from 0, that gave a value which is not finite, N: the decoder did; -1: none did.
    """

    __slots__ = ("_before", "_clean", "_h", "_noise", "bad", "plan", "step", "x", "y")

    def __init__(self, noise: np.ndarray, y: int, plan: Plan) -> None:
        self.plan, self.y, self.step, self.bad = plan, y, 0, -1
        self._noise = noise if plan.solver == "consistency" else None
        self.x = noise if self._noise is None else noise[0]
        self._before, self._h = self.x, math.nan
        self._clean: np.ndarray | None = None

    @property
    def done(self) -> bool:
        return self.step == len(self.plan.timesteps)

    @property
    def now(self) -> tuple[int, int, float]:
        """(t, t_prev, w) of the next call of the step graph."""
        t, w = self.plan.timesteps[self.step], float(self.plan.scales[self.step])
        return t, self._after if self.plan.solver == "ddim" else CLEAN, w

    @property
    def _after(self) -> int:
        steps = self.plan.timesteps
        return steps[self.step + 1] if self.step + 1 < len(steps) else CLEAN

    def move(self, output: np.ndarray, *, finite: bool) -> None:
        """Take what the step graph gave for `now`: (C, H, W)."""
        if not finite and self.bad < 0:
            self.bad = self.step
        x, solver = self.x, self.plan.solver
        if solver == "ddim":
            self.x = output
        else:
            self.x = self._renoised(output) if solver == "consistency" else self._second_order(output)
            self._clean = output
        self._before = x
        self.step += 1

    def _renoised(self, x_0: np.ndarray) -> np.ndarray:
        """x_0 as the next step takes it (arXiv:2303.01469, Algorithm 1)."""
        if self._noise is None or self._after == CLEAN:
            return x_0
        bar = self.plan.bars[self._after + 1]
        renoised: np.ndarray = np.sqrt(bar) * x_0 + np.sqrt(1 - bar) * self._noise[self.step + 1]
        return renoised

    def _second_order(self, x_0: np.ndarray) -> np.ndarray:
        """DPM-Solver++(2M), arXiv:2211.01095, Algorithm 2; see `dpmpp_2m` of dashdeploy/diffusion/sampling.py."""
        (alpha, sigma), (alpha_prev, sigma_prev) = self._rates(self.plan.timesteps[self.step]), self._rates(self._after)
        clean = sigma_prev == 0
        h = math.inf if clean or alpha == 0 else math.log(alpha_prev / sigma_prev) - math.log(alpha / sigma)
        d = x_0
        if not clean and self._clean is not None:
            d = x_0 + h / (2 * self._h) * (x_0 - self._clean)
        self._h = h
        return sigma_prev / sigma * self.x - alpha_prev * math.expm1(-h) * d

    def _rates(self, t: int) -> tuple[float, float]:
        """(α, σ) at a timestep."""
        bar = float(self.plan.bars[t + 1])
        return math.sqrt(bar), math.sqrt(1 - bar)

    def clean(self) -> np.ndarray:
        """x_0 (C, H, W) as the last step predicted it: what a preview shows. The graph is not asked again.

        DDIM's step is x_t = α·x_0 + σ·eps, x_prev = α'·x_0 + σ'·eps, so that x_0 = (σ'·x_t − σ·x_prev) / (σ'·α − σ·α').
        The divisor is small where the two timesteps are near to each other: rounding then shows, at 1000 steps in the
        fourth digit.
        """
        if self._clean is not None:
            return self._clean
        steps, i = self.plan.timesteps, self.step - 1
        if i + 1 == len(steps):
            return self.x
        (alpha, sigma), (alpha_prev, sigma_prev) = self._rates(steps[i]), self._rates(steps[i + 1])
        x_t, x_prev = self._before.astype(np.float64), self.x.astype(np.float64)
        x_0 = (sigma_prev * x_t - sigma * x_prev) / (sigma_prev * alpha - sigma * alpha_prev)
        return (x_0.clip(-1, 1) if self.plan.clip else x_0).astype(np.float32)


def step(run: Callable[[Feeds], np.ndarray], images: Sequence[Image], *, rows: int = 0) -> None:
    """Move every image by its own next step, by one call of the step graph.

    Args:
        run: the graph: its inputs -> x_prev (B, C, H, W) float32.
        rows: size of the batch, where it is larger than the images are many: the first image fills it up.
    """
    x = np.stack([image.x for image in images])
    t, t_prev, w = zip(*(image.now for image in images), strict=True)
    y = [image.y for image in images]
    feeds: Feeds = (x, np.array(t), np.array(t_prev), np.array(y), np.array(w, np.float32))
    if rows > len(images):
        feeds = tuple(np.concatenate([array, np.repeat(array[:1], rows - len(images), 0)]) for array in feeds)
    output = run(feeds)[: len(images)]
    finite = np.isfinite(output.reshape(len(images), -1)).all(1).tolist()
    for image, new, fine in zip(images, output, finite, strict=True):
        image.move(new, finite=fine)

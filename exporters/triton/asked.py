"""What a request asks for: its tensors as images that can start, or what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

import noise
import numpy as np
from images import Image
from plans import Plan
from sampler import Sampler


@dataclass(frozen=True)
class Wanted:
    """One image that has not started. Its noise is drawn when it does, so that a waiting image takes no memory.

    Attributes:
        start: its noise, where the request has one; else that of `seed` and `index`.
    """

    y: int
    plan: Plan
    shape: tuple[int, ...]
    seed: int
    index: int
    start: np.ndarray | None

    def image(self) -> Image:
        """At its first step; from the noise of `dashdeploy sample --seed SEED`, image number INDEX."""
        if self.start is not None:
            return Image(self.start, self.y, self.plan)
        n = len(self.plan.timesteps) if self.plan.solver == "consistency" else 1
        shape = self.shape if n == 1 and self.plan.solver != "consistency" else (n, *self.shape)
        drawn = noise.normal(self.seed, self.index, 1, int(np.prod(self.shape)), steps=n)
        return Image(drawn.reshape(shape), self.y, self.plan)


def read(given: dict[str, np.ndarray], sampler: Sampler) -> list[Wanted]:
    """The B images of a request.

    Args:
        given: label (B, 1) int64; and, where the request has them, guidance (B, 1 or N) float32, seed and index (B, 1)
            uint64, noise (B, C, H, W) float32, of a consistency student (B, N, C, H, W), steps (B, 1) int64, solver
            (B, 1) text.

    Raises:
        ValueError: one of them is wrong; the message says what was expected.
    """
    if "label" not in given:  # Triton does not check this where other inputs are optional
        raise ValueError("label is required")
    y = given["label"][:, 0]
    if y.min() < 0 or y.max() >= sampler.num_classes:
        raise ValueError(f"label must be in 0 … {sampler.num_classes - 1}, got {sorted(set(y.tolist()))}")
    columns = {name: column(given, name, len(y)) for name in ("seed", "index", "steps", "solver")}
    scales, start = given.get("guidance"), given.get("noise")
    if start is not None and not np.isfinite(start).all():
        raise ValueError("noise must be finite")
    wanted = []
    for i, label in enumerate(y.tolist()):
        solver = columns["solver"][i] or b""
        plan = sampler.plans.plan(
            steps=int(columns["steps"][i]),
            scales=None if scales is None else scales[i],
            solver=solver.decode(errors="replace") if isinstance(solver, bytes) else str(solver),
        )
        if plan.solver == "consistency" and start is not None and start.shape[1] != len(plan.timesteps):
            raise ValueError(f"noise must be of each of the {len(plan.timesteps)} steps, got {start.shape[1]}")
        numbers = int(columns["seed"][i]), int(columns["index"][i])
        # Tensors of a request lie in memory that the server takes back: a copy stays.
        kept = None if start is None else start[i].copy()
        wanted.append(Wanted(label, plan, sampler.image_shape, *numbers, kept))
    return wanted


def column(given: dict[str, np.ndarray], name: str, count: int) -> list[int] | list[bytes]:
    """The one value of each image; 0 where the request has no such tensor."""
    values: list[int] = given[name][:, 0].tolist() if name in given else [0] * count
    return values


def trouble(image: Image) -> str:
    """What a value that is not finite says of an image."""
    steps = image.plan.timesteps
    if image.bad == len(steps):
        return "the decoder gave values that are not finite: guidance may be too large"
    return (
        f"the image is not finite from step {image.bad + 1} of {len(steps)} on (t = {steps[image.bad]}): noise must be "
        "standard normal, and guidance not too large"
    )

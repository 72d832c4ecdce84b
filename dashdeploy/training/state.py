"""What a training run changes from step to step; all of it is in a checkpoint, so that a resumed run is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from diffusers.training_utils import EMAModel

from dashdeploy.errors import UserError
from dashdeploy.training import checkpoint
from dashdeploy.training.step import TrainStep


@dataclass
class Window:
    """Sums over the steps since the last line of metrics, and over how many steps each is: a term may miss some."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        """One step's figures."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def mean(self) -> dict[str, float]:
        """Means over the steps so far that had each; the window is then empty."""
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


@dataclass
class State:
    """The parts that a step changes. No generator is among them: every draw is a function of (seed, step)."""

    module: TrainStep
    optimizer: AcceleratedOptimizer
    average: EMAModel
    scaler: torch.amp.GradScaler | None
    window: Window = field(default_factory=Window)

    def save(self, folder: Path, *, step: int, key: str) -> None:
        """Write the checkpoint of `step` steps done."""
        state: dict[str, Any] = {
            "step": step,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "window": {"sums": self.window.sums, "counts": self.window.counts},
        }
        checkpoint.save(folder, state, key=key)

    def resume(self, folder: Path, *, key: str, device: torch.device, first: int = 0) -> int:
        """Load the folder's checkpoint if there is one; returns the number of steps done.

        Args:
            first: the step that the phase begins at. A checkpoint of an earlier phase is not loaded.

        Raises:
            UserError: see checkpoint.load.
        """
        state = checkpoint.load(folder, key=key)
        if state is None or state["step"] <= first:
            return first
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.average.to(device)
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.window = Window(dict(state["window"]["sums"]), dict(state["window"]["counts"]))
        return int(state["step"])

    def require_finite(self, *, step: int, folder: Path) -> None:
        """Refuse weights, trained or averaged, that are not finite after `step` steps: before they are kept or used.

        Raises:
            UserError: see `not_finite`.
        """
        # Any: diffusers' EMAModel is not fully typed.
        kept: Any = self.average.shadow_params
        if not all(bool(weight.isfinite().all()) for weight in [*self.module.parameters(), *kept]):
            raise not_finite(step, "a weight", folder)


def not_finite(step: int, what: str, folder: Path, *, parts: Sequence[str] = ()) -> UserError:
    """The error of a step after which something is NaN or infinite: where the run can go on, and what to change."""
    kept = folder / checkpoint.FILE
    where = f"The last good checkpoint is kept: {kept}." if kept.is_file() else "No checkpoint had been written yet."
    named = f" ({', '.join(parts)})" if parts else ""
    return UserError(
        f"step {step}: {what} is not finite{named}. {where} Lower the learning rate, raise warmup_steps, or set "
        "precision to fp32; a changed recipe starts anew with --fresh."
    )

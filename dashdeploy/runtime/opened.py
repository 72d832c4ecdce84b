"""The public door: a model that draws images of class labels, by its own recipe unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from dashdeploy.diffusion import guidance as scales
from dashdeploy.diffusion.sampling import draw, generate, plan
from dashdeploy.errors import UserError
from dashdeploy.recipe.problems import validation_problems
from dashdeploy.recipe.schema import Guidance, Sampling
from dashdeploy.runtime.model import Model

BATCH_SIZE = 64
"""Images that are drawn at a time where nobody says otherwise."""


class Opened:
    """A model that draws images; `dashdeploy.open` makes it. A context manager.

    Attributes:
        model: the model inside, for those who bring their own noise and plan.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by label; their numbers where no names are known."""
        return self.model.classes

    @property
    def sampling(self) -> Sampling:
        """What `sample` does if it is told nothing: the settings of the recipe that made the model."""
        return self.model.sampling

    def sample(
        self,
        labels: int | Iterable[int] | NDArray[Any],
        *,
        guidance: float | str | Guidance | None = None,
        steps: int | None = None,
        seed: int = 0,
        solver: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> NDArray[Any]:
        """Draw an image of each label; image i depends on the seed, i and its label, and not on the batch.

        Args:
            labels: class indices in 0..K−1, (N,): a list, a range, an array, or one number.
            guidance: scale w (1 = off), or as the command line has it: ``"tag"``, ``"3@0.2-0.8"``. None: the recipe's.
            steps: of the sampler; None: the recipe's.
            seed: of the noise, 0..2⁶⁴ − 1.
            solver: ``ddim`` or ``dpmpp_2m``, or ``consistency`` of consistency students; None: the recipe's.
            batch_size: images that are drawn at a time.

        Returns:
            Images (N, H, W, C) uint8, C = 1 (grey) or 3 (RGB). A model of latents that has no decoder gives its latents
            (N, C, H, W) float32.

        Raises:
            UserError: an argument out of range, or a step whose values are not finite.
        """
        interface = self.model.denoiser.interface
        seed, batch_size = _whole("seed", seed), _whole("batch_size", batch_size)
        sampling = chosen(self.sampling, guidance=guidance, steps=steps, solver=solver)
        steps_of = plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids)
        sampler = generate if interface.makes_images else _latents
        drawn = sampler(
            self.model.sample,
            interface,
            steps_of,
            labels=_labels(labels),
            seed=seed,
            batch_size=batch_size,
            device=self.model.device,
        ).numpy()
        return np.ascontiguousarray(drawn.transpose(0, 2, 3, 1)) if interface.makes_images else drawn

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release sessions and engines."""
        self.model.close()


def chosen(
    own: Sampling,
    *,
    guidance: float | str | Guidance | None = None,
    steps: int | None = None,
    solver: str | None = None,
) -> Sampling:
    """A model's own settings with those in their place that are given.

    Raises:
        UserError: a value that is not valid.
    """
    given = {
        "guidance": scales.parse(str(guidance)) if isinstance(guidance, str | int | float | np.number) else guidance,
        "num_inference_steps": steps,
        "solver": solver,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    values = {**own.model_dump(), **{k: _plain(v) for k, v in changes.items()}}
    try:
        return Sampling.model_validate(values)
    except ValidationError as error:
        path, told = validation_problems(error, values, Sampling)[0]
        key = ".".join(str(step) for step in path)
        raise UserError(f"{key}: {told}" if key else told) from error


def _whole(name: str, value: Any) -> int:
    """A whole number, also one of numpy's; its range is for others to check.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UserError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, and sections as dicts."""
    if isinstance(value, np.generic):
        return value.item()
    return value.model_dump() if hasattr(value, "model_dump") else value


def _labels(labels: int | Iterable[int] | NDArray[Any]) -> torch.Tensor:
    given: Any = labels.cpu() if isinstance(labels, torch.Tensor) else labels
    if isinstance(given, Iterable) and not isinstance(given, np.ndarray | torch.Tensor):
        given = list(given)
    try:
        array = np.atleast_1d(np.asarray(given))
    except ValueError as error:
        raise UserError(f"labels must be class indices, whole numbers (N,); got {given!r}") from error
    if (array.dtype.kind not in "iu" and array.size) or array.ndim != 1:
        raise UserError(
            f"labels must be class indices, whole numbers (N,); got {array.dtype} of shape {tuple(array.shape)}"
        )
    if (array > np.iinfo(np.int64).max).any():
        raise UserError(f"class index {array.max()} is out of range")
    return torch.from_numpy(array.astype(np.int64))


def _latents(*arguments: Any, **options: Any) -> torch.Tensor:
    return torch.cat([batch.cpu() for batch in draw(*arguments, **options)])

"""Triton's python backend: requests for single images -> one batch through all steps of the sampler -> responses.

A wrong request gets an error; the others of its batch are served.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import checked
import noise
import numpy as np
import sampler
import triton_python_backend_utils as pb_utils


class Images(NamedTuple):
    """What one request asks for: B images."""

    noise: np.ndarray  # (B, C, H, W) float32, of a consistency student (B, N, C, H, W)
    y: np.ndarray  # (B,) int64
    w: np.ndarray  # (B, N) float32


class TritonPythonModel:
    """The class that the python backend looks for; each instance of the model has one object of it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact; an error here leaves the model not ready, with the reason in the server's log."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        instances = sum(group["count"] for group in config["instance_group"])
        cores = len(os.sched_getaffinity(0))
        self.sampler = sampler.Sampler(
            Path(__file__).parent / "artifact",
            threads=int(parameters["threads"]) if "threads" in parameters else max(1, cores // instances),
            device_id=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0,
            public_key=checked.configured_key(parameters.get("public_key")),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        asked = [self._read(request) for request in requests]
        valid = [images for images in asked if isinstance(images, Images)]
        if valid:
            batch, bad = self.sampler(*(np.concatenate(arrays) for arrays in zip(*valid, strict=True)))
            cuts = np.cumsum([len(images.y) for images in valid])[:-1]
            drawn = iter(zip(np.split(batch, cuts), np.split(bad, cuts), strict=True))
        return [self._respond(*next(drawn)) if isinstance(images, Images) else refuse(images) for images in asked]

    def _respond(self, images: np.ndarray, bad: np.ndarray) -> Any:
        """Images as a response, or an error where a step gave one of them a value that is not finite."""
        if (bad >= 0).any():
            step, steps = int(bad[bad >= 0].min()), self.sampler.timesteps
            if step == len(steps):
                return refuse("the decoder gave values that are not finite: guidance may be too large")
            return refuse(
                f"the image is not finite from step {step + 1} of {len(steps)} on (t = {steps[step]}): noise must be "
                "standard normal, and guidance not too large"
            )
        return pb_utils.InferenceResponse([pb_utils.Tensor("image", np.ascontiguousarray(images, np.float32))])

    def finalize(self) -> None:
        """Release the threads."""
        self.sampler.close()

    def _read(self, request: Any) -> Images | str:
        """What a request asks for, or what is wrong with it."""
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if "label" not in given:  # Triton does not check this where other inputs are optional
            return "label is required"
        y = given["label"][:, 0]
        b, n = len(y), len(self.sampler.timesteps)
        if y.min() < 0 or y.max() >= self.sampler.num_classes:
            return f"label must be in 0 … {self.sampler.num_classes - 1}, got {sorted(set(y.tolist()))}"
        w = given.get("guidance", self.sampler.guidance_scales[None])
        if w.ndim != 2 or w.shape[1] not in (1, n):
            return f"guidance must be one number, or one for each of the {n} steps, got shape {list(w.shape[1:])}"
        if not np.isfinite(w).all() or w.min() < 0:
            return "guidance must be finite and not negative"
        if (span := self.sampler.guidance_range) is not None and not self._is_trained(w):
            return f"guidance must be within {span[0]:g} … {span[1]:g}: the student has one branch, trained for these"
        x = given.get("noise")
        if x is None:
            x = self._noise(given.get("seed", np.zeros((b, 1))), given.get("index", np.zeros((b, 1))))
        elif not np.isfinite(x).all():
            return "noise must be finite"
        return Images(np.ascontiguousarray(x), y, np.ascontiguousarray(np.broadcast_to(w, (b, n))))

    def _is_trained(self, w: np.ndarray) -> bool:
        """Whether one branch was trained for these scales, in float32: rounded to it, an end may lie outside."""
        low, high = np.asarray(self.sampler.guidance_range, np.float32)
        return bool(low <= w.min() and w.max() <= high)

    def _noise(self, seeds: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """The noise of `dashdeploy sample --seed SEED`, image number INDEX."""
        shape, size = self.sampler.noise_shape, int(np.prod(self.sampler.image_shape))
        pairs = zip(seeds[:, 0].tolist(), indices[:, 0].tolist(), strict=True)
        steps = int(np.prod(shape)) // size
        drawn = [noise.normal(int(seed), int(index), 1, size, steps=steps) for seed, index in pairs]
        return np.concatenate(drawn).reshape(-1, *shape)


def refuse(message: str) -> Any:
    """A response that says what is wrong with its request."""
    error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse(output_tensors=[], error=error)

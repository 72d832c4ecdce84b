"""ONNX artifacts as Denoisers, through ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError
from dashdeploy.run import file_sha256
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.onnx_session import GuidedSession


class OnnxDenoiser:
    """The guided graph as a Denoiser; a single branch is w = 1 (conditional) or w = 0 (unconditional)."""

    def __init__(self, session: GuidedSession, interface: Interface) -> None:
        self.session, self.interface = session, interface

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.guided(x, t, y, torch.ones(y.shape))

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(eps_uncond, eps_cond) from two runs of the graph."""
        return self.guided(x, t, y, torch.zeros(y.shape)), self.guided(x, t, y, torch.ones(y.shape))

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """One run of the graph."""
        return torch.from_numpy(self.session.run(x.numpy(), t.numpy(), y.numpy(), w.numpy()))


def open_model(folder: Path, manifest: dict[str, Any], *, threads: int | None) -> Model:
    """Open an exported folder; its manifest has been checked against its files."""
    return open_file(
        folder / manifest["artifact"]["file"], threads=threads, providers=manifest["artifact"]["providers"]
    )


def open_file(path: Path, *, threads: int | None, providers: list[str] | None = None) -> Model:
    """Open a model.onnx that this package exported, by the metadata inside of it.

    Raises:
        UserError: missing, truncated, or without this package's metadata.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    session = GuidedSession(path, threads=threads, providers=providers or ["CPUExecutionProvider"])
    try:
        found = {k.removeprefix("dashdeploy."): json.loads(v) for k, v in session.metadata.items()}
        interface = Interface(
            num_classes=found["num_classes"],
            image_shape=tuple(found["image_shape"]),
            schedule=NoiseSchedule(np.asarray(found["betas"], np.float64)),
        )
        classes, parameters = tuple(found["classes"]), found["parameters"]
    except (KeyError, ValueError, TypeError) as error:
        session.close()
        raise UserError(f"{path}: not exported by dashdeploy (metadata {error}). Export it again.") from error
    data = path.with_name(path.name + ".data")
    return Model(
        label="student (ONNX Runtime)",
        runtime="onnxruntime",
        denoiser=OnnxDenoiser(session, interface),
        parameters=parameters,
        file_bytes=path.stat().st_size + (data.stat().st_size if data.is_file() else 0),
        sha256=file_sha256(path),
        classes=classes,
        resources=[session],
    )

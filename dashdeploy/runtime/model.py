"""What opening an artifact gives: a Denoiser and a Sampler with a name, class names and a close()."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

import torch

from dashdeploy.artifact import Artifact
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.diffusion.sampling import SOLVERS, Plan
from dashdeploy.errors import UserError
from dashdeploy.fields import MOST_THREADS
from dashdeploy.recipe.schema import Sampling

SamplerGraph = Literal["sampler", "step", "guided"]
"""The graph that a sampler calls: the whole sampler at once, one step at a time, or one prediction at a time."""


class Sampler(Protocol):
    """Draws samples, and says with which graph."""

    def __call__(
        self,
        noise: torch.Tensor,
        y: torch.Tensor,
        plan: Plan,
        /,
        *,
        on_step: Callable[[int], None] | None = None,
        decode: bool = True,
    ) -> torch.Tensor:
        """See `Model.sample`."""
        ...

    def graph_for(self, plan: Plan, /, batch_size: int | None = None, *, decode: bool = True) -> SamplerGraph:
        """The graph that it calls for this plan; batch_size None: a large one."""
        ...


class Decoder(Protocol):
    """Latents (B, c, h, w) float32, as the network makes them, -> images (B, C, H, W) float32 in [−1, 1]."""

    def __call__(self, latents: torch.Tensor, /) -> torch.Tensor: ...


class Closable(Protocol):
    """A session or engine that holds memory until it is closed."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Opening:
    """How a model is to be opened; None leaves the choice to the artifact, or to the runtime.

    hashes: SHA-256 of the folder's files by name, which each file has to have as it is read for loading. None: nothing
    vouches for them yet.

    Raises:
        UserError: the number of threads is out of range; the device is of another kind than those that are supported,
            or torch sees no GPU of its number.
    """

    threads: int | None = None
    provider: str | None = None
    device: str | None = None
    hashes: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        threads = self.threads
        whole = isinstance(threads, Integral) and not isinstance(threads, bool)
        if threads is not None and not (whole and 1 <= threads <= MOST_THREADS):
            raise UserError(f"threads must be a whole number from 1 to {MOST_THREADS:,}, got {threads!r}")
        if self.device is None:
            return
        named = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", self.device)
        if named is None:
            raise UserError(f"device {self.device!r}: expected cpu, cuda, or cuda:1 for the second GPU.")
        count = torch.cuda.device_count()
        if named[1] is not None and int(named[1]) >= count:
            raise UserError(f"device {self.device!r}: torch sees {count} CUDA devices here. See `dashdeploy doctor`.")


class Open(Protocol):
    """Opens the artifact of one backend; what it loads are bytes that `graphs_model.read` has checked."""

    def __call__(self, folder: Path, artifact: Artifact, how: Opening, /, *, sha256: str) -> Model:
        """Open the graphs in `folder`; `sha256` is the artifact's identity.

        Raises:
            UserError: what it needs is not on this machine, or `how` asks for what it cannot do.
        """


@dataclass
class Model:
    """An opened model; a context manager.

    Attributes:
        label: how tables name it, e.g. ``student (ONNX Runtime)``.
        runtime: the backend's registered name.
        denoiser: predicts noise.
        parameters: number of parameters, or None where the file does not say.
        file_bytes: size on disk of its weights; of an artifact, of its guided graph.
        sha256: identity of the file or folder.
        classes: class names in label order; their numbers where no names are known.
        device: where its inputs have to be.
        precision: fp32, fp16, bf16 or int8.
        sampler: draws images; None: `sample` loops over the denoiser.
        decoder: of latents; None: it makes images, or nothing decodes its latents.
        sampling: of the recipe that it was made by; the schema's defaults where no recipe is known.
    """

    label: str
    runtime: str
    denoiser: Denoiser
    parameters: int | None
    file_bytes: int
    sha256: str
    classes: tuple[str, ...]
    device: str = "cpu"
    precision: str = "fp32"
    sampler: Sampler | None = None
    decoder: Decoder | None = None
    sampling: Sampling = field(default_factory=Sampling)
    resources: list[Closable] = field(default_factory=list)

    def sample(
        self,
        noise: torch.Tensor,
        y: torch.Tensor,
        plan: Plan,
        *,
        on_step: Callable[[int], None] | None = None,
        decode: bool = True,
    ) -> torch.Tensor:
        """Samples (B, C, H, W) float32 from noise (B, c, h, w) float32 and labels y (B,) int64 in 0..K−1.

        The solver consistency takes noise (B, N, c, h, w), see `Interface.noise_shape`. It takes the fastest graph that
        the artifact has for this plan; `graph_for` names it.

        Args:
            decode: false: the latents of a model that has a decoder.

        Returns:
            Images within [−1, 1] where plan.clip_sample is true or a decoder made them; latents have no fixed range.

        Raises:
            UserError: labels or noise that no sampler can start from, or values that are not finite: it names the step,
                or the decoder.
        """
        try:
            if noise.dtype != torch.float32:
                raise UserError(f"noise must be float32, not {str(noise.dtype).removeprefix('torch.')}")
            if self.sampler is not None:
                return self.sampler(noise, y, plan, on_step=on_step, decode=decode)
            drawn = SOLVERS[plan.solver](self.denoiser, noise, y, plan, on_step=on_step)
            return self.decoder(drawn) if decode and self.decoder is not None else drawn
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from error

    def graph_for(self, plan: Plan, batch_size: int | None = None, *, decode: bool = True) -> SamplerGraph:
        """The graph that `sample` calls; guided also stands for a torch network. batch_size None: a large one."""
        return "guided" if self.sampler is None else self.sampler.graph_for(plan, batch_size, decode=decode)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release sessions and engines."""
        for resource in self.resources:
            resource.close()
        self.resources.clear()

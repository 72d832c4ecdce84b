"""What opening an artifact gives: a Denoiser with a name, class names and a close()."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from dashdeploy.diffusion.denoiser import Denoiser


class Closable(Protocol):
    """A session or engine that holds memory until it is closed."""

    def close(self) -> None: ...


@dataclass
class Model:
    """An opened model; a context manager.

    Attributes:
        label: how tables name it, e.g. ``student (ONNX Runtime)``.
        runtime: the backend's registered name.
        denoiser: predicts noise.
        parameters: number of parameters, or None where the file does not say.
        file_bytes: size of the weights on disk.
        sha256: identity of the file or folder.
        classes: class names in label order; their numbers where no names are known.
        device: where its inputs have to be.
    """

    label: str
    runtime: str
    denoiser: Denoiser
    parameters: int | None
    file_bytes: int
    sha256: str
    classes: tuple[str, ...]
    device: str = "cpu"
    resources: list[Closable] = field(default_factory=list)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release sessions and engines."""
        for resource in self.resources:
            resource.close()
        self.resources.clear()

"""The two TensorRT backends: each ONNX graph becomes an engine, whose precision is proven, and stays beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from rich.progress import Progress, TaskID

from dashdeploy import stages
from dashdeploy.export.engine import build as engine_build
from dashdeploy.export.engine import cache as engine_cache
from dashdeploy.export.int8.int8 import Int8
from dashdeploy.runtime.tensorrt_library import Flavour
from dashdeploy.target import Target


class Backend:
    """See backend_onnxruntime."""

    def __init__(self, target: Target, cache: Path) -> None:
        self.target, self.cache = target, cache
        self.flavour = cast(Flavour, target.backend)

    def identity(self) -> dict[str, Any]:
        """The flavour's version and the device it builds for: an engine fits only those."""
        return engine_cache.identity(self.flavour, self.target.engine)

    def ready(self) -> None:
        """Refuse at once what would fail after minutes.

        Raises:
            UserError: the flavour's libraries or a GPU that it needs are missing; one line, with what to do.
        """
        engine_build.ready(self.flavour, self.target.engine)

    def build(self, draft: stages.Draft, *, int8: Int8 | None, progress: Progress) -> None:
        """Build each graph's engine; draft.artifact["graphs"][name] gains `onnx` and `engine`.

        Raises:
            UserError: the parser or the builder refuses a graph, or the engine's precision is not the one asked for.
        """
        for name, entry in draft.artifact["graphs"].items():
            plan = draft.folder / f"{name}.plan"
            title = f"{self.target.name}: engine {name}"
            task = progress.add_task(title, total=1.0)

            def tell(phase: str, share: float, task: TaskID = task, title: str = title) -> None:
                progress.update(task, completed=share, description=f"{title}, {phase}")

            record = engine_build.build(
                draft.folder / entry["file"],
                plan,
                self.target.engine,
                flavour=self.flavour,
                precision=self.target.precision,
                cache=self.cache,
                float_layers=int8.float_layers if int8 is not None else (),
                on_progress=tell,
            )
            progress.update(task, completed=1.0)
            entry.update(file=plan.name, onnx=entry["file"], files=[*entry["files"], plan.name], engine=record)

"""The two TensorRT backends: each ONNX graph becomes an engine, whose precision is proven, and stays beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from dashdeploy.artifact import Flavour, Graph, GraphName
from dashdeploy.export.backends import Backend
from dashdeploy.export.engine import build as engine_build
from dashdeploy.export.engine import cache as engine_cache
from dashdeploy.export.int8.decide import Int8
from dashdeploy.progress import Progress
from dashdeploy.target import Profile, Target


class TensorRT(Backend):
    """Builds engines, and takes those from the cache that were built from the same graph on the same device."""

    def __init__(self, target: Target, cache: Path) -> None:
        self.target, self.cache = target, cache
        self.flavour = cast(Flavour, target.backend)

    def identity(self) -> dict[str, Any]:
        return engine_cache.identity(self.flavour, self.target.engine)

    def ready(self) -> None:
        engine_build.ready(self.flavour, self.target.engine)

    def build(
        self, folder: Path, graphs: dict[GraphName, Graph], *, int8: Int8 | None, progress: Progress
    ) -> dict[GraphName, Graph]:
        float_layers = int8.float_layers if int8 is not None else ()
        return {name: self._engine(folder, name, graph, float_layers, progress) for name, graph in graphs.items()}

    def _engine(
        self, folder: Path, name: GraphName, graph: Graph, float_layers: tuple[str, ...], progress: Progress
    ) -> Graph:
        title = f"{self.target.name}: engine {name}"
        task = progress.add_task(title, total=1.0)
        engine, settings = folder / f"{name}.plan", self.target.engine
        if name == "decoder":
            assert self.target.vae is not None
            most = self.target.vae.at_once
            settings = settings.model_copy(update={"profiles": (Profile(min=1, opt=most, max=most),)})
        record = engine_build.build(
            folder / graph.file,
            engine,
            settings,
            flavour=self.flavour,
            precision=self.target.precision_of(name),
            cache=self.cache,
            float_layers=() if name == "decoder" else float_layers,
            on_progress=lambda phase, share: progress.update(task, completed=share, description=f"{title}, {phase}"),
        )
        progress.update(task, completed=1.0)
        return graph.model_copy(
            update={"file": engine.name, "onnx": graph.file, "files": (*graph.files, engine.name), "engine": record}
        )

"""An artifact's folder, a package, or an .onnx file of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dashdeploy import manifest, stages
from dashdeploy.artifact import Artifact, TensorSpec
from dashdeploy.errors import UserError, reading, shown
from dashdeploy.lazy import require
from dashdeploy.report.table import Table, plain
from dashdeploy.show.stage import key_figures
from dashdeploy.show.view import View, pairs, size


def view(stage: stages.Stage) -> View:
    """An artifact whose files `stages.read_stage` has checked, for `dashdeploy show`.

    Raises:
        UserError: its manifest is damaged.
    """
    read = manifest.read(stage)
    artifact, sampling = read.artifact, read.artifact.sampling
    _, checks = key_figures(stage)
    facts = pairs(
        backend=", ".join([artifact.backend, *artifact.providers]),
        checks=checks,
        student=f"{artifact.parameters:,} parameters, SHA-256 {artifact.student_sha256[:12]}…",
        classes=f"{artifact.num_classes}, null class {artifact.null_class}",
        sampling=f"{len(sampling.timesteps)} steps of {sampling.solver}",
        files=f"{len(read.files)}, {size(read.figures.file_bytes)} of graphs; every SHA-256 is right",
        recipe=f"{read.recipe['name']}, seed {read.seed}",
    )
    data = {"folder": stage.folder, "sha256": stage.sha256, **stage.manifest}
    return View(data, (shown(stage.folder), facts, _graphs(artifact)))


def view_package(stage: stages.Stage) -> View:
    """A package: the artifact in it with what builds or serves it."""
    rows = [(name, size((stage.folder / name).stat().st_size)) for name in stage.manifest["files"]]
    table = plain(f"{shown(stage.folder)}: every SHA-256 is right", ("File", "Size"), rows)
    return View({"folder": stage.folder, "sha256": stage.sha256, **stage.manifest}, (table,))


def view_onnx(path: Path) -> View:
    """An .onnx file that the export wrote: its metadata and tensors.

    Raises:
        UserError: it is damaged, or not ours.
    """
    onnx = require("onnx", extra="cpu")
    with reading(path, "ONNX file"):
        model = onnx.load(str(path), load_external_data=False)
    ours = {p.key: p.value for p in model.metadata_props if p.key.startswith("dashdeploy.")}
    if not ours:
        raise UserError(f"{path}: not exported by dashdeploy (it has no metadata of ours). Give a file of an artifact.")
    with reading(path, "file of `dashdeploy export`"):
        metadata = {key.removeprefix("dashdeploy."): json.loads(value) for key, value in ours.items()}
    tensors = {"inputs": [_tensor(t) for t in model.graph.input], "outputs": [_tensor(t) for t in model.graph.output]}
    data = {"file": path, **metadata, **tensors}
    parameters = metadata.get("parameters")
    facts = pairs(
        graph=metadata.get("graph"),
        inputs=", ".join(tensors["inputs"]),
        outputs=", ".join(tensors["outputs"]),
        student=f"{parameters:,} parameters" if isinstance(parameters, int) else None,
        classes=metadata.get("num_classes"),
        size=size(path.stat().st_size),
    )
    return View(data, (shown(path), facts))


def _graphs(artifact: Artifact) -> Table:
    graphs = artifact.graphs.items()
    rows = [(name, graph.file, _shapes(graph.inputs), _shapes(graph.outputs)) for name, graph in graphs]
    return plain("Graphs", ("Graph", "File", "Inputs", "Output"), rows, text_columns=(0, 1, 2, 3))


def _shapes(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} ({', '.join(map(str, spec.shape))}) {spec.dtype}" for spec in specs)


def _tensor(value: Any) -> str:
    shape = value.type.tensor_type.shape.dim
    return f"{value.name} ({', '.join(dim.dim_param or str(dim.dim_value) for dim in shape)})"

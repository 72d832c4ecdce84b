"""The openvino backend: each ONNX graph becomes an IR (.xml and .bin), which loads faster and is what C++ reads."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from dashdeploy.artifact import Graph, GraphName
from dashdeploy.errors import UserError
from dashdeploy.export.backends import Backend
from dashdeploy.export.int8 import quantize_nncf
from dashdeploy.export.int8.decide import Int8
from dashdeploy.lazy import require
from dashdeploy.progress import Progress
from dashdeploy.target import Target


class OpenVino(Backend):
    """Converts, and quantizes by NNCF where the target says so."""

    def __init__(self, target: Target, cache: Path) -> None:
        self.target = target

    def identity(self) -> dict[str, Any]:
        try:
            return {"openvino": metadata.version("openvino")}
        except metadata.PackageNotFoundError:
            return {}

    def ready(self) -> None:
        require("openvino", extra="openvino")
        if self.target.precision == "int8" and self.target.calibration.quantizer == "nncf":
            require("nncf", extra="openvino")

    def build(
        self, folder: Path, graphs: dict[GraphName, Graph], *, int8: Int8 | None, progress: Progress
    ) -> dict[GraphName, Graph]:
        by_nncf = int8 if self.target.calibration.quantizer == "nncf" else None
        return {
            # NNCF has no draws of latents: the decoder stays in float.
            name: self._convert(folder, name, graph, None if name == "decoder" else by_nncf)
            for name, graph in graphs.items()
        }

    def _convert(self, folder: Path, name: GraphName, graph: Graph, by_nncf: Int8 | None) -> Graph:
        openvino: Any = require("openvino", extra="openvino")
        source = folder / graph.file
        try:
            model = openvino.convert_model(str(source)) if by_nncf is None else _by_nncf(source, name, by_nncf)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.target.name}: OpenVINO cannot convert the {name} graph "
                f"({' '.join(str(error).split())[:300]}). Try another opset, or leave the graph out."
            ) from error
        if by_nncf is not None and not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
            raise UserError(f"{self.target.name}: int8 was asked for, and nothing in the {name} graph is quantized")
        model.get_rt_info()["dashdeploy"] = name
        openvino.save_model(model, str(folder / f"{name}.xml"), compress_to_fp16=False)
        for file in graph.files:
            (folder / file).unlink()
        return graph.model_copy(update={"file": f"{name}.xml", "files": (f"{name}.xml", f"{name}.bin")})


def _by_nncf(source: Path, name: GraphName, int8: Int8) -> Any:
    return quantize_nncf.quantize(source, int8.draws.reader(name), int8.float_layers)

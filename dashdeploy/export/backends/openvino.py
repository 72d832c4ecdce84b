"""The openvino backend: each ONNX graph becomes an IR (.xml and .bin), which loads faster and is what C++ reads."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from rich.progress import Progress

from dashdeploy import stages
from dashdeploy.errors import UserError
from dashdeploy.export.int8.int8 import Int8
from dashdeploy.lazy import require
from dashdeploy.target import Target


class Backend:
    """See backend_onnxruntime."""

    def __init__(self, target: Target, cache: Path) -> None:
        self.target = target

    def identity(self) -> dict[str, Any]:
        """The converter's version."""
        try:
            return {"openvino": metadata.version("openvino")}
        except metadata.PackageNotFoundError:
            return {}

    def ready(self) -> None:
        """Refuse at once what would fail after minutes.

        Raises:
            UserError: openvino is not installed.
        """
        require("openvino", extra="openvino")

    def build(self, draft: stages.Draft, *, int8: Int8 | None, progress: Progress) -> None:
        """Replace each ONNX file by its IR, quantized by NNCF where the target says so.

        Raises:
            UserError: OpenVINO cannot convert a graph.
        """
        openvino: Any = require("openvino", extra="openvino")
        for name, entry in draft.artifact["graphs"].items():
            source = draft.folder / entry["file"]
            try:
                if int8 is not None and int8.by_nncf:
                    model = int8.quantized_nncf(name, source, progress=progress)
                else:
                    model = openvino.convert_model(str(source))
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"{self.target.name}: OpenVINO cannot convert the {name} graph "
                    f"({' '.join(str(error).split())[:300]}). Try another opset, or leave the graph out."
                ) from error
            quantized = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
            if int8 is not None and int8.by_nncf and not quantized:
                raise UserError(f"{self.target.name}: int8 was asked for, and nothing in the {name} graph is quantized")
            model.get_rt_info()["dashdeploy"] = name
            openvino.save_model(model, str(draft.folder / f"{name}.xml"), compress_to_fp16=False)
            for file in entry["files"]:
                (draft.folder / file).unlink()
            entry.update(file=f"{name}.xml", files=[f"{name}.xml", f"{name}.bin"])

"""The cpp package: an artifact, the C++ runtime's sources, an example and a README, to build without Python."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.errors import UserError
from dashdeploy.package import Package
from dashdeploy.packages.template import fill
from dashdeploy.recipe.schema import Recipe

ARTIFACT = "artifact"
SDKS = {
    "openvino": "OpenVINO's C++ runtime: its archive or its apt package, then `-DOpenVINO_DIR=…/runtime/cmake`",
    "onnxruntime": "a release archive of ONNX Runtime, then `-DONNXRUNTIME_ROOT=…`",
    "tensorrt": "the SDK of the TensorRT that built the engines, and the CUDA toolkit, then `-DTENSORRT_ROOT=…`",
    "tensorrt_rtx": "the SDK of the TensorRT for RTX that built the engines, and the CUDA toolkit, then "
    "`-DTENSORRT_RTX_ROOT=…`",
}
"""What has to be on the machine that builds, by the artifact's backend."""


class Writer:
    """See `packages.Writer`."""

    def __init__(self, package: Package, templates: Path) -> None:
        self.package, self.templates = package, templates

    def check(self, artifact: stages.Stage) -> None:
        """Refuse a backend that the runtime has not.

        Raises:
            UserError: it lists those that it has.
        """
        backend = artifact.manifest["artifact"]["backend"]
        if backend not in SDKS:
            raise UserError(f"{artifact.folder}: the C++ runtime has no backend {backend}; it has {', '.join(SDKS)}")

    def write(self, folder: Path, artifact: stages.Stage, recipe: Recipe) -> dict[str, Any]:
        """Copy the sources and the artifact, whole: its manifest vouches for every file."""
        shutil.copytree(self.templates, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("build", "README.md"))
        shutil.copytree(artifact.folder, folder / ARTIFACT)
        described = artifact.manifest["artifact"]
        values = {
            "recipe": recipe.name,
            "target": artifact.folder.name,
            "backend": described["backend"],
            "precision": described["precision"],
            "sdk": SDKS[described["backend"]],
            "labels": f"0-{min(10, described['num_classes']) - 1}",
        }
        text = (self.templates / "README.md").read_text(encoding="utf-8")
        (folder / "README.md").write_text(fill(text, values), encoding="utf-8")
        return {"backend": described["backend"]}

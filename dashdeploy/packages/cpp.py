"""The cpp package: an artifact, the C++ runtime's sources, an example and a README, to build without Python."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dashdeploy.artifact import Backend, BatchRange, GraphName
from dashdeploy.manifest import Manifest
from dashdeploy.packages import Writer
from dashdeploy.packages.carry import carry
from dashdeploy.packages.schema import Package
from dashdeploy.packages.template import render
from dashdeploy.target import Profile

ARTIFACT = "artifact"
SDKS: dict[Backend, str] = {
    "openvino": "OpenVINO's C++ runtime: its archive or its apt package, then `-DOpenVINO_DIR=…/runtime/cmake`",
    "onnxruntime": "a release archive of ONNX Runtime, then `-DONNXRUNTIME_ROOT=…`",
    "tensorrt": "the SDK of the TensorRT that built the engines, and the CUDA toolkit, then `-DTENSORRT_ROOT=…`",
    "tensorrt_rtx": "the SDK of the TensorRT for RTX that built the engines, and the CUDA toolkit, then "
    "`-DTENSORRT_RTX_ROOT=…`",
}
"""What has to be on the machine that builds, by the artifact's backend."""


class CppWriter(Writer):
    """Copies the sources and the artifact, whole: its manifest vouches for every file."""

    def __init__(self, package: Package, templates: Path) -> None:
        self.templates = templates

    def fits(
        self, source: str, backend: Backend, graphs: Collection[GraphName], profiles: Sequence[Profile | BatchRange]
    ) -> None:
        pass  # the library has every backend

    def write(self, destination: Path, folder: Path, manifest: Manifest) -> dict[str, Any]:
        ignored = shutil.ignore_patterns("build", "README.md")
        shutil.copytree(self.templates, destination, dirs_exist_ok=True, ignore=ignored)
        carry(folder, manifest, destination / ARTIFACT)
        artifact = manifest.artifact
        values = {
            "recipe": manifest.recipe["name"],
            "target": manifest.stage,
            "backend": artifact.backend,
            "precision": artifact.precision,
            "sdk": SDKS[artifact.backend],
            "labels": f"0-{min(10, artifact.num_classes) - 1}",
        }
        (destination / "README.md").write_text(render(self.templates, "README.md", values), encoding="utf-8")
        return {"backend": artifact.backend}

"""Manifests for tests of readers: short valid ones, and thousands that are wrong in one place (fuzz/corpus.py)."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import TypeAdapter

from dashdeploy.manifest import Manifest
from dashdeploy.recipe.schema import GuidanceInterval, Tag
from tests.records import engine_record

CORPUS = Path(__file__).resolve().parent.parent / "exporters" / "cpp" / "fuzz" / "corpus.py"
TIMESTEPS = [19, 14, 9, 4]
ENGINE = "artifact.graphs.*.engine"
UNREAD = {
    *("key", "inputs", "figures", "seed", "versions", "recipe"),
    *("artifact.opset", "artifact.macs", "artifact.schedule_sha256", "artifact.student_sha256"),
    *("artifact.recipe_sha256", "artifact.sampler.form"),
    *("artifact.graphs.*.onnx", "artifact.graphs.*.onnx_sha256"),
    *(f"{ENGINE}.{name}" for name in ("cuda", "driver_cuda", "device_name", "onnx_sha256", "plan_sha256")),
    *(f"{ENGINE}.{name}" for name in ("plan_bytes", "inputs", "outputs", "build_s", "build_peak_mib", "layers")),
    *(f"{ENGINE}.from_cache", f"{ENGINE}.flags.strongly_typed", f"{ENGINE}.flags.tf32"),
    *(f"{ENGINE}.flags.workspace_mib", f"{ENGINE}.flags.optimization_level"),
}
"""Properties that C++ and the page have no use for, with all that is in them."""
ONLY_IN_PYTHON = {("artifact.sampling.solver", "'dpmpp_2m'")}
"""What Python runs, and C++ and the page do not."""


def corpus() -> ModuleType:
    """fuzz/corpus.py as a module."""
    spec = importlib.util.spec_from_file_location("corpus", CORPUS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # beside it lie the sources of packages
        spec.loader.exec_module(module)
    return module


def is_read(place: str) -> bool:
    """Whether C++ and the page look at this property."""
    return not any(place == unread or place.startswith(f"{unread}.") for unread in UNREAD)


def schema() -> dict[str, Any]:
    """The contract as JSON Schema."""
    return TypeAdapter(Manifest).json_schema()


def shortened(manifest: dict[str, Any]) -> dict[str, Any]:
    """An artifact's manifest with 20 timesteps and no more figures than it must have."""
    changed: dict[str, Any] = json.loads(json.dumps(manifest))
    described = changed["artifact"]
    described.update(betas=described["betas"][:20], num_train_timesteps=20)
    described["sampling"].update(timesteps=TIMESTEPS)
    described["sampler"].update(timesteps=TIMESTEPS)
    return changed | {"figures": {"verified": "", "file_bytes": 1}, "recipe": {}, "versions": {"python": "3"}}


def with_guidance(manifest: dict[str, Any], guidance: Tag | GuidanceInterval) -> dict[str, Any]:
    """The same with guidance over time."""
    changed: dict[str, Any] = json.loads(json.dumps(manifest))
    changed["artifact"]["sampling"]["guidance"] = guidance.model_dump()
    return changed


def of_few_steps(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same of a student with one branch and few steps, which predicts v and ends at zero SNR."""
    changed: dict[str, Any] = json.loads(json.dumps(manifest))
    described = changed["artifact"]
    described.update(prediction_type="v_prediction", branches=1, guidance_range=[1.0, 4.0], grids=[TIMESTEPS, [18, 8]])
    described["betas"][-1] = 1.0
    described["graphs"].pop("cond", None)
    described["graphs"]["guided"]["outputs"][0]["name"] = "v"
    return changed


def of_latents(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same of a student of latents, with a decoder."""
    changed: dict[str, Any] = json.loads(json.dumps(manifest))
    described = changed["artifact"]
    decoder = {"image_shape": [3, 32, 32], "output": "float32", "at_once": 8, "precision": "fp32", "sha256": "0" * 64}
    graph = json.loads(json.dumps(described["graphs"]["guided"]))
    latents = {"name": "latents", "dtype": "float32", "shape": ["batch", *described["image_shape"]]}
    images = {"name": "images", "dtype": "float32", "shape": ["batch", 3, 32, 32]}
    described["graphs"]["decoder"] = graph | {"inputs": [latents], "outputs": [images]}
    described.update(latents=True, decoder=decoder)
    return changed


def for_tensorrt(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same with one graph, an engine."""
    changed: dict[str, Any] = json.loads(json.dumps(manifest))
    engine = engine_record("tensorrt")
    guided = changed["artifact"]["graphs"]["guided"] | {"engine": engine.model_dump(mode="json")}
    changed["artifact"].update(backend="tensorrt", graphs={"guided": guided}, sampler=None)
    return changed


def mutations(valid: dict[str, Any]) -> Iterator[Any]:
    """Every mutation of a valid manifest, and those of guidance over time, of a decoder and of an engine."""
    module, contract = corpus(), schema()
    guidance = ("artifact", "sampling", "guidance")
    yield from module.mutations(valid, contract)
    for scale in (Tag(), GuidanceInterval()):
        yield from (m for m in module.mutations(with_guidance(valid, scale), contract) if m.path[:3] == guidance)
    yield from (m for m in module.mutations(of_latents(valid), contract) if "decoder" in m.path)
    yield from (m for m in module.mutations(for_tensorrt(valid), contract) if "engine" in m.path)


def place_of(path: Sequence[str | int]) -> str:
    """A mutation's path without the names of graphs and files, and without a list's indices."""
    steps = ["*" if isinstance(step, int) else step for step in path]
    for i, parent in enumerate(steps[:-1]):
        if parent in ("graphs", "files"):
            steps[i + 1] = "*"
    return ".".join(steps)

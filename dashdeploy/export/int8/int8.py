"""int8 for a whole artifact: the draws, the search on the guided graph, and the same layers in every other graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx
from rich.progress import Progress

from dashdeploy import seeds
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.export.checks import gate, trajectories
from dashdeploy.export.graph import graphs, onnx_graph
from dashdeploy.export.int8 import quantize, quantize_nncf, sensitivity
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime import openvino_model
from dashdeploy.runtime.graphs_model import GraphDenoiser
from dashdeploy.runtime.onnxruntime_model import open_guided
from dashdeploy.target import TENSORRT, Target


class Int8:
    """Quantizes one graph after the other; the guided one first, whose search decides for all."""

    def __init__(
        self,
        denoiser: TorchDenoiser,
        sampling: Sampling,
        target: Target,
        work: Path,
        its_gate: gate.Gate,
        *,
        seed: int,
    ) -> None:
        self.by_nncf = target.calibration.quantizer == "nncf"
        if target.opset > quantize.MAX_OPSET:
            raise UserError(
                f"{target.name}: int8 by onnxruntime needs opset ≤ {quantize.MAX_OPSET}, got {target.opset}: its "
                "optimizer makes invalid QuantizeLinear nodes of newer ones"
            )
        self.denoiser, self.target, self.work = denoiser, target, work
        config = target.calibration
        self.symmetric = target.backend in TENSORRT
        self.probes = trajectories.draw(
            denoiser,
            sampling,
            num_images=config.num_images,
            num_points=config.num_steps,
            seed=seeds.derive(seed, "calibration"),
        )
        steps = denoiser.interface.schedule.num_train_timesteps
        self.scale = guidance.weight(sampling.guidance, steps / 2, steps)
        self.gate = its_gate
        self.search: sensitivity.Search | None = None

    def quantized(self, name: str, path: Path, *, progress: Progress) -> onnx.ModelProto:
        """The Q/DQ form of a float graph, by ONNX Runtime's quantizer."""
        calibrated = self._calibrated(name, path)
        if self.search is None:
            assert name == "guided", name
            self.search = self._search(calibrated, path, progress)
        layers = [layer for layer in calibrated.layers if layer not in self.float_layers]
        return quantize.quantize(calibrated, layers=layers, symmetric=self.symmetric)

    def quantized_nncf(self, name: str, path: Path, *, progress: Progress) -> Any:
        """The OpenVINO model of a float graph with int8 layers, by NNCF."""
        if self.search is None:  # on the guided graph, wherever that stands in the target
            guided = self.work / "guided.onnx"
            self.search = self._search(self._calibrated("guided", guided), guided, progress)
        nodes = quantize.layers_of(path)
        kept = [nodes[layer] for layer in self.float_layers]
        return quantize_nncf.quantize(path, self._reader(name), kept)

    @property
    def float_layers(self) -> list[str]:
        """Layers that are not quantized."""
        return [*quantize.ALWAYS_FLOAT, *(self.search.float_layers if self.search else ())]

    def _calibrated(self, name: str, path: Path) -> quantize.Calibrated:
        method = self.target.calibration.method
        return quantize.calibrate(path, self.work, self._reader(name), method=method)

    def _reader(self, name: str) -> quantize.Reader:
        inputs, null_class = graphs.GRAPHS[name].inputs, self.denoiser.interface.null_class
        return quantize.Reader(self.probes, inputs, null_class=null_class, scale=self.scale)

    def _search(self, calibrated: quantize.Calibrated, path: Path, progress: Progress) -> sensitivity.Search:
        """On the guided graph, which is the first; layers are ranked with ONNX Runtime's quantizer in any case."""
        task = progress.add_task(f"{self.target.name}: sensitive layers", total=len(calibrated.layers))
        layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT]
        interface = self.denoiser.interface

        def by_onnxruntime(layers: Collection[str]) -> GraphDenoiser:
            model = quantize.quantize(calibrated, layers=layers, symmetric=self.symmetric)
            trial = onnx_graph.save(model, self.work / "trial.onnx", metadata={}, single_file_mb=2000)
            return open_guided(trial, interface)

        def by_nncf(layers: Collection[str]) -> GraphDenoiser:
            nodes = [node for layer, node in quantize.layers_of(path).items() if layer not in layers]
            model = quantize_nncf.quantize(path, self._reader("guided"), nodes)
            return openvino_model.of_guided(model, interface)

        return sensitivity.search(
            layers,
            by_nncf if self.by_nncf else by_onnxruntime,
            self.gate,
            most=self.target.calibration.float_layers,
            rank=by_onnxruntime,
            on_layer=lambda: progress.advance(task),
        )

    def as_dict(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "calibration_draws": len(self.probes.t),
            "calibration_t": sorted({int(t) for t in self.probes.t}),
            "symmetric": self.symmetric,
            "float_layers": self.float_layers,
            "damage": self.search.damage if self.search else {},
        }


def gate_of(denoiser: TorchDenoiser, sampling: Sampling, target: Target, *, seed: int) -> gate.Gate:
    """The guidance gate of a student, on draws that calibration has not seen."""
    points = min(target.gate.t_bins, sampling.num_inference_steps)
    probes = trajectories.draw(
        denoiser,
        sampling,
        num_images=max(2, -(-target.gate.num_draws // points)),
        num_points=points,
        seed=seeds.derive(seed, "gate"),
    )
    prepared = gate.prepare(denoiser, probes, target.gate, scale=sampling.guidance)
    return dataclasses.replace(prepared, batch_size=min(gate.BATCH, target.largest_batch or gate.BATCH))

"""All checks of a finished artifact, in its runtime where that runs here, else on its ONNX graphs."""

from __future__ import annotations

from pathlib import Path

import torch

from dashdeploy.artifact import TENSORRT, Artifact
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser, TorchDenoiser
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.export import decoder
from dashdeploy.export.checks import parity, sampling_check, worst_layer
from dashdeploy.export.checks.gate import Gate, failure
from dashdeploy.export.decoder import Decoding
from dashdeploy.export.graph import rewrite
from dashdeploy.figures import Checks, GateFigures, Parity, Rung, SamplingCheck
from dashdeploy.lazy import resolve
from dashdeploy.metrics.gap import relative_error
from dashdeploy.progress import Progress
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime import RUNTIMES, tensorrt_library
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.model import Model, Open, Opening
from dashdeploy.runtime.onnxruntime_model import open_guided
from dashdeploy.target import Target

IMAGES = 5
"""Images of the sampling check: an odd number, and not the one that was traced."""
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def verify(
    folder: Path,
    artifact: Artifact,
    reference: TorchDenoiser,
    decoding: Decoding | None,
    target: Target,
    sampling: Sampling,
    *,
    seed: int,
    gate: Gate | None,
    float_graph: Path | None,
    progress: Progress,
) -> Checks:
    """Parity (fp32) or the guidance gate (others), batch sizes, and the cond, step and sampler graphs.

    Args:
        decoding: of latents, by its decoder graph.
        sampling: the recipe's, with the sampler graph's number of steps.
        gate: what a lower precision must pass; None for fp32.
        float_graph: the guided graph in float32, the ladder's first rung; None for fp32 itself.

    Raises:
        UserError: a limit of the target is passed, with the table of the gate.
    """
    model, elsewhere = open_here(folder, artifact, target)
    with model:
        denoiser = OnHost(model.denoiser, model.device)
        parity_rows, gate_rungs = None, None
        if gate is None:
            parity_rows = check_parity(denoiser, reference, target, sampling, seed=seed, progress=progress)
        else:
            progress.add_task(f"{target.name}: guidance gate", total=None)
            gate_rungs = check_gate(gate, denoiser, reference, target, float_graph=float_graph)
            check_batches(denoiser, reference, target, seed=seed)
        decoded = None
        if decoding is not None:
            session = SessionOnHost(model, "decoder")
            decoded = decoder.check(session, decoding, target, reference, sampling, seed=seed)
        graphs = check_sampling(model, reference, decoding, target, sampling, seed=seed)
    names = {name for graph in artifact.graphs.values() for name in graph.files}
    return Checks(
        verified=elsewhere,
        sampling=graphs,
        parity=parity_rows,
        gate=gate_rungs,
        decoder=decoded,
        file_bytes=sum((folder / name).stat().st_size for name in names),
    )


def open_here(folder: Path, artifact: Artifact, target: Target) -> tuple[Model, str]:
    """The artifact's model, and where it runs if not in the artifact's runtime; '' otherwise.

    An engine, or a graph for a provider that is not here, is checked as ONNX on the CPU: the same graph with the
    same precision, not the same kernels.
    """
    if runs_here(artifact):
        opener: Open = resolve("runtime", RUNTIMES, artifact.backend)
        return opener(folder, artifact, Opening(), sha256=""), ""
    other = "openvino" if artifact.precision == "bf16" else "onnxruntime"
    as_onnx = {
        name: graph.model_copy(update={"file": graph.onnx or graph.file, "engine": None})
        for name, graph in artifact.graphs.items()
    }
    changes = {"graphs": as_onnx, "backend": other, "providers": ("CPUExecutionProvider",)}
    opener = resolve("runtime", RUNTIMES, other)
    skipped = artifact.providers[0] if artifact.backend == "onnxruntime" else artifact.backend
    return (
        opener(folder, artifact.model_copy(update=changes), Opening(), sha256=""),
        f"its ONNX graphs were checked in {TITLES[other]} on the CPU; {skipped} itself was not run here",
    )


def runs_here(artifact: Artifact) -> bool:
    """Whether this machine has the artifact's provider, or the GPU that all its engines were built for."""
    if artifact.backend in TENSORRT:
        capability = tensorrt_library.compute_capability()
        engines = [graph.engine for graph in artifact.graphs.values() if graph.engine is not None]
        return all(capability in engine.compute_capabilities for engine in engines)
    if artifact.backend == "onnxruntime" and artifact.providers[0] != "CPUExecutionProvider":
        import onnxruntime

        return artifact.providers[0] in onnxruntime.get_available_providers()
    return True


class OnHost:
    """A denoiser on a device, with tensors of the host in and out."""

    def __init__(self, inner: Denoiser, device: str) -> None:
        self.inner, self.interface, self.device = inner, inner.interface, device

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.inner(*(v.to(self.device) for v in (x, t, y))).cpu()

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both branches."""
        uncond, cond = self.inner.branches(*(v.to(self.device) for v in (x, t, y)))
        return uncond.cpu(), cond.cpu()

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Guided eps."""
        return self.inner.guided(*(v.to(self.device) for v in (x, t, y, w))).cpu()


class SessionOnHost:
    """A graph on a device, with tensors of the host in and out."""

    def __init__(self, model: Model, name: str) -> None:
        assert isinstance(model.sampler, GraphSampler)
        self.session, self.device = model.sampler.graphs[name], model.device

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.session(*(v.to(self.device) for v in inputs)).cpu()

    def close(self) -> None:
        """The model closes its sessions."""


def batch_sizes(target: Target) -> tuple[int, ...]:
    """The target's batch sizes for parity, cut to what its engines accept."""
    largest = target.largest_batch
    sizes = [size if largest is None else min(size, largest) for size in target.parity.batch_sizes]
    return tuple(dict.fromkeys(sizes))


def check_parity(
    denoiser: Denoiser, reference: TorchDenoiser, target: Target, sampling: Sampling, *, seed: int, progress: Progress
) -> Parity:
    """Parity at the target's batch sizes and limits."""
    limits = target.parity.model_copy(update={"batch_sizes": batch_sizes(target)})
    task = progress.add_task(f"{target.name}: parity", total=len(limits.batch_sizes) * limits.t_bins)
    return parity.check(
        denoiser,
        reference,
        limits,
        scale=sampling.guidance,
        seed=seed,
        on_row=lambda: progress.advance(task),
    )


def check_gate(
    gate: Gate, denoiser: Denoiser, reference: TorchDenoiser, target: Target, *, float_graph: Path | None
) -> GateFigures:
    """The ladder: the graph in float32, then the artifact.

    Raises:
        UserError: a rung fails; with the gate's table, and for a half precision the worst layer.
    """
    rungs: list[Rung] = []
    if float_graph is not None:
        plain = open_guided(float_graph, reference.interface)
        rungs.append(gate.judge(plain, "ONNX fp32"))
        plain.close()
    rungs.append(gate.judge(denoiser, f"{target.backend} {target.precision}"))
    for rung in rungs:
        if rung.failures:
            raise UserError(failure(rung, rung.name) + (_worst(reference, target, gate) if rung is rungs[-1] else ""))
    return GateFigures(limits=target.gate.model_dump(mode="json"), rungs=tuple(rungs))


def _worst(reference: TorchDenoiser, target: Target, gate: Gate) -> str:
    """What to do: for a half precision with the worst layer's name, which the search of int8 has named already."""
    if target.precision == "int8":
        return (
            " The layers in float were enough on the draws that they were chosen on, and are not on these. Raise "
            "gate.num_draws, so that the choice knows more, or the gate's limits."
        )
    rewritten = rewrite.for_export(reference, group_norm=target.group_norm, precision=target.precision)
    layer, error = worst_layer.find(reference, rewritten, gate.probes)
    return (
        f" The worst layer is {layer}: by itself in {target.precision} its gap is off by {error:.2%}. "
        "Take a precision with more digits, or raise the gate's limits."
    )


def check_batches(denoiser: Denoiser, reference: TorchDenoiser, target: Target, *, seed: int) -> None:
    """At every batch size, and with other guidance for each image, the guided output must be that of each image's w.

    Of two branches it is uncond + w·gap of the artifact's own; of one, that of the student in torch.

    Raises:
        UserError: it names the batch size.
    """
    interface = denoiser.interface
    for size in batch_sizes(target):
        x, t, y = parity.draw(denoiser, size, 0, interface.schedule.num_train_timesteps, seed=seed)
        w = interface.varied(torch.ones(size))
        two = interface.branches == 2
        expected = guidance.combine(*denoiser.branches(x, t, y), w) if two else reference.guided(x, t, y, w)
        guided = denoiser.guided(x, t, y, w)
        if guided.shape != expected.shape or not relative_error(guided, expected) <= target.gate.guided_error:
            raise UserError(
                f"{target.name}: at batch {size} the guided output is not that of each image's own w. No artifact was "
                "written. Its batch is fixed, or one w is used for all."
            )


def check_sampling(
    model: Model,
    reference: TorchDenoiser,
    decoding: Decoding | None,
    target: Target,
    sampling: Sampling,
    *,
    seed: int,
) -> tuple[SamplingCheck, ...]:
    """The cond, step and sampler graphs that the target has.

    Raises:
        UserError: one does not follow torch within the target's limits.
    """
    others = [name for name in target.graphs if name not in ("guided", "decoder")]
    if not others:
        return ()
    interface = reference.interface
    steps = plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids)
    path = sampling_check.trajectory(reference, steps, scale=sampling.guidance, seed=seed, batch_size=IMAGES)
    exact = target.precision == "fp32"
    checks = []
    for name in others:
        session = SessionOnHost(model, name)
        if name == "cond":
            check = sampling_check.check_cond(session, reference, path, steps)
        elif name == "step":
            check = sampling_check.check_step(session, path, steps, interface.schedule)
        else:
            ends = decoding.taken.decode(path.after[-1]) if decoding and target.sampler.decode else path.after[-1]
            check = sampling_check.check_sampler(session, path, ends)
        # Of bytes, a value on the border between two levels may fall to either side.
        level = 2 / 255 if name == "sampler" and target.sampler.output == "uint8" else 0.0
        sampling_check.require(
            check,
            step_error=target.parity.relative_error if exact else target.gate.step_error,
            image_error=target.parity.sampler_error if exact else target.gate.image_error,
            max_difference=target.parity.sampler_error + level if exact else None,
        )
        checks.append(check)
    return tuple(checks)

"""All checks of a finished artifact: in its own runtime where that runs here, else on its ONNX graphs, saying so."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser, TorchDenoiser
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.errors import UserError
from dashdeploy.export.checks import gate, parity, sampling_check, worst_layer
from dashdeploy.export.graph import rewrite
from dashdeploy.export.int8 import sensitivity
from dashdeploy.lazy import resolve
from dashdeploy.metrics.gap import relative_error
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime import RUNTIMES, tensorrt_library
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.model import Model, Opening
from dashdeploy.runtime.onnxruntime_model import open_guided
from dashdeploy.target import TENSORRT, Target

IMAGES = 5
"""Images of the sampling check: an odd number, and not the one that was traced."""


@dataclass
class Verification:
    """What was measured. verified: where, if not in the artifact's own runtime; '' otherwise."""

    verified: str
    sampling: list[sampling_check.SamplingCheck] = field(default_factory=list)
    parity: parity.Parity | None = None
    rungs: list[gate.Rung] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The manifest's figures."""
        found: dict[str, Any] = {"verified": self.verified, "sampling": [check.as_dict() for check in self.sampling]}
        if self.parity is not None:
            found["parity"] = self.parity.as_dict()
        if self.rungs:
            found["gate"] = {"limits": self.limits, "rungs": [rung.as_dict() for rung in self.rungs]}
        return found


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


def opened(folder: Path, artifact: dict[str, Any], target: Target) -> tuple[Model, str]:
    """The artifact's model, and where it runs if that is not its own runtime.

    An engine, or a graph for a provider that is not here, is checked as ONNX on the CPU: the same graph with the
    same precision, not the same kernels.
    """
    manifest = {"artifact": artifact, "files": {}}
    backend, how = target.backend, Opening()
    own = True
    if backend in TENSORRT:
        capability = tensorrt_library.compute_capability()
        own = all(fits(entry["engine"], capability) for entry in artifact["graphs"].values())
    elif backend == "onnxruntime" and target.providers[0] != "CPUExecutionProvider":
        import onnxruntime

        own = target.providers[0] in onnxruntime.get_available_providers()
    if own:
        return resolve("runtime", RUNTIMES, backend)(folder, manifest, how), ""
    graphs = {name: {**e, "file": e.get("onnx", e["file"])} for name, e in artifact["graphs"].items()}
    other = "openvino" if target.precision == "bf16" else "onnxruntime"
    manifest["artifact"] = {**artifact, "graphs": graphs, "backend": other, "providers": ["CPUExecutionProvider"]}
    named = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[other]
    skipped = target.providers[0] if backend == "onnxruntime" else backend
    return (
        resolve("runtime", RUNTIMES, other)(folder, manifest, how),
        f"its ONNX graphs were checked in {named} on the CPU; {skipped} itself was not run here",
    )


def fits(engine: dict[str, Any], capability: str | None) -> bool:
    """Whether an engine was built for this machine's GPU, and not ahead of time for others."""
    return capability in engine["compute_capabilities"]


def batch_sizes(target: Target) -> tuple[int, ...]:
    """The target's batch sizes for parity, cut to what its engines accept."""
    largest = target.largest_batch
    sizes = [size if largest is None else min(size, largest) for size in target.parity.batch_sizes]
    return tuple(dict.fromkeys(sizes))


def verify(
    folder: Path,
    artifact: dict[str, Any],
    reference: TorchDenoiser,
    target: Target,
    sampling: Sampling,
    *,
    plan: Plan,
    seed: int,
    ladder: gate.Gate | None,
    float_graph: Path | None,
    progress: Progress,
) -> Verification:
    """Parity (fp32) or the guidance gate (others), batch sizes, and the cond, step and sampler graphs.

    Args:
        ladder: the gate that a lower precision must pass; None for fp32.
        float_graph: the guided graph in float32, the ladder's first rung; None for fp32 itself.

    Raises:
        UserError: a limit of the target is passed, with the table of the gate.
    """
    model, where = opened(folder, artifact, target)
    found = Verification(where)
    with model:
        denoiser = OnHost(model.denoiser, model.device)
        if ladder is None:
            limits = target.parity.model_copy(update={"batch_sizes": batch_sizes(target)})
            total = len(limits.batch_sizes) * limits.t_bins
            task = progress.add_task(f"{target.name}: parity", total=total)
            found.parity = parity.check(
                denoiser,
                reference,
                limits,
                scale=sampling.guidance,
                seed=seed,
                on_row=lambda: progress.advance(task),
            )
        else:
            progress.add_task(f"{target.name}: guidance gate", total=None)
            _gate(found, ladder, denoiser, reference, target, float_graph=float_graph)
            check_batches(denoiser, target, seed=seed)
        _sampling(found, model, reference, target, plan=plan, sampling=sampling, seed=seed)
    return found


def _gate(
    found: Verification,
    ladder: gate.Gate,
    denoiser: Denoiser,
    reference: TorchDenoiser,
    target: Target,
    *,
    float_graph: Path | None,
) -> None:
    if float_graph is not None:
        plain = open_guided(float_graph, reference.interface)
        found.rungs.append(ladder.judge(plain, "ONNX fp32"))
        plain.close()
    found.rungs.append(ladder.judge(denoiser, f"{target.backend} {target.precision}"))
    found.limits = target.gate.model_dump(mode="json")
    for rung in found.rungs:
        if rung.failures:
            named = _worst(reference, target, ladder) if rung is found.rungs[-1] else ""
            raise UserError(sensitivity.failed(rung, rung.name) + named)


def _worst(reference: TorchDenoiser, target: Target, ladder: gate.Gate) -> str:
    """Names the worst layer of a half precision; int8's search has named its own."""
    if target.precision not in ("fp16", "bf16"):
        return ""
    rewritten = rewrite.for_export(reference, group_norm=target.group_norm, precision=target.precision)
    layer, error = worst_layer.find(reference, rewritten, ladder.probes)
    return (
        f" The worst layer is {layer}: alone in {target.precision} its gap is off by {error:.2%}. "
        "Take a precision with more digits, or raise the gate's limits."
    )


def check_batches(denoiser: Denoiser, target: Target, *, seed: int) -> None:
    """At every batch size, and with other guidance for each image, the guided output must be uncond + w·gap.

    Raises:
        UserError: it names the batch size.
    """
    for size in batch_sizes(target):
        x, t, y = parity.draw(denoiser, size, 0, denoiser.interface.schedule.num_train_timesteps, seed=seed)
        w = 1.0 + torch.arange(size) % 3
        expected = guidance.combine(*denoiser.branches(x, t, y), w)
        guided = denoiser.guided(x, t, y, w.float())
        if guided.shape != expected.shape or not relative_error(guided, expected) <= target.gate.guided_error:
            raise UserError(
                f"{target.name}: at batch {size} the guided output is not uncond + w·(cond − uncond) of each image. "
                "No artifact was written. Its batch is fixed, or one w is used for all."
            )


def _sampling(
    found: Verification,
    model: Model,
    reference: TorchDenoiser,
    target: Target,
    *,
    plan: Plan,
    sampling: Sampling,
    seed: int,
) -> None:
    others = [name for name in target.graphs if name != "guided"]
    if not others:
        return
    path = sampling_check.trajectory(reference, plan, scale=sampling.guidance, seed=seed, batch_size=IMAGES)
    exact = target.precision == "fp32"
    limits: dict[str, Any] = {
        "step_error": target.parity.relative_error if exact else target.gate.step_error,
        "image_error": target.parity.sampler_error if exact else target.gate.image_error,
        "max_difference": target.parity.sampler_error if exact else None,
    }
    for name in others:
        session = SessionOnHost(model, name)
        if name == "cond":
            check = sampling_check.check_cond(session, reference, path, plan)
        elif name == "step":
            check = sampling_check.check_step(session, path, plan)
        else:
            check = sampling_check.check_sampler(session, path)
        found.sampling.append(check)
        sampling_check.require(check, **limits)

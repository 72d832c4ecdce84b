"""The export stage: trace, quantize, build, verify; an artifact is written only if it passes its target's limits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from dashdeploy import manifest, stages
from dashdeploy.artifact import Artifact, Graph, GraphName, SamplingPlan, Student, WholeSampler
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.export import decoder, describe
from dashdeploy.export.backends import BACKENDS, Backend
from dashdeploy.export.checks import gate as guidance_gate
from dashdeploy.export.checks import sampling_check
from dashdeploy.export.checks.verify import verify
from dashdeploy.export.graph import compose, onnx_file, rewrite, sampler_graph
from dashdeploy.export.int8 import decide
from dashdeploy.export.int8 import quantize as by_onnxruntime
from dashdeploy.figures import Checks
from dashdeploy.lazy import resolve
from dashdeploy.progress import Progress
from dashdeploy.recipe.load import recipe_in
from dashdeploy.recipe.schema import Recipe, Sampling
from dashdeploy.runtime.opening import ARTIFACTS
from dashdeploy.target import TENSORRT, Target
from dashdeploy.teachers import formats, identity, networks
from dashdeploy.terminal import say, warn


def export(run_folder: Path, target: Target, *, sampling: Sampling | None = None, fresh: bool = False) -> stages.Stage:
    """Export run_folder/student for `target` into run_folder/artifacts/<target>, or return the current one.

    Args:
        sampling: of the recipe at hand, which may differ from the student's: training does not depend on all of it.
            None: the student's.

    Raises:
        UserError: no student, a backend that is missing here, a failed export or build, or figures past the target's
            limits; then no artifact is left.
    """
    stages.mend(run_folder)
    student = stages.read_stage(run_folder / "student")
    recipe = recipe_in(student.manifest, source=student.folder / stages.MANIFEST)
    if sampling is not None:
        recipe = recipe.model_copy(update={"sampling": sampling})
    refuse(target, recipe, run_folder)
    _say_if_stale(student)
    folder = run_folder / ARTIFACTS / target.name
    backend: Backend = resolve("backend", BACKENDS, target.backend)(target, run_folder / ".engines")
    inputs = {"student": student.sha256, "target": target.model_dump(mode="json"), **decoder.inputs(target, recipe)}
    key = stages.stage_key("artifact", recipe, {**inputs, "backend": backend.identity()})
    done = None if fresh else stages.finished(folder, key)
    if done is not None:
        return done
    backend.ready()
    denoiser = formats.load(student.folder, role="student")
    refuse_network(target, type(denoiser.unet).__name__, run_folder)
    if denoiser.interface.branches == 1 and "cond" in target.graphs:
        say(f"{target.name}: without the cond graph; a student of one branch has no other than the guided output")
        target = target.model_copy(update={"graphs": tuple(name for name in target.graphs if name != "cond")})
    decoding = decoder.find(student.folder, target, denoiser.interface.image_shape)
    if decoding is not None:
        target = target.model_copy(update={"graphs": (*target.graphs, "decoder")})
    elif target.sampler.decode:
        raise UserError(
            f"target {target.name}: sampler.decode is true, and the student of {run_folder} has no autoencoder. Leave "
            "it out, or distil again with data.vae."
        )
    info = None if decoding is None else decoding.info
    described = describe.student(student, recipe, target, denoiser.interface, info)
    with (
        stages.exclusive(folder) as work,
        stages.write_stage(folder, work, key=key, recipe=recipe, inputs=inputs) as draft,
        tempfile.TemporaryDirectory(prefix="dashdeploy-export-") as scratch,
        Progress() as progress,
    ):
        artifact, checks = make(
            denoiser,
            described,
            decoding,
            recipe,
            target,
            backend,
            folder=draft.folder,
            work=Path(scratch),
            progress=progress,
        )
        draft.artifact.update(artifact.model_dump(mode="json"))
        draft.figures.update(checks.model_dump(mode="json"))
        stages.refuse_if_replaced(student)
    return stages.read_stage(folder)


def _say_if_stale(student: stages.Stage) -> None:
    """A line on stderr where the teacher that the student was made from has been trained again since."""
    teacher = Path(student.figures["teacher"])
    if not teacher.is_dir():
        return
    try:
        same = (
            identity.as_taken(teacher, student.manifest["recipe"]["teacher"]) == student.manifest["inputs"]["teacher"]
        )
    except UserError:
        same = False
    if not same:
        warn(
            f"{student.folder}: it was distilled from another teacher than the one that is now in {teacher}. "
            "Distil it again with --fresh, if it is to follow that one."
        )


def make(
    denoiser: TorchDenoiser,
    described: Student,
    decoding: decoder.Decoding | None,
    recipe: Recipe,
    target: Target,
    backend: Backend,
    *,
    folder: Path,
    work: Path,
    progress: Progress,
) -> tuple[Artifact, Checks]:
    """The artifact's files in `folder`, with what the manifest says of them and what was measured; `work` is scratch.

    Raises:
        UserError: a graph that cannot be exported or built, or a figure past the target's limits.
    """
    steps = target.sampler.num_inference_steps or recipe.sampling.num_inference_steps
    sampling = recipe.sampling.model_copy(update={"num_inference_steps": steps})
    sampler = describe.whole_sampler(sampling, target, denoiser.interface)
    gate = None
    if target.precision != "fp32":
        gate = guidance_gate.for_target(denoiser, sampling, target, seed=recipe.seed)
    traced, float_graph = trace(denoiser, recipe, target, work=work, progress=progress)
    models, int8 = quantize(traced, denoiser, recipe, target, sampling, work=work, progress=progress)
    if decoding is not None:
        models["decoder"] = decoder.trace(decoding, target, denoiser, sampling, seed=recipe.seed, work=work)
    steps_of_recipe = describe.sampling_plan(recipe.sampling, denoiser.interface)
    saved = save(models, described, denoiser.interface, steps_of_recipe, sampler, target, folder)
    built = backend.build(folder, saved, int8=int8, progress=progress)
    macs = describe.macs(denoiser)
    artifact = describe.artifact(described, built, steps_of_recipe, target, sampler=sampler, macs=macs)
    checks = verify(
        folder,
        artifact,
        denoiser,
        decoding,
        target,
        sampling,
        seed=recipe.seed,
        gate=gate,
        float_graph=float_graph,
        progress=progress,
    )
    return artifact, checks.model_copy(update={"int8": None if int8 is None else int8.figures()})


def refuse(target: Target, recipe: Recipe, run_folder: Path) -> None:
    """What cannot be exported, told before anything is loaded.

    Raises:
        UserError: a sampler graph of bytes for latents, or of steps that a few-step student does not make; or int8 at
            an opset that its quantizer does not write.
    """
    steps, few = target.sampler.num_inference_steps, recipe.distill.objective.few_steps
    if few and steps is not None and steps not in few:
        raise UserError(
            f"target {target.name}: sampler.num_inference_steps is {steps}, and the student of {run_folder} makes "
            f"{' or '.join(map(str, few))}. Set it to one of these, or leave it out."
        )
    whole = target.sampler
    if recipe.data.gives_latents and "sampler" in target.graphs and whole.output == "uint8" and not whole.decode:
        raise UserError(
            f"target {target.name}: its sampler graph ends in bytes, 0..255, and {run_folder} was trained on latents, "
            "which have no fixed range. Set sampler.output to float32, or sampler.decode to true, in a target file of "
            "your own."
        )
    if target.precision == "int8" and target.opset > by_onnxruntime.MAX_OPSET:
        raise UserError(
            f"{target.name}: int8 by onnxruntime needs opset ≤ {by_onnxruntime.MAX_OPSET}, got {target.opset}: its "
            "optimizer makes invalid QuantizeLinear nodes of newer ones"
        )


def refuse_network(target: Target, network: str, run_folder: Path) -> None:
    """What cannot be exported of a network of this class.

    Raises:
        UserError: an int8 engine of a DiT.
    """
    if target.precision == "int8" and network == networks.DIT and target.backend in TENSORRT:
        raise UserError(
            f"target {target.name}: int8 engines of TensorRT are of convolutions, and of {run_folder}'s DiT only the "
            "patches are one. Take a target with precision fp16 or bf16."
        )


def trace(
    denoiser: TorchDenoiser, recipe: Recipe, target: Target, *, work: Path, progress: Progress
) -> tuple[dict[GraphName, Path], Path | None]:
    """ONNX files of every graph that the target has or that its sampler graph is made from, before quantization.

    Returns:
        The files by graph, and the guided graph in float32 that a lower precision is compared with; None for fp32.
    """

    def made(precision: rewrite.FloatPrecision, names: Sequence[GraphName], prefix: str = "") -> dict[GraphName, Path]:
        network = rewrite.for_export(denoiser, group_norm=target.group_norm, precision=precision)
        found: dict[GraphName, Path] = {}
        clip = recipe.sampling.clip_sample
        for name, model in compose.student_graphs(network, names, clip_sample=clip, opset=target.opset):
            path = work / f"{prefix}{name}.onnx"
            found[name] = onnx_file.save(model, path, metadata={}, single_file_mb=target.single_file_mb)
            progress.advance(task)
        return found

    wanted = [n for n in compose.COMPOSED if n in target.graphs or (n == "step" and "sampler" in target.graphs)]
    compared = target.precision not in ("fp32", "int8")
    task = progress.add_task(f"{target.name}: graphs", total=len(wanted) + compared)
    traced = made("fp32" if target.precision == "int8" else target.precision, wanted)
    if target.precision == "fp32":
        return traced, None
    return traced, made("fp32", ["guided"], "float-")["guided"] if compared else traced["guided"]


def quantize(
    traced: dict[GraphName, Path],
    denoiser: TorchDenoiser,
    recipe: Recipe,
    target: Target,
    sampling: Sampling,
    *,
    work: Path,
    progress: Progress,
) -> tuple[dict[GraphName, onnx.ModelProto], decide.Int8 | None]:
    """The graphs in memory, in int8 where the target says so, and how; NNCF quantizes later, in its backend.

    Args:
        sampling: the recipe's, with the sampler graph's number of steps.
    """
    if target.precision != "int8":
        return {name: onnx_file.load(path) for name, path in traced.items()}, None
    by_nncf = target.calibration.quantizer == "nncf"
    draws = decide.draw(denoiser, recipe.sampling, target, seed=recipe.seed)
    calibrated = {
        name: by_onnxruntime.calibrate(path, work, draws.reader(name), method=target.calibration.method)
        for name, path in traced.items()
        if name == "guided" or not by_nncf
    }
    int8 = decide.decide(
        draws,
        traced["guided"],
        calibrated["guided"],
        target,
        denoiser.interface,
        guidance_gate.for_target(denoiser, sampling, target, seed=recipe.seed, search=True),
        work=work,
        progress=progress,
    )
    if by_nncf:
        return {name: onnx_file.load(path) for name, path in traced.items()}, int8
    models = {}
    for name, ranges in calibrated.items():
        layers = [layer for layer in ranges.layers if layer not in int8.float_layers]
        models[name] = by_onnxruntime.quantize(ranges, layers=layers, symmetric=int8.symmetric)
    return models, int8


def save(
    models: dict[GraphName, onnx.ModelProto],
    student: Student,
    interface: Interface,
    sampling: SamplingPlan,
    sampler: WholeSampler | None,
    target: Target,
    folder: Path,
) -> dict[GraphName, Graph]:
    """Write the target's graphs into the artifact's folder, in the target's order; the sampler is made from the step.

    Raises:
        UserError: a graph does not compute in the target's precision, or holds weights that are not finite or timesteps
            that are not its plan's.
    """
    said = {**student.model_dump(mode="json"), "sampling": sampling.model_dump(mode="json")}
    if sampler is not None:
        whole = sampler_graph.assemble(
            models["step"],
            sampler.timesteps,
            form=sampler.form,
            output=sampler.output,
            renoise=interface.schedule.alphas_cumprod_from_clean.numpy() if sampling.solver == "consistency" else None,
            decoder=models["decoder"] if sampler.decode else None,
        )
        sampling_check.require_timesteps(whole, sampler.timesteps, solver=sampling.solver)
        models = {**models, "sampler": whole}
    saved: dict[GraphName, Graph] = {}
    if student.decoder is not None and student.decoder.output == "uint8":
        models["decoder"] = sampler_graph.in_bytes(models["decoder"])
    for name in target.graphs:
        if target.precision != "int8" or target.calibration.quantizer != "nncf":  # NNCF quantizes after this
            onnx_file.require_precision(models[name], target.precision_of(name), graph=name)
        onnx_file.require_finite(models[name], graph=name)
        metadata = {"graph": name, **said}
        if sampler is not None and name == "sampler":
            metadata["sampler"] = sampler.model_dump(mode="json")
        path = folder / f"{name}.onnx"
        onnx_file.save(models[name], path, metadata=metadata, single_file_mb=target.single_file_mb)
        saved[name] = describe.graph(path, name, student=student, solver=sampling.solver, sampler=sampler)
    return saved


def summary(stage: stages.Stage) -> str:
    """One line of what an export measured."""
    contents = manifest.read(stage)
    checks, artifact = contents.figures, contents.artifact
    parts = [f"{checks.file_bytes / 1e6:.2f} MB"]
    if checks.parity is not None:
        parts.append(f"parity with torch {checks.parity.worst.relative_error:.1e}")
    if checks.decoder is not None:
        parts.append(f"decoder {checks.decoder.relative_error:.1e}")
    if checks.gate is not None:
        rung = checks.gate.rungs[-1]
        overall, bound = rung.overall, rung.bounds[0]
        parts.append(
            f"guidance gate: gap error {overall.relative_error:.4f} (≤ {bound.relative_error:.4f} on other draws), "
            f"cosine {overall.energy_cosine:.4f} (≥ {bound.energy_cosine:.4f})"
        )
    if checks.verified:
        parts.append(checks.verified)
    return f"{stage.folder}  {', '.join([*parts, *_not_used(artifact)])}"


def _not_used(artifact: Artifact) -> list[str]:
    solver, of_ddim = artifact.sampling.solver, [name for name in ("step", "sampler") if name in artifact.graphs]
    if solver != "dpmpp_2m" or not of_ddim:
        return []
    return [f"{solver} loops over guided on the host: {' and '.join(of_ddim)} hold DDIM's update"]

"""One exported .onnx file as a model on the CPU, without a manifest, by the metadata inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError

from dashdeploy.artifact import SIGNATURES, GraphName, SamplingPlan, Student, WholeSampler
from dashdeploy.checked import GraphBytes
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.diffusion.sampling import CLEAN, Plan
from dashdeploy.errors import UserError
from dashdeploy.manifest import problem
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime.graphs_model import GraphDenoiser, interface, sampling, step_by_step, whole_sampler
from dashdeploy.runtime.model import Model, SamplerGraph
from dashdeploy.runtime.onnx_session import OnnxSession, read_file
from dashdeploy.runtime.onnxruntime_model import HostSession
from dashdeploy.runtime.sessions import Graphs, Session


class Metadata(Student):
    """What each exported file says of itself: the student, the recipe's plan, and of a sampler graph its own steps."""

    sampling: SamplingPlan
    sampler: WholeSampler | None = None


def open_file(path: Path, *, threads: int | None, loaded: GraphBytes | None = None) -> Model:
    """Open a guided, cond, step or sampler graph's file on the CPU.

    The guided and the cond graph draw by any solver and number of steps; the step graph by DDIM, or the solver
    consistency of a student that was trained for it; the sampler graph the steps that it holds.

    Args:
        loaded: its bytes as a manifest vouches for them; None: there is no manifest.

    Raises:
        UserError: missing, truncated, not one of the four graphs, or without this package's metadata.
    """
    loaded = loaded or read_file(path)
    session = OnnxSession(path, inputs=None, threads=threads, loaded=loaded)
    try:
        name, metadata = _graph_of(session, path), _metadata(session, path)
    except UserError:
        session.close()
        raise
    shape = replace(interface(metadata, metadata.sampling), decoded=None)
    if name == "sampler" and metadata.sampler is not None and metadata.sampler.decode and metadata.decoder is not None:
        shape = replace(shape, decoded=metadata.decoder.image_shape)
    graphs = Graphs((name,), _only(name, HostSession(session, SIGNATURES[name][0]), path))
    own = sampling(metadata.sampling)
    sampler = None
    if name in ("sampler", "step"):
        steps = len(metadata.sampler.timesteps) if metadata.sampler is not None else own.num_inference_steps
        own = own.model_copy(update={"solver": shape.solvers[0], "num_inference_steps": steps})
        sampler = OneGraph(graphs, shape, name, own, metadata.sampler, path)
    return Model(
        label="student (ONNX Runtime)",
        runtime="onnxruntime",
        denoiser=GraphDenoiser(graphs, shape),
        parameters=metadata.parameters,
        file_bytes=len(loaded.model) + sum(map(len, loaded.weights.values())),
        sha256=hashlib.sha256(loaded.model).hexdigest(),
        classes=metadata.classes,
        precision=metadata.precision,
        sampler=sampler,
        sampling=own,
        resources=[session],
    )


def _graph_of(session: OnnxSession, path: Path) -> GraphName:
    for name, (inputs, _) in SIGNATURES.items():
        if session.inputs == set(inputs):
            if name == "decoder":
                raise UserError(f"{path}: an artifact's decoder, which draws nothing by itself. Open the folder.")
            return name
    expected = "; ".join(f"{name}: {', '.join(inputs)}" for name, (inputs, _) in SIGNATURES.items())
    raise UserError(
        f"{path}: its inputs are {sorted(session.inputs)}; expected those of an exported graph ({expected})"
    )


def _metadata(session: OnnxSession, path: Path) -> Metadata:
    try:
        held = {key.removeprefix("dashdeploy."): json.loads(text) for key, text in session.metadata.items()}
        return Metadata.model_validate(held)
    except ValueError as error:  # a ValidationError is one
        what = problem(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{path}: not exported by this dashdeploy (metadata: {what}). Export it again.") from error


def _only(held: GraphName, session: Session, path: Path) -> Callable[[str], Session]:
    def open_graph(name: str) -> Session:
        if name != held:
            raise UserError(
                f"{path}: it holds the {held} graph, and this needs the {name} graph. Give {name}.onnx or the "
                "artifact's folder."
            )
        return session

    return open_graph


class OneGraph:
    """A step or a sampler graph by itself: it draws the plans that fit it."""

    def __init__(
        self,
        graphs: Graphs,
        interface: Interface,
        name: SamplerGraph,
        sampling: Sampling,
        whole: WholeSampler | None,
        path: Path,
    ) -> None:
        self.graphs, self.interface, self.name, self.path = graphs, interface, name, path
        self.clip_sample = sampling.clip_sample
        self.timesteps = whole.timesteps if whole is not None else None
        self.ends_decoded = whole is not None and whole.decode

    def graph_for(self, plan: Plan, batch_size: int | None = None, *, decode: bool = True) -> SamplerGraph:
        """The graph.

        Raises:
            UserError: the plan does not fit it.
        """
        problem = ""
        if plan.solver == "dpmpp_2m":
            problem = f"holds DDIM's update, and {plan.solver} was asked for"
        elif plan.clip_sample != self.clip_sample:
            problem = f"was exported with clip_sample {self.clip_sample}"
        elif not decode and self.ends_decoded:
            problem = "ends in the decoder, and latents were asked for"
        elif self.name == "sampler" and self.timesteps is None:
            problem = "does not say its timesteps"
        elif self.name == "sampler" and (plan.timesteps != self.timesteps or plan.end != CLEAN):
            assert self.timesteps is not None
            same = len(plan.timesteps) == len(self.timesteps)
            problem = f"holds {len(self.timesteps)} steps, and " + (
                "others were asked for" if same else f"{len(plan.timesteps)} were asked for: leave the number out"
            )
        if problem:
            raise UserError(f"{self.path}: the {self.name} graph {problem}. Give guided.onnx or the artifact's folder.")
        return self.name

    def __call__(
        self,
        noise: torch.Tensor,
        y: torch.Tensor,
        plan: Plan,
        *,
        on_step: Callable[[int], None] | None = None,
        decode: bool = True,
    ) -> torch.Tensor:
        self.graph_for(plan, decode=decode and self.interface.decoded is not None)
        if self.name == "step":
            return step_by_step(self.graphs, self.interface, noise, y, plan, on_step=on_step)
        images, doubtful = whole_sampler(self.graphs, self.interface, noise, y, plan, on_step=on_step)
        if doubtful:
            what = "an image of one value" if images.isfinite().all() else "NaN or Inf"
            raise UserError(
                f"{self.path}: the sampler graph gave {what}, and does not show at which step. Open the artifact's "
                "folder, which finds it by the other graphs."
            )
        return images

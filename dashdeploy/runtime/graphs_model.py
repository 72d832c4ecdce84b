"""The graphs of one artifact folder behind the Denoiser and Sampler contracts, whatever runtime runs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from dashdeploy import checked
from dashdeploy.artifact import Artifact, DecoderInfo, Graph, Host
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Interface, no_branches
from dashdeploy.diffusion.pixels import from_uint8
from dashdeploy.diffusion.sampling import CLEAN, SOLVERS, Plan, Watch
from dashdeploy.errors import UserError, telling_the_user
from dashdeploy.runtime.decoding import InParts
from dashdeploy.runtime.described import interface, sampling
from dashdeploy.runtime.model import Model, Opening, SamplerGraph
from dashdeploy.runtime.sessions import Graphs, Session


class GraphDenoiser:
    """The guided graph, and the cond graph where there is one, as a Denoiser; or the cond graph alone, called twice.

    A student of one branch has no cond graph: without guidance its w is 1.
    """

    def __init__(self, graphs: Graphs, interface: Interface) -> None:
        self.graphs, self.interface = graphs, interface

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One branch: the cond graph, or the guided one with w = 1."""
        if "cond" in self.graphs:
            return self.graphs["cond"](x, t, y)
        return self.guided(x, t, y, torch.ones(y.shape, device=x.device))

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(uncond, cond) as the guided graph has them: w = 0 and w = 1."""
        if self.interface.branches == 1:
            raise no_branches()
        if self._cond_alone:
            return self(x, t, torch.full_like(y, self.interface.null_class)), self(x, t, y)
        zeros = torch.zeros(y.shape, device=x.device)
        return self.guided(x, t, y, zeros), self.guided(x, t, y, zeros + 1)

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """One run of the graph."""
        if self._cond_alone:
            return guidance.combine(*self.branches(x, t, y), w)
        return self.graphs["guided"](x, t, y, w)

    @property
    def _cond_alone(self) -> bool:
        return "cond" in self.graphs and "guided" not in self.graphs

    def close(self) -> None:
        """Release the sessions."""
        self.graphs.close()


class GraphSampler:
    """Calls the sampler graph where it fits the plan, else the step graph, else the guided one in a loop of its solver.

    The step and sampler graphs hold DDIM's update. A step whose guidance scale is 1 needs only the conditional branch;
    with a cond graph it costs half, which the sampler graph cannot do: a plan with enough such steps goes step by step.

    Args:
        clip_sample: what the step and sampler graphs do to the predicted x_0.
        timesteps: of the sampler graph; () without one.
        ends_decoded: the sampler graph ends in the decoder.
        decoder: of the artifact; None: it has none.
        host: when a batch is cut, and when the loop replaces the sampler graph.
        narrow: the same graphs on one thread each. With them a batch is cut over `threads`, and each part runs all of
            its steps on one thread: images are independent, and the operators of a network are shared between
            threads at each of a hundred places. None: `graphs` run every batch.
    """

    def __init__(
        self,
        graphs: Graphs,
        interface: Interface,
        *,
        clip_sample: bool,
        timesteps: tuple[int, ...],
        ends_decoded: bool = False,
        decoder: DecoderInfo | None = None,
        host: Host,
        narrow: Graphs | None = None,
        threads: int = 1,
    ) -> None:
        self.graphs, self.narrow, self.interface = graphs, narrow, interface
        self.threads, self.host = threads, host
        self.timesteps, self.clip_sample = timesteps, clip_sample
        self.ends_decoded, self.decoder = ends_decoded, decoder
        self._pool: ThreadPoolExecutor | None = None

    def graph_for(self, plan: Plan, batch_size: int | None = None, *, decode: bool = True) -> SamplerGraph:
        """The graph that this plan runs on; batch_size None: a large one. One that ends decoded gives no latents."""
        saved = plan.weights.count(1.0) / len(plan.weights) / 2 if "cond" in self.graphs else 0.0
        few = self.host.small and batch_size is not None and batch_size < self.threads
        same = plan.solver != "dpmpp_2m" and plan.clip_sample == self.clip_sample
        fits = "sampler" in self.graphs and same and plan.timesteps == self.timesteps and plan.end == CLEAN
        fits = fits and (decode or not self.ends_decoded)
        if fits and saved < (self.host.cond_gain_few if few else self.host.cond_gain):
            return "sampler"
        return "step" if "step" in self.graphs and same else "guided"

    def __call__(
        self,
        noise: torch.Tensor,
        y: torch.Tensor,
        plan: Plan,
        *,
        on_step: Callable[[int], None] | None = None,
        decode: bool = True,
    ) -> torch.Tensor:
        decode = decode and self.decoder is not None
        graph = self.graph_for(plan, len(y), decode=decode)
        if self.narrow is None or (len(y) < self.threads and not self.host.small):
            return self._draw(graph, self.graphs, noise, y, plan, on_step, decode=decode)
        if self.threads == 1 or len(y) < self.threads:
            return self._draw(graph, self.narrow, noise, y, plan, on_step, decode=decode)
        if self._pool is None:
            # In a forked process torch makes its own pool anew at the next call; two threads at once break it.
            torch.set_num_threads(torch.get_num_threads())
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="sampler")
        parts = zip(noise.tensor_split(self.threads), y.tensor_split(self.threads), strict=True)
        # The first part tells of its steps; the others are at about the same one.
        jobs = [
            self._pool.submit(self._draw, graph, self.narrow, *part, plan, on_step if i == 0 else None, decode=decode)
            for i, part in enumerate(parts)
        ]
        return torch.cat([job.result() for job in jobs])

    def _draw(
        self,
        graph: SamplerGraph,
        graphs: Graphs,
        noise: torch.Tensor,
        y: torch.Tensor,
        plan: Plan,
        on_step: Callable[[int], None] | None,
        *,
        decode: bool,
    ) -> torch.Tensor:
        x = self._run(graph, graphs, noise, y, plan, on_step)
        if not decode or self.decoder is None or (graph == "sampler" and self.ends_decoded):
            return x
        return InParts(graphs["decoder"], at_once=self.decoder.at_once)(x)

    def _run(
        self,
        graph: SamplerGraph,
        graphs: Graphs,
        noise: torch.Tensor,
        y: torch.Tensor,
        plan: Plan,
        on_step: Callable[[int], None] | None,
    ) -> torch.Tensor:
        if graph == "sampler":
            if self.ends_decoded and self.decoder is not None and len(y) > self.decoder.at_once:
                parts = zip(noise.split(self.decoder.at_once), y.split(self.decoder.at_once), strict=True)
                told = [on_step, *[None] * len(y)]
                return torch.cat([self._run(graph, graphs, *part, plan, told[i]) for i, part in enumerate(parts)])
            images, doubtful = whole_sampler(graphs, self.interface, noise, y, plan, on_step=on_step)
            if doubtful:
                self._look_closer(images, graphs, noise, y, plan)
            return images
        if graph == "step":
            return step_by_step(graphs, self.interface, noise, y, plan, on_step=on_step)
        return SOLVERS[plan.solver](GraphDenoiser(graphs, self.interface), noise, y, plan, on_step=on_step)

    def _look_closer(
        self, images: torch.Tensor, graphs: Graphs, noise: torch.Tensor, y: torch.Tensor, plan: Plan
    ) -> None:
        """Find the step at which the sampler graph went wrong, by the same steps one by one."""
        self._run("step" if "step" in graphs else "guided", graphs, noise, y, plan, None)  # raises at that step
        if not images.isfinite().all():
            raise UserError(
                "the sampler graph gave NaN or Inf, and the same steps one by one do not: its runtime computes it "
                "wrongly, or it is damaged. Export it again, or take the sampler graph out of the target."
            )

    def close(self) -> None:
        """Release the threads and their sessions; the model closes the others."""
        if self._pool is not None:
            self._pool.shutdown()
        if self.narrow is not None:
            self.narrow.close()


@torch.no_grad()
def whole_sampler(
    graphs: Graphs,
    interface: Interface,
    noise: torch.Tensor,
    y: torch.Tensor,
    plan: Plan,
    *,
    on_step: Callable[[int], None] | None,
) -> tuple[torch.Tensor, bool]:
    """Samples by one call of the sampler graph, whose timesteps are the plan's, and whether they are doubtful.

    Doubtful is NaN or Inf; of bytes, which have neither, an image of one value.
    """
    interface.check_plan(plan)
    interface.check_start(noise, y, plan)
    w = torch.tensor(plan.weights, device=noise.device).expand(len(y), -1).contiguous()
    images = graphs["sampler"](noise, y, w)
    if on_step is not None:
        for i in range(len(plan.timesteps)):
            on_step(i)
    if images.dtype != torch.uint8:
        return images, not images.isfinite().all()
    values = images.flatten(1)
    return from_uint8(images), bool((values == values[:, :1]).all(1).any())


@torch.no_grad()
def step_by_step(
    graphs: Graphs,
    interface: Interface,
    noise: torch.Tensor,
    y: torch.Tensor,
    plan: Plan,
    *,
    on_step: Callable[[int], None] | None,
) -> torch.Tensor:
    """`ddim` with the step graph; steps without guidance by the cond graph, where there is one."""
    interface.check_plan(plan)
    interface.check_start(noise, y, plan)
    watch = Watch(plan)
    alpha_bar = interface.schedule.alphas_cumprod_from_clean.to(noise.device)
    x = plan.start(noise)
    for i, (t, t_prev, w) in enumerate(plan.steps()):
        now, previous = torch.full_like(y, t), torch.full_like(y, t_prev)
        if w == 1.0 and "cond" in graphs:
            output = graphs["cond"](x, now, y)
            watch.see(output)
            x = plan.move(x, output, t, t_prev, alpha_bar, prediction=interface.prediction)
        else:
            x = graphs["step"](x, now, previous, y, torch.full(y.shape, w, dtype=torch.float32, device=y.device))
            watch.see(x)
        x = plan.renoise(x, i, noise, alpha_bar)
        if on_step is not None:
            on_step(i)
    watch.end()
    return x


def open_graphs(
    folder: Path,
    artifact: Artifact,
    open_graph: Callable[[Graph], Session],
    *,
    title: str,
    sha256: str,
    device: str = "cpu",
    open_narrow: Callable[[Graph], Session] | None = None,
    threads: int | None = None,
) -> Model:
    """A Model of an artifact's folder whose files have been checked against their hashes.

    Args:
        title: the runtime as tables name it.
        sha256: the artifact's identity.
        open_narrow: a session on one thread, which `threads` threads may call at once, see `GraphSampler`. None: the
            sampler does not cut batches.
        threads: of the host that a batch may be cut over; None: all that this process may use.
    """
    entries: dict[str, Graph] = dict(artifact.graphs.items())
    graphs = Graphs(tuple(entries), lambda name: open_graph(entries[name]))
    narrow = None if open_narrow is None else Graphs(tuple(entries), lambda name: open_narrow(entries[name]))
    shape = interface(artifact, artifact.sampling)
    sampler = GraphSampler(
        graphs,
        shape,
        clip_sample=artifact.sampling.clip_sample,
        timesteps=artifact.sampler.timesteps if artifact.sampler is not None else (),
        ends_decoded=artifact.sampler is not None and artifact.sampler.decode,
        decoder=artifact.decoder,
        host=artifact.host,
        narrow=narrow,
        threads=host_threads(threads),
    )
    decoder = None
    if artifact.decoder is not None:
        decoder = InParts(lambda latents: graphs["decoder"](latents), at_once=artifact.decoder.at_once)
    graphs["guided"]  # a graph that does not open is refused now, not at the first prediction
    precision = artifact.precision
    return Model(
        label=f"student ({title}{'' if precision == 'fp32' else f', {precision}'})",
        runtime=artifact.backend,
        denoiser=GraphDenoiser(graphs, shape),
        parameters=artifact.parameters,
        file_bytes=sum((folder / name).stat().st_size for name in entries["guided"].loaded),
        sha256=sha256,
        classes=artifact.classes,
        device=device,
        precision=precision,
        sampler=sampler,
        decoder=decoder,
        sampling=sampling(artifact.sampling),
        resources=[sampler, graphs],
    )


def read(folder: Path, graph: Graph, how: Opening) -> checked.GraphBytes:
    """The bytes of what a session of this graph loads: those that the manifest's hashes vouch for.

    Raises:
        UserError: a file is missing or was changed, or the graph names a file that is not one of its own.
    """
    with telling_the_user():
        return checked.read_graph(folder, graph.file, graph.loaded, how.hashes)


def host_threads(asked: int | None) -> int:
    """Threads that a session may use: those that were asked for, or all that this process may run on."""
    return asked or len(os.sched_getaffinity(0))

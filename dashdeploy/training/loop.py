"""The training loop of teachers and students: AdamW, gradient clip, an average of the weights, exact resume."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dashdeploy import ranks, seeds
from dashdeploy.errors import Interrupted
from dashdeploy.recipe import schema
from dashdeploy.terminal import say, warn
from dashdeploy.training import ema
from dashdeploy.training.accelerator import tracking
from dashdeploy.training.batches import Batch, Source
from dashdeploy.training.progress import METRICS, Phase, Reporter, read_metrics
from dashdeploy.training.rate import learning_rate
from dashdeploy.training.state import State, not_finite
from dashdeploy.training.step import Loss, TrainStep
from dashdeploy.training.stopping import any_process, stop_signals

PROBED = 4
"""Images on which the finished network is tried."""


def train(
    module: TrainStep,
    source: Source,
    config: schema.Training,
    *,
    recipe: schema.Recipe,
    accelerator: Accelerator,
    folder: Path,
    key: str,
    title: str,
    phase: Phase | None = None,
) -> dict[str, Any]:
    """Train `module` for the steps of one phase; on return its denoiser holds the averaged weights.

    A checkpoint in `folder` with the same key is resumed, and the result is bit for bit that of a run that was never
    interrupted (same machine, same thread count).

    Args:
        config: the recipe's section for this training.
        folder: where checkpoint.pt and metrics.jsonl are kept.
        title: what the progress line says.
        phase: None: all of config.steps.

    Returns:
        the last line of metrics: see Reporter.write.

    Raises:
        UserError: a loss, gradient or weight that is not finite (the last good checkpoint stays), or a checkpoint with
            another key.
        Interrupted: SIGINT or SIGTERM, after saving.
    """
    phase = phase or Phase(0, config.steps)
    device, processes, parts = accelerator.device, accelerator.num_processes, config.gradient_accumulation
    module.to(device)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    rate = learning_rate(optimizer, config, steps=phase.last - phase.first)
    average = ema.average(module.denoiser.unet, config.ema_decay)
    average.to(device)
    model, optimizer = accelerator.prepare(module, optimizer)
    state = State(module, optimizer, average, accelerator.scaler)
    start = state.resume(folder, key=key, device=device, first=phase.first)
    if start > phase.first:
        state.require_finite(step=start, folder=folder)
    share = config.batch_size // parts // processes
    with (
        tracking(accelerator, recipe, start=start),
        Reporter(folder, title, config, phase=phase, start=start, accelerator=accelerator) as report,
        stop_signals() as stop,
    ):
        say_weight_by_decile(module)
        for step in range(start, phase.last):
            for group in optimizer.param_groups:
                group["lr"] = rate(step - phase.first)
            whole = source.draw(step)
            t_whole = whole.t.to(device)
            losses: list[Loss] = []
            for part in range(parts):
                first = (part * processes + accelerator.process_index) * share
                batch = source.complete(whole.take(slice(first, first + share)).to(device))
                # Dropout's generator, too, is a function of (seed, step).
                torch.manual_seed(seeds.derive(recipe.seed, "dropout", step, part, accelerator.process_index))
                with nullcontext() if part == parts - 1 else accelerator.no_sync(model):
                    with accelerator.autocast():
                        losses.append(model(batch, t_whole))
                    accelerator.backward(losses[-1].total / parts)
            figures = means(losses, accelerator)
            norm = clip(module, accelerator, config.gradient_clip)
            bad = [name for name, value in figures.items() if not math.isfinite(value)]
            if bad or not (math.isfinite(norm) or skips(accelerator)):
                raise not_finite(step + 1, "the loss" if bad else "the gradient", folder, parts=bad)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.step(module.denoiser.unet.parameters())
            if module.weights.observes:
                # gather() stacks the processes' shares in rank order, which is the order that they were cut in.
                module.weights.observe(t_whole, torch.cat([accelerator.gather(loss.per_sample) for loss in losses]))
            state.window.add({**figures, "grad_norm": norm})

            done = step + 1
            report.advance(done)
            if done % config.log_every == 0 or done == phase.last:
                record = report.write(done, state.window.mean(), learning_rate=rate(step - phase.first))
            stopping = any_process(accelerator, stop)
            if stopping or done % config.checkpoint_every == 0 or done == phase.last:
                state.require_finite(step=done, folder=folder)
                ranks.in_main(partial(state.save, folder, step=done, key=key))
            if stopping and done < config.steps:
                raise Interrupted(f"step {done} of {config.steps} is saved. Run the same command to resume.")
        if module.weights.learns:
            say_weight_by_decile(module)
    average.copy_to(module.denoiser.unet.parameters())
    require_finite_prediction(module, source.draw(phase.last - 1).take(slice(PROBED)).to(device), phase, folder)
    return record if start < phase.last else read_metrics(folder / METRICS)[-1]


def clip(module: TrainStep, accelerator: Accelerator, largest: float) -> float:
    """Clip the norm of each of the module's sets of gradients; the norm over all of them, before it was clipped."""
    accelerator.unscale_gradients()
    norms = [torch.nn.utils.clip_grad_norm_(some, largest) for some in module.clipped()]
    return math.hypot(*map(float, norms))


def means(losses: list[Loss], accelerator: Accelerator) -> dict[str, float]:
    """The loss and each of its terms, over all parts of a step and all processes."""
    names = ["loss", *losses[0].terms]
    rows = [torch.stack([loss.total.detach(), *loss.terms.values()]) for loss in losses]
    mean = accelerator.reduce(torch.stack(rows).mean(0), reduction="mean")
    return dict(zip(names, mean.tolist(), strict=True))


@torch.no_grad()
def require_finite_prediction(module: TrainStep, batch: Batch, phase: Phase, folder: Path) -> None:
    """Refuse a network whose last step diverged: its weights may be finite, and what it predicts is not.

    Raises:
        UserError: see `not_finite`.
    """
    module.eval()
    x, t, y = batch.x_t, batch.t, batch.y
    one = module.denoiser.interface.branches == 1
    outputs = (module.denoiser.guided(x, t, y, batch.scales()),) if one else module.denoiser.branches(x, t, y)
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise not_finite(phase.last, "what the averaged network predicts", folder)


def skips(accelerator: Accelerator) -> bool:
    """Whether a step whose gradient is not finite is left out and the loss scaled down, as fp16 has it.

    Once the scale is below 1 the loss itself is what does not fit.
    """
    scaler = accelerator.scaler
    return scaler is not None and scaler.get_scale() >= 1


def say_weight_by_decile(module: TrainStep) -> None:
    """A line that says how the timestep weights spread over t, and a warning where some timesteps hardly train."""
    shares = module.weights.mass_by_decile()
    say("timestep weight by decile of t (clean → noise): " + " ".join(f"{share:.1%}" for share in shares))
    if starved := module.weights.starved():
        warn(f"deciles {starved} hold less than 1 % of the timestep weight each: those timesteps hardly train")

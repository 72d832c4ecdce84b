"""The training loop: accelerate, AdamW, warm-up + cosine rate, gradient clip, EMA, exact resume."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from dashdeploy import seeds
from dashdeploy.errors import Interrupted, UserError
from dashdeploy.recipe import schema
from dashdeploy.training import checkpoint, ema
from dashdeploy.training.batches import Batch, Source
from dashdeploy.training.progress import Reporter
from dashdeploy.training.step import Loss, TrainStep


@dataclass
class Window:
    """Sums of what is logged, since the last line of metrics; part of the checkpoint."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def mean(self) -> dict[str, float]:
        return {name: value / self.steps for name, value in self.sums.items()}


def make_accelerator(config: schema.Training) -> Accelerator:
    """The device, precision, accumulation and processes of this run, from the recipe and the launcher's environment."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[config.precision]
    # accelerate keeps the first precision for the whole process, and the stages of one run may differ in theirs.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=mixed)
    if config.batch_size % (accelerator.num_processes * config.gradient_accumulation):
        raise UserError(
            f"batch_size {config.batch_size} does not divide among {accelerator.num_processes} processes × "
            f"{config.gradient_accumulation} accumulation steps; choose a multiple of "
            f"{accelerator.num_processes * config.gradient_accumulation}"
        )
    return accelerator


def learning_rate(step: int, config: schema.Training) -> float:
    """Rate of step `step` (from 0): linear warm-up, then half a cosine to zero, or constant."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.lr_schedule == "constant":
        return config.learning_rate * warm
    span = max(1, config.steps - config.warmup_steps)
    done = min(1.0, max(0, step - config.warmup_steps) / span)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))


def train(
    module: TrainStep,
    source: Source,
    config: schema.Training,
    *,
    accelerator: Accelerator,
    folder: Path,
    key: str,
    seed: int,
    title: str,
) -> dict[str, float]:
    """Train `module` for config.steps steps; on return its denoiser holds the EMA weights.

    A checkpoint in `folder` with the same key is resumed, and the result is bit for bit that of a run
    that was never interrupted (same machine, same thread count).

    Returns:
        the last line's figures: loss, each term, images_per_s.

    Raises:
        UserError: a loss that is not finite (the last good checkpoint stays), or a checkpoint that is not of this run.
        Interrupted: SIGINT or SIGTERM, after saving.
    """
    run = TrainingRun(module, source, config, accelerator, folder, key, seed)
    start = run.resume()
    with (
        Reporter(
            folder,
            title,
            steps=config.steps,
            start=start,
            main=accelerator.is_main_process,
            tensorboard=config.tensorboard,
        ) as report,
        _stop_signals() as stop,
    ):
        if start:
            report.say(f"{title}: resuming at step {start} of {config.steps}")
        report.say(_mass_line(module))
        clock, last = time.perf_counter(), start
        for step in range(start, config.steps):
            values = run.step(step)
            done = step + 1
            report.advance(done)
            run.window.add(values)
            if done % config.log_every == 0 or done == config.steps:
                now = time.perf_counter()
                speed = config.batch_size * (done - last) / (now - clock)
                clock, last = now, done
                means = run.window.mean()
                record = {"step": done, **means, "learning_rate": learning_rate(step, config), "images_per_s": speed}
                report.write({**record, "terms": [k for k in means if k not in ("loss", "grad_norm")]})
                run.window = Window()
            if accelerator.num_processes > 1:
                if stop:
                    accelerator.set_trigger()
                stopping = accelerator.check_trigger()
            else:
                stopping = bool(stop)
            if stopping or done % config.checkpoint_every == 0 or done == config.steps:
                run.save(done)
            if stopping and done < config.steps:
                raise Interrupted(f"step {done} of {config.steps} is saved. Run the same command to resume.")
        if module.weights.learns:
            report.say(_mass_line(module))
    run.ema.copy_to(module.denoiser.unet.parameters())
    return record if start < config.steps else run.last_record()


def _mass_line(module: TrainStep) -> str:
    masses = module.weights.mass_by_decile()
    line = "timestep weight by decile of t (clean → noise): " + " ".join(f"{m:.1%}" for m in masses)
    starved = module.weights.starved()
    if starved:
        line += f"\nwarning: deciles {starved} hold less than 1 % of the weight each: those timesteps hardly train"
    return line


class TrainingRun:
    """The state of a run between steps: all of it is in a checkpoint."""

    def __init__(
        self,
        module: TrainStep,
        source: Source,
        config: schema.Training,
        accelerator: Accelerator,
        folder: Path,
        key: str,
        seed: int,
    ) -> None:
        self.module, self.source, self.config = module, source, config
        self.accelerator, self.folder, self.key, self.seed = accelerator, folder, key, seed
        module.to(accelerator.device)
        optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.ema = ema.average(module.denoiser.unet, config.ema_decay)
        self.ema.to(accelerator.device)
        self.wrapped, self.optimizer = accelerator.prepare(module, optimizer)
        self.window = Window()

    def resume(self) -> int:
        """Load the checkpoint if there is one; the number of steps done."""
        state = checkpoint.load(self.folder, key=self.key)
        if state is None:
            return 0
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.accelerator.device)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.window = Window(state["window"]["steps"], dict(state["window"]["sums"]))
        return int(state["step"])

    def save(self, done: int) -> None:
        """Write the checkpoint of `done` steps; (seed, step) stand for every generator."""
        if self.accelerator.is_main_process:
            state: dict[str, Any] = {
                "step": done,
                "seed": self.seed,
                "data_position": done * self.config.batch_size,
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
                "window": {"steps": self.window.steps, "sums": self.window.sums},
            }
            checkpoint.save(self.folder, state, key=self.key)
        self.accelerator.wait_for_everyone()

    def last_record(self) -> dict[str, float]:
        """The figures of a run that had already ended when it was resumed."""
        from dashdeploy.training.progress import METRICS, read_metrics

        return read_metrics(self.folder / METRICS)[-1]

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step over the whole batch; the mean loss and terms over all processes."""
        config, accelerator = self.config, self.accelerator
        rate = learning_rate(step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        whole = self.source.draw(step)
        t_batch = whole.t.to(accelerator.device)
        parts = config.gradient_accumulation
        share = config.batch_size // parts // accelerator.num_processes
        losses: list[Loss] = []
        for part in range(parts):
            first = (part * accelerator.num_processes + accelerator.process_index) * share
            batch = whole.take(slice(first, first + share)).to(accelerator.device)
            batch = self.source.complete(batch)
            # Dropout's generator, too, is a function of (seed, step).
            torch.manual_seed(seeds.derive(self.seed, "dropout", step, part, accelerator.process_index))
            losses.append(self._backward(batch, t_batch, last=part == parts - 1, parts=parts))
        figures = self._figures(losses)
        if not math.isfinite(figures["loss"]):
            raise UserError(_not_finite(step + 1, figures, self.folder))
        norm = accelerator.clip_grad_norm_(self.module.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.module.denoiser.unet.parameters())
        if self.module.weights.observes:
            self._observe(whole, losses, share)
        return {**figures, "grad_norm": float(norm) if norm is not None else math.nan}

    def _backward(self, batch: Batch, t_batch: torch.Tensor, *, last: bool, parts: int) -> Loss:
        accelerator = self.accelerator
        sync = torch.enable_grad() if last or accelerator.num_processes == 1 else accelerator.no_sync(self.wrapped)
        with sync:
            with accelerator.autocast():
                loss: Loss = self.wrapped(batch, t_batch)
            accelerator.backward(loss.total / parts)
        return loss

    def _figures(self, losses: list[Loss]) -> dict[str, float]:
        names = ["loss", *losses[0].terms]
        rows = [torch.stack([loss.total.detach(), *loss.terms.values()]) for loss in losses]
        mean = self.accelerator.reduce(torch.stack(rows).mean(0), reduction="mean")
        return dict(zip(names, mean.tolist(), strict=True))

    def _observe(self, whole: Batch, losses: list[Loss], share: int) -> None:
        # gather() stacks the processes' shares in rank order, which is the order that they were cut in.
        gathered = [self.accelerator.gather(loss.per_sample).cpu() for loss in losses]
        self.module.weights.observe(
            whole.t.to(self.accelerator.device), torch.cat(gathered).to(self.accelerator.device)
        )


def _not_finite(step: int, figures: dict[str, float], folder: Path) -> str:
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    kept = folder / checkpoint.FILE
    where = f"The last good checkpoint is kept: {kept}." if kept.is_file() else "No checkpoint had been written yet."
    return (
        f"step {step}: the loss is not finite ({', '.join(bad)}). {where} "
        "Lower the learning rate, raise warmup_steps, or use precision: fp32."
    )


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals received so far; the first SIGINT or SIGTERM only asks, the second ends at once."""
    received: list[int] = []
    old: dict[int, Any] = {}

    def on_signal(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            old[number] = signal.signal(number, on_signal)
    except ValueError:
        # Not the main thread: signals stay with whoever runs us.
        old = {}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())

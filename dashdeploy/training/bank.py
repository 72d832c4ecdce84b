"""The teacher bank: draws with the teacher's outputs for them, computed once and reused in shuffled order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dashdeploy import ranks, seeds, stages
from dashdeploy.data.images import ShuffledRows
from dashdeploy.errors import UserError
from dashdeploy.peak_memory import machine_bytes
from dashdeploy.progress import progress
from dashdeploy.recipe import schema
from dashdeploy.terminal import warn
from dashdeploy.training.batches import Batch, FreshDraws

BANK_SHARE = 0.25
"""A bank may take this share of the machine's memory."""
MADE_AT_ONCE = 256
"""Draws that one forward of the teacher takes."""


class TeacherBank:
    """A source of batches: rows of a bank, each used once a pass, in another order every pass."""

    def __init__(self, bank: Batch, *, batch_size: int, seed: int) -> None:
        self.bank = bank
        self._order = ShuffledRows(len(bank.t), batch_size=batch_size, seed=seed)

    def draw(self, step: int) -> Batch:
        """The whole batch of `step`, on the CPU."""
        return self.bank.take(torch.from_numpy(self._order.rows(step)))

    def complete(self, batch: Batch) -> Batch:
        """Nothing to add."""
        return batch


def banked(
    recipe: schema.Recipe, source: FreshDraws, inputs: dict[str, Any], *, folder: Path, accelerator: Accelerator
) -> TeacherBank:
    """A bank of the source's draws: made by the main process unless `folder` holds it already, and read by all.

    Its draws are those of no training step.

    Args:
        inputs: the hashes of the data and the teacher, as in the student's key.
        folder: the bank is named by its key there, so that several students can share the folder.

    Raises:
        UserError: it would take more than BANK_SHARE of the machine's memory.
    """
    num_draws, batch_size = recipe.distill.teacher_bank, recipe.distill.batch_size
    objective = recipe.distill.objective
    targets = objective.model_dump(mode="json") if objective.branches == 1 else None
    asked = {"features": source.features is not None, "prediction": source.prediction, "targets": targets}
    key = stages.stage_key("bank", recipe, {**inputs, **asked})
    path = folder / f"teacher-bank-{key[:16]}.safetensors"
    refuse_large(num_draws, bank_bytes(num_draws, source, accelerator.device))

    def make() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Another shard of a comparison may be making the same bank.
        with stages.in_turn(path.with_suffix(".lock"), what="the teacher bank"):
            if load_bank(path, key=key) is None:
                seed = seeds.derive(recipe.seed, "bank")
                draws = source.others(batch_size=min(num_draws, MADE_AT_ONCE), seed=seed)
                with progress("teacher bank", total=num_draws) as advance:
                    made = build_bank(draws, num_draws=num_draws, device=accelerator.device, on_draws=advance)
                save_bank(made, path, key=key)

    ranks.in_main(make)
    bank = load_bank(path, key=key)
    assert bank is not None
    return TeacherBank(bank, batch_size=batch_size, seed=recipe.seed)


def refuse_large(num_draws: int, size: int) -> None:
    """Refuse a bank of `size` bytes that is too large for this machine.

    Raises:
        UserError: it would take more than BANK_SHARE of the memory.
    """
    if size > BANK_SHARE * machine_bytes():
        raise UserError(
            f"distill.teacher_bank {num_draws}: it would take {size / 2**30:.1f} GiB, more than "
            f"{BANK_SHARE:.0%} of this machine's memory. Lower it, or set 0 to run the teacher at every step."
        )


def build_bank(
    source: FreshDraws, *, num_draws: int, device: torch.device, on_draws: Callable[[int], None] | None = None
) -> Batch:
    """Make `num_draws` draws and run the teacher once on each; the bank is on the CPU.

    The bank is allocated whole and filled: to keep each batch's tensors until the end would pin many times their size
    in the allocator.

    Args:
        on_draws: called with the number of draws that were added.
    """
    bank: Batch | None = None
    done, step = 0, 0
    while done < num_draws:
        batch = _kept(source.complete(source.draw(step).to(device)))
        if bank is None:
            bank = batch.empty(num_draws)
        count = min(len(batch.t), num_draws - done)
        for name, values in tensors(batch).items():
            getattr(bank, name)[done : done + count] = values[:count]
        done, step = done + count, step + 1
        if on_draws is not None:
            on_draws(count)
    assert bank is not None
    return bank


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """The tensors that a batch has, by name."""
    return {f.name: value for f in fields(Batch) if (value := getattr(batch, f.name)) is not None}


def bank_bytes(num_draws: int, source: FreshDraws, device: torch.device) -> int:
    """Memory in bytes that a bank of this source's draws takes; runs the teacher on one of them."""
    one = _kept(source.complete(source.draw(0).take(slice(0, 1)).to(device)))
    return num_draws * sum(values.numel() * values.element_size() for values in tensors(one).values())


def _kept(batch: Batch) -> Batch:
    """A batch as a bank holds it: on the CPU, the teacher's features in float16, because they are most of it."""
    features = None if batch.teacher_features is None else batch.teacher_features.half()
    if features is not None and not torch.isfinite(features).all():
        raise UserError(
            "the teacher's middle features exceed what float16 holds (65504), and a bank keeps them so: set "
            "distill.teacher_bank to 0"
        )
    return replace(batch, teacher_features=features).to(torch.device("cpu"))


def save_bank(bank: Batch, path: Path, *, key: str) -> None:
    """Write a bank; a kill leaves the old one or the new one."""
    with stages.replacing(path) as part:
        save_file({name: values.contiguous() for name, values in tensors(bank).items()}, part, {"key": key})


def load_bank(path: Path, *, key: str) -> Batch | None:
    """The bank at `path` if there is one with this key, else None. A damaged one is none, and a line says so."""
    if not path.is_file():
        return None
    try:
        if stages.undamaged(path):
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("key") != key:
                    return None
                return Batch(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, TypeError):
        pass  # not a bank
    warn(f"{path}: damaged (see {path.name}.sha256); the bank is made again")
    return None

"""The teacher bank: draws with the teacher's two outputs, computed once and reused in shuffled order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dashdeploy.data.images import ShuffledRows
from dashdeploy.errors import UserError
from dashdeploy.training.batches import Batch, FreshDraws


class TeacherBank:
    """N draws with the teacher's outputs, computed once and then reused in shuffled order."""

    def __init__(self, bank: Batch, *, batch_size: int, seed: int) -> None:
        self.bank = bank
        self._order = ShuffledRows(len(bank.t), batch_size=batch_size, seed=seed)

    def draw(self, step: int) -> Batch:
        """Rows of the bank, in a fresh order every pass."""
        return self.bank.take(torch.from_numpy(self._order.rows(step)))

    def complete(self, batch: Batch) -> Batch:
        """Nothing to add."""
        return batch


def build_bank(
    source: FreshDraws, *, num_draws: int, device: torch.device, on_draws: Callable[[int], None] | None = None
) -> Batch:
    """Draw `num_draws` samples and run the teacher on each once; everything ends on the CPU.

    The bank is allocated whole and filled: keeping each batch's tensors until the end pins many times their
    size in the allocator.
    """
    bank: Batch | None = None
    done, step = 0, 0
    while done < num_draws:
        batch = source.complete(source.draw(step).to(device)).to(torch.device("cpu"))
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


@contextmanager
def bank_progress(num_draws: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr while a bank is computed."""
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("teacher bank", total=num_draws)
        yield lambda count: progress.advance(task, count)


def bank_bytes(num_draws: int, image_shape: tuple[int, int, int]) -> int:
    """Memory that a bank takes: four float32 images a draw, and three numbers."""
    c, h, w = image_shape
    return num_draws * (4 * c * h * w * 4 + 20)


def save_bank(bank: Batch, path: Path, *, key: str) -> None:
    """Write a bank so that a resumed run need not compute it again; atomic."""
    part = path.with_suffix(".part")
    save_file({name: values.contiguous() for name, values in tensors(bank).items()}, part, {"key": key})
    part.replace(path)


def load_bank(path: Path, *, key: str) -> Batch | None:
    """The bank at `path` if it is whole and was made for this run, else None."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return Batch(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}). Remove it; it will be computed again.") from error

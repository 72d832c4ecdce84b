"""`dashdeploy sample`: a PNG grid from any artifact, student or teacher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.options import LARGEST_SEED, MOST_STEPS, MOST_THREADS
from dashdeploy.cli.output import Result, lines

MOST_COLUMNS = 1000
MOST_IMAGES = 20_000
"""Of one picture."""
LARGEST_CLASS = 1 << 24  # of an artifact's manifest


def sample(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, artifact, model folder, or .onnx file.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="PNG file to write.")] = Path("samples.png"),
    labels: Annotated[
        str | None, typer.Option(help="Class indices, as in 0,3,7 or 0-9; a row each. Default: the first ten classes.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=MOST_COLUMNS, help="Images of each class.")] = 8,
    guidance: Annotated[
        str | None,
        typer.Option(
            "--guidance",
            "-w",
            help="Guidance scale (1 = off), tag, or an interval as in 3@0.2-0.8. Default: the model's recipe's.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_STEPS, help="Steps of the sampler. Default: the model's recipe's."),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="ddim, or dpmpp_2m: second order (DPM-Solver++ 2M), for few steps. Default: the model's recipe's."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the noise.")] = 0,
    scale: Annotated[int, typer.Option(min=1, max=64, help="Enlarge each pixel this many times.")] = 4,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads; default: the runtime's choice.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="ONNX Runtime provider in place of the artifact's, as in CUDAExecutionProvider.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: the artifact's own.")] = None,
) -> Result:
    """Draw images of each class and write them as one PNG grid."""
    import torch

    from dashdeploy.diffusion.sampling import SOLVERS, generate, plan
    from dashdeploy.errors import UserError, shown, unknown
    from dashdeploy.files import refuse_unwritable, write_whole
    from dashdeploy.report.grid import grid_png, grid_shape
    from dashdeploy.runtime.opened import BATCH_SIZE, chosen
    from dashdeploy.runtime.opening import open_path

    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a file name that ends in .png")
    if not os.path.isdir(out.parent):
        raise UserError(f"--out {shown(out)}: the folder {shown(out.parent)} does not exist. Make it, or give another.")
    refuse_unwritable(out)
    if solver is not None and solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    with open_path(model, threads=threads, provider=provider, device=device) as opened:
        interface = opened.denoiser.interface
        sampling = chosen(opened.sampling, guidance=guidance, steps=steps, solver=solver)
        classes = parse_labels(labels) if labels is not None else list(range(min(10, interface.num_classes)))
        if (count := len(classes) * columns) > MOST_IMAGES:
            raise UserError(
                f"--labels, --columns: {count:,} images in one picture; at most {MOST_IMAGES:,}. Take fewer."
            )
        grid_shape(count, interface.image_shape, columns, scale=scale)  # too large a one is told before it is drawn
        images = generate(
            opened.sample,
            interface,
            plan(sampling, interface.schedule.num_train_timesteps),
            labels=torch.tensor(classes).repeat_interleave(columns),
            seed=seed,
            batch_size=BATCH_SIZE,
            device=opened.device,
        )
    write_whole(out, grid_png(images.numpy(), columns=columns, scale=scale))
    made = {"file": out, "labels": classes, "columns": columns, "seed": seed}
    return lines({**made, "sampling": sampling.model_dump(mode="json")}, out)


def parse_labels(text: str) -> list[int]:
    """``"0,3,7-9"`` -> [0, 3, 7, 8, 9]."""
    from dashdeploy.errors import UserError

    classes: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise UserError(f"--labels {text[:60]!r}: expected class indices, as in 0,3,7 or 0-9")
        span = range(_index(low), _index(high or low) + 1)
        if span.stop > LARGEST_CLASS or len(classes) + len(span) > MOST_IMAGES:
            most = f"at most {MOST_IMAGES:,} classes, and no index from {LARGEST_CLASS:,}"
            raise UserError(f"--labels {text[:60]!r}: {most}")
        classes += span
    if not classes:
        raise UserError(f"--labels {text!r}: no class index")
    return classes


def _index(digits: str) -> int:
    """A class index; of one with more digits than any has, the first that is too large."""
    digits = digits.lstrip("0")
    return LARGEST_CLASS if len(digits) > len(str(LARGEST_CLASS)) else int(digits or 0)

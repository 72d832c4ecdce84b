"""`dashdeploy sample`: a PNG grid from any artifact, student or teacher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dashdeploy.cli.options import LARGEST_SEED, MOST_STEPS, MOST_THREADS
from dashdeploy.cli.output import Result, lines

MOST_COLUMNS = 1000
MOST_IMAGES = 20_000
"""Of one picture."""
MOST_IN_SET = 10_000_000
SET_BATCH = 256
LARGEST_CLASS = 1 << 24  # of an artifact's manifest


def sample(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, artifact, model folder, or .onnx file.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="PNG file to write. Default: samples.png.")
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a set of images for FID in place of a picture: arr_0 (N, H, W, C) uint8 and arr_1 (N,) labels, "
            "as in ADM's evaluation suite. Processes of `accelerate launch` share the work.",
        ),
    ] = None,
    # Not --num: launchers of several processes take it for the beginning of an option of theirs.
    num_images: Annotated[
        int | None, typer.Option(min=1, max=MOST_IN_SET, help="Images of the set, of the classes in turn.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Class indices, as in 0,3,7 or 0-9; a row each. Default: the first ten classes; of a set, all."
        ),
    ] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, max=MOST_COLUMNS, help="Images of each class. Default: 8.")
    ] = None,
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
            help="ddim, or dpmpp_2m: second order (DPM-Solver++ 2M), for few steps; of consistency students "
            "consistency. Default: the model's recipe's."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the noise.")] = 0,
    scale: Annotated[
        int | None, typer.Option(min=1, max=64, help="Enlarge each pixel this many times. Default: 4.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads; default: the runtime's choice.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="ONNX Runtime provider in place of the artifact's, as in CUDAExecutionProvider.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: the artifact's own.")] = None,
) -> Result | None:
    """Draw images of each class and write them as one PNG grid, or as a set in one .npz file."""
    import torch

    from dashdeploy.diffusion.sampling import SOLVERS, generate, plan
    from dashdeploy.errors import UserError, unknown
    from dashdeploy.files import write_whole
    from dashdeploy.report.grid import grid_png, grid_shape
    from dashdeploy.runtime.opened import BATCH_SIZE, chosen
    from dashdeploy.runtime.opening import open_path

    if solver is not None and solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if npz is not None or num_images is not None:
        if npz is None or num_images is None:
            raise UserError("--npz FILE and --num-images N belong together: a file, and how many images it will hold")
        if given := [n for n, v in (("--out", out), ("--columns", columns), ("--scale", scale)) if v is not None]:
            raise UserError(f"{', '.join(given)}: of a picture, and --npz makes a set of images: leave one of them out")
        return _set(
            *(model, npz, num_images),
            labels=labels,
            chosen_by={"guidance": guidance, "steps": steps, "solver": solver},
            seed=seed,
            opened_by={"threads": threads, "provider": provider, "device": device},
        )
    out, columns, scale = out or Path("samples.png"), columns or 8, scale or 4
    _refuse_path(out, option="--out", suffix=".png")
    with open_path(model, threads=threads, provider=provider, device=device) as opened:
        interface = opened.denoiser.interface
        sampling = chosen(opened.sampling, guidance=guidance, steps=steps, solver=solver)
        classes = parse_labels(labels) if labels is not None else list(range(min(10, interface.num_classes)))
        if (count := len(classes) * columns) > MOST_IMAGES:
            raise UserError(
                f"--labels, --columns: {count:,} images in one picture; at most {MOST_IMAGES:,}. Take fewer."
            )
        grid_shape(count, interface.drawn_shape, columns, scale=scale)  # too large a one is told before it is drawn
        images = generate(
            opened.sample,
            interface,
            plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids),
            labels=torch.tensor(classes).repeat_interleave(columns),
            seed=seed,
            batch_size=BATCH_SIZE,
            device=opened.device,
        )
    write_whole(out, grid_png(images.numpy(), columns=columns, scale=scale))
    made = {"file": out, "labels": classes, "columns": columns, "seed": seed}
    return lines({**made, "sampling": sampling.model_dump(mode="json")}, out)


def _refuse_path(path: Path, *, option: str, suffix: str) -> None:
    from dashdeploy.errors import UserError, shown
    from dashdeploy.files import refuse_unwritable

    if path.suffix.lower() != suffix:
        raise UserError(f"{option} {path}: expected a file name that ends in {suffix}")
    if not os.path.isdir(path.parent):
        raise UserError(
            f"{option} {shown(path)}: the folder {shown(path.parent)} does not exist. Make it, or give another."
        )
    refuse_unwritable(path)


def _set(
    model: Path,
    path: Path,
    num_images: int,
    *,
    labels: str | None,
    chosen_by: dict[str, Any],
    seed: int,
    opened_by: dict[str, Any],
) -> Result | None:
    """The set of `--npz`; the result in the main process only."""
    from dashdeploy import ranks
    from dashdeploy.diffusion.sampling import plan
    from dashdeploy.progress import progress
    from dashdeploy.runtime import image_set
    from dashdeploy.runtime.opened import chosen
    from dashdeploy.runtime.opening import open_path

    _refuse_path(path, option="--npz", suffix=".npz")
    here = ranks.state()  # gives each process of a launch a GPU of its own, which models on a GPU then take
    with open_path(model, **opened_by) as opened:
        interface = opened.denoiser.interface
        sampling = chosen(opened.sampling, **chosen_by)
        classes = parse_labels(labels) if labels is not None else list(range(interface.num_classes))
        mine = image_set.share(num_images)
        with progress("images", total=len(mine)) as advance:
            image_set.write(
                opened,
                plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids),
                image_set.in_turn(classes, num_images),
                path,
                seed=seed,
                batch_size=SET_BATCH,
                on_images=advance,
            )
    if not here.is_main_process:
        return None
    made = {"file": path, "num_images": num_images, "labels": classes, "seed": seed}
    return lines({**made, "sampling": sampling.model_dump(mode="json")}, path)


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

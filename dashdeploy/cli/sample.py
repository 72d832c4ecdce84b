"""`dashdeploy sample`: a PNG grid from any artifact, student or teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sample(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, artifact, model folder, or .onnx file.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="PNG file to write.")] = Path("samples.png"),
    labels: Annotated[
        str | None, typer.Option(help="Class indices, as in 0,3,7 or 0-9; a row each. Default: the first ten classes.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 8,
    guidance: Annotated[
        str | None,
        typer.Option(
            "--guidance",
            "-w",
            help="Guidance scale (1 = off), tag, or an interval as in 3@0.2-0.8. Default: the model's recipe's.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the sampler. Default: the model's recipe's.")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="ddim, or dpmpp_2m: second order (DPM-Solver++ 2M), for few steps. Default: the model's recipe's."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    scale: Annotated[int, typer.Option(min=1, help="Enlarge each pixel this many times.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: the runtime's choice.")] = None,
    provider: Annotated[
        str | None, typer.Option(help="ONNX Runtime provider in place of the artifact's, as in CUDAExecutionProvider.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: the artifact's own.")] = None,
) -> None:
    """Draw images of each class and write them as one PNG grid."""
    import torch

    from dashdeploy.diffusion.sampling import SOLVERS, generate, plan
    from dashdeploy.errors import UserError, unknown
    from dashdeploy.files import write_whole
    from dashdeploy.report.grid import grid_png
    from dashdeploy.runtime.opened import BATCH_SIZE, chosen
    from dashdeploy.runtime.opening import open_path

    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a file name that ends in .png")
    if solver is not None and solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    with open_path(model, threads=threads, provider=provider, device=device) as opened:
        interface = opened.denoiser.interface
        sampling = chosen(opened.sampling, guidance=guidance, steps=steps, solver=solver)
        classes = parse_labels(labels) if labels is not None else list(range(min(10, interface.num_classes)))
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
    print(out)


def parse_labels(text: str) -> list[int]:
    """``"0,3,7-9"`` -> [0, 3, 7, 8, 9]."""
    from dashdeploy.errors import UserError

    classes: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise UserError(f"--labels {text!r}: expected class indices, as in 0,3,7 or 0-9")
        classes += range(int(low), int(high or low) + 1)
    if not classes:
        raise UserError(f"--labels {text!r}: no class index")
    return classes

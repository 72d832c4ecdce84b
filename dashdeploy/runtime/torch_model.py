"""Teachers and students in diffusers format as Models, through eager torch."""

from __future__ import annotations

from pathlib import Path

import torch

from dashdeploy import autoencoder
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import section_in
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime import decoding
from dashdeploy.runtime.model import Model, Opening
from dashdeploy.stages import MANIFEST, Stage
from dashdeploy.teachers import choose, formats, networks
from dashdeploy.teachers.names import class_names


def open_model(folder: Path, stage: Stage | None, how: Opening) -> Model:
    """Open a diffusers folder; `stage` is None where a teacher was not made here.

    Raises:
        UserError: the device that was asked for is not here, the folder is damaged, or its id2label names other labels.
    """
    if how.device is not None and how.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"{folder}: {how.device} was asked for, and torch sees no CUDA device. See `dashdeploy doctor`."
        )
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    role = "student" if stage is not None and stage.manifest["stage"] == "student" else "teacher"
    denoiser = formats.load(folder, role=role)
    device = how.device or ("cuda" if torch.cuda.is_available() else "cpu")
    decoder = None
    if autoencoder.is_there(folder):
        found = autoencoder.open_autoencoder(
            folder / autoencoder.FOLDER, source=f"{role} {folder / autoencoder.FOLDER}"
        )
        decoder = decoding.attach(denoiser, found.to(device))
    weights = networks.weights_files(folder)
    names = class_names(folder, None if stage is None else stage.manifest, denoiser.interface.num_classes)
    sampling = Sampling(clip_sample=not denoiser.interface.latents and denoiser.interface.makes_images)
    if stage is not None:
        sampling = section_in(stage.manifest, Sampling, "sampling", source=folder / MANIFEST)
    return Model(
        label=f"{role} (torch)",
        runtime="torch",
        denoiser=denoiser.to(device),
        parameters=sum(p.numel() for p in denoiser.parameters()),
        file_bytes=sum(path.stat().st_size for path in weights),
        sha256=choose.sha256(folder),
        classes=tuple(names or map(str, range(denoiser.interface.num_classes))),
        device=device,
        decoder=decoder,
        sampling=sampling,
    )

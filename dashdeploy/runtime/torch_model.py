"""Teachers and students in diffusers format as Models, through eager torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dashdeploy.runtime.model import Model
from dashdeploy.teachers import choose, formats, unet2d


def open_model(folder: Path, manifest: dict[str, Any], *, threads: int | None) -> Model:
    """Open a diffusers folder; `manifest` is {} where a teacher was not made here."""
    if threads is not None:
        torch.set_num_threads(threads)
    role = "student" if manifest.get("stage") == "student" else "teacher"
    denoiser = formats.load(folder, role=role)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = next(folder.rglob(unet2d.WEIGHTS))
    names = manifest.get("figures", {}).get("classes") or [str(i) for i in range(denoiser.interface.num_classes)]
    return Model(
        label=f"{role} (torch)",
        runtime="torch",
        denoiser=denoiser.to(device),
        parameters=sum(p.numel() for p in denoiser.parameters()),
        file_bytes=weights.stat().st_size,
        sha256=choose.sha256(folder),
        classes=tuple(names),
        device=device,
    )

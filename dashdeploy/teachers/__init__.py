"""Teachers: one adapter for each model class, chosen by the class name in the model's config.json."""

from __future__ import annotations

TEACHER_FORMATS: dict[str, str] = {
    "UNet2DModel": "dashdeploy.teachers.unet2d:load",
    "DiTTransformer2DModel": "dashdeploy.teachers.dit:load",
}
"""Class name in config.json (`_class_name`) -> ``load(folder, *, role) -> TorchDenoiser``."""

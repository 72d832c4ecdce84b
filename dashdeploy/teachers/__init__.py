"""Teachers: one adapter a file format, found by name."""

from __future__ import annotations

TEACHER_FORMATS: dict[str, str] = {
    "diffusers_unet2d": "dashdeploy.teachers.unet2d:load",
}

"""The part of a diffusers scheduler configuration that is read here, checked before anything computes with it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dashdeploy.errors import UserError


class _Config(BaseModel):
    """Keys, types and defaults as diffusers has them; other keys are passed over."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    class_name: str = Field("DDIMScheduler", alias="_class_name")
    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: Annotated[list[float], Field(max_length=100_000)] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: str = "epsilon"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    set_alpha_to_one: bool = True
    steps_offset: int = 0


def check(config: dict[str, Any], *, source: str) -> None:
    """Refuse values of a wrong type or out of range; `source` is what messages call the file.

    Raises:
        UserError: one line that names every such key.
    """
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        said = {f"{'.'.join(map(str, e['loc'][:1]))}: {e['msg'].lower()}": None for e in error.errors()}
        raise UserError(f"{source}: {'; '.join(list(said)[:6])}. Correct it, or save the scheduler again.") from error

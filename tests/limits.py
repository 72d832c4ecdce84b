"""Limits of the guidance gate for a hardly trained student: its gap is small, so any rounding is large beside it."""

from __future__ import annotations

from dashdeploy.target import GateLimits

HARDLY_TRAINED = GateLimits(
    branch_error=0.5,
    gap_relative_error=9.0,
    gap_relative_error_bin=50.0,
    gap_cosine=0.01,
    guided_error=0.5,
    step_error=0.5,
    image_error=0.5,
    num_draws=32,
    t_bins=2,
)

"""Limits of the guidance gate for tests."""

from __future__ import annotations

from dashdeploy.target import GateLimits

HARDLY_TRAINED = GateLimits(  # a small gap, beside which any rounding is large
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
LOOSE = GateLimits(  # what int8 of a whole trained network keeps
    t_bins=4,
    branch_error=0.15,
    gap_relative_error=0.4,
    gap_relative_error_bin=2.0,
    gap_cosine=0.9,
    guided_error=0.2,
)

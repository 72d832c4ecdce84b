"""Objectives: what a training step minimises, each with its settings and its formula in one file.

Every term is a mean square over C·H·W of each sample, (B,) float32, or its pseudo-Huber form (`consistency`). The step
multiplies it by ŵ_t and by its coefficient, and takes the mean over the batch (arXiv:2606.00798 Eq. 4–7). `anchor` is
the coefficient of the conditional branch's denoising loss.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dashdeploy.lazy import resolve

OBJECTIVES: dict[str, str] = {
    "dash": "dashdeploy.objectives.dash:Dash",
    "cond_only": "dashdeploy.objectives.cond_only:CondOnly",
    "composite": "dashdeploy.objectives.guided:Composite",
    "multi_w": "dashdeploy.objectives.guided:MultiW",
    "gap_match": "dashdeploy.objectives.gap_match:GapMatch",
    "fitnets": "dashdeploy.objectives.fitnets:FitNets",
    "shared_mask": "dashdeploy.objectives.shared_mask:SharedMask",
    "single_head": "dashdeploy.objectives.guided:SingleHead",
    "scratch": "dashdeploy.objectives.scratch:Scratch",
    "guided": "dashdeploy.objectives.one_branch:Guided",
    "segments": "dashdeploy.objectives.one_branch:Segments",
    "progressive": "dashdeploy.objectives.one_branch:Progressive",
    "consistency": "dashdeploy.objectives.consistency:Consistency",
    "distribution_matching": "dashdeploy.objectives.distribution_matching:DistributionMatching",
}
"""Kind -> "module:class" of its settings and formula."""

if TYPE_CHECKING:
    from dashdeploy.objectives.base import Objective as AnyObjective
else:
    _settings = (resolve("objective", OBJECTIVES, kind) for kind in OBJECTIVES)
    AnyObjective = Annotated[reduce(or_, _settings), Field(discriminator="kind")]

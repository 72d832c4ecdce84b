"""DASH (arXiv:2606.00798): both branches have a target each, and their gap may have one too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from dashdeploy.fields import Coefficient
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse


class Dash(Objective):
    """L = imitation·L_im + unconditional·L_un + anchor·L_an (arXiv:2606.00798 Eq. 7), and gap·L_gap."""

    kind: Literal["dash"] = "dash"
    imitation: Coefficient = Field(1.0, description="weight of the conditional branch's distance to the teacher's")
    unconditional: Coefficient = Field(1.0, description="the same of the unconditional branch")
    anchor: Coefficient = Field(0.1, description="weight of the conditional branch's denoising loss")
    gap: Coefficient | Literal["guidance"] = Field(
        0.0,
        description="weight of the gap eps_cond − eps_uncond. guidance: w(w − 1), its weight in the guided error at "
        "the recipe's guidance; imitation, unconditional and gap are then scaled to the sum of the first two",
    )
    hint: Coefficient = Field(0.0, description="weight of both branches' middle features, as in fitnets")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Dash:
        if self.imitation == self.unconditional == self.anchor == 0 and not self.gap:
            but = " but hint, which does not concern the output" if self.hint else ": there is nothing to learn"
            raise ValueError(f"all coefficients are 0{but}")
        if self.gap == "guidance" and self.imitation + self.unconditional == 0:
            raise ValueError("gap: guidance scales itself to imitation + unconditional, and both are 0")
        return self

    @property
    def hint_weight(self) -> float:
        return self.hint

    @property
    def reads_guidance(self) -> bool:
        return self.gap == "guidance"

    def terms(self, student: Student, batch: Batch) -> Terms:
        """Both branches on the same x_t and t, each with a target (Eq. 4–6), and their gap; no label dropout."""
        teacher_uncond, teacher_cond = batch.teacher_outputs()
        uncond, cond = student.branches(batch.x_t, batch.t, batch.y)
        assert not isinstance(self.gap, str), "at_guidance() puts a number there"
        terms = {
            "imitation": Term(self.imitation, mse(cond, teacher_cond)),
            "unconditional": Term(self.unconditional, mse(uncond, teacher_uncond)),
            "anchor": Term(self.anchor, mse(cond, batch.target)),
        }
        if self.gap:
            terms["gap"] = Term(self.gap, mse(cond - uncond, teacher_cond - teacher_uncond))
        return terms

    def at_guidance(self, scales: Sequence[float]) -> Dash:
        """These settings with `gap: guidance` as a number: the mean of w(w − 1) over the scales in use.

        ‖e_w‖² = w‖e_cond‖² − (w − 1)‖e_uncond‖² + w(w − 1)‖e_Δ‖²: the guided error weighs the gap's by w(w − 1). The
        three weights are scaled to the sum of the first two, so that the learning rate means the same with and without.
        """
        if self.gap != "guidance":
            return self
        gap = sum(w * (w - 1) for w in scales) / len(scales)
        whole = self.imitation + self.unconditional
        scale = whole / (whole + gap)
        changed = {"imitation": self.imitation, "unconditional": self.unconditional, "gap": gap}
        return self.model_copy(update={name: scale * value for name, value in changed.items()})

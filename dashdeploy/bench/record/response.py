"""The part of a record that says how models respond to guidance, beside their teacher."""

from __future__ import annotations

from collections.abc import Iterable

from dashdeploy.bench.record.parts import Part
from dashdeploy.figures import Number
from dashdeploy.recipe.schema import Prediction


class Likeness(Part):
    """One response S beside another T, over the same draws; `figures.GapRow` says what each figure is."""

    rho: Number
    relative_error: Number
    energy_cosine: Number
    slope: Number


class ResponseRow(Part):
    """The response f(w) − f(1) of one model.

    Attributes:
        w: the guidance scale.
        t: the timestep of its draws; None: all of them.
        to_gap: beside (w − 1)·Δ, with the gap Δ of the teacher at the same x_t.
        to_target: beside the response of what the model was trained to predict, see `metrics.response`; None: a model
            of two branches.
    """

    model: str
    w: float
    t: int | None
    to_gap: Likeness
    to_target: Likeness | None

    @property
    def decides(self) -> Likeness:
        """What the model is judged by: its target where it has one, else the gap."""
        return self.to_target or self.to_gap


class Response(Part):
    """The responses of all models but the teacher.

    Attributes:
        base: the scale that responses count from: 1, or the end of a range of scales nearest to it.
        prediction: what responses are measured as: what the student predicts.
        num_draws: held-out noisy images at each timestep.
        path_steps: of the teacher, where a target is the end of its path; 0: no target is one.
    """

    base: float
    prediction: Prediction
    num_draws: int
    path_steps: int
    rows: tuple[ResponseRow, ...]

    def overall(self, model: str, w: float | None) -> ResponseRow | None:
        """The row over all timesteps."""
        return next((row for row in self.rows if (row.model, row.w, row.t) == (model, w, None)), None)

    def weakest(self, model: str, w: float | None) -> ResponseRow | None:
        """The row of the timestep at which the cosine is least."""
        rows: Iterable[ResponseRow] = (r for r in self.rows if (r.model, r.w) == (model, w) and r.t is not None)
        return min(rows, key=lambda row: row.decides.energy_cosine, default=None)

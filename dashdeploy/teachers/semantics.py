"""Whether a teacher's labels mean the data's classes: its loss with the right labels, with others, and with none.

Every draw is a held-out image with one noise and timestep, on which the labels alone are changed: the differences are
far less noisy than the losses. With the right label the loss of a teacher is lower than with the null class, and that
is lower than with the label of another class. At high noise levels, where the label says the most, the image that a
teacher expects for the null class is the mean over the classes. For K classes at equal distances this puts its loss
(K + 1)/2K of the way down from a wrong label's to the right one's, and at lower noise levels, where the image says
which class it may be, further down. A null class that is a class like others is 1/K of the way down.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy import seeds
from dashdeploy.data.images import LabelledImages, to_float
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError

Loss = NDArray[np.float64]
ROUND = 64
"""Draws after which a teacher that is clearly right is accepted; else as many follow, up to MOST_DRAWS."""
MOST_DRAWS = 512
BATCH = 64
CLEAR, SURE, LIKELY = 5.0, 4.0, 2.0
"""Standard errors: from CLEAR on labels help and a null class is none, from SURE on another order of the classes is
better, and below LIKELY a difference is taken as not there. So a real teacher that is hardly trained is not refused."""
EACH = 8
"""Draws of a class from which its own label is judged."""
SEARCH = 2000
"""Forwards that a search for the order of the classes may take; it is left out where each class would get few."""
LOWEST, SPAN = 0.2, 0.75
"""Where the timesteps that are drawn begin, and what share of all they are: below, the image itself tells its class."""


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences of losses, and its standard error."""

    mean: float
    error: float

    @property
    def t(self) -> float:
        """The mean in standard errors; 0 where all differences are 0."""
        return self.mean / self.error if self.error > 0 else 0.0

    def __str__(self) -> str:
        return f"{self.mean:.2g} ± {self.error:.1g}"


@dataclass(frozen=True)
class Semantics:
    """What `measure` found. Losses are means of |ε_θ − ε|² over draws and pixels.

    Attributes:
        num_draws: held-out draws.
        right, other, null: the loss with the image's label, with another one, and with the null class.
        labels: how much higher the loss is with another label than with the right one.
        nulls: how much lower it is with the null class than with the mean over the classes; above 0 for a teacher that
            was trained with label dropout.
        worst: the largest t of right − null among the classes: above 0 where a class's label is worse than none.
        order: labels that stand for the data's classes in place of 0..K−1, if a better order was found.
        gain: how much lower the loss is in that order, on draws that did not choose it.
    """

    num_draws: int
    right: float
    other: float
    null: float
    labels: Difference
    nulls: Difference
    worst: float
    order: tuple[int, ...] | None = None
    gain: Difference | None = None

    def __str__(self) -> str:
        losses = f"{self.right:.4f} with the right label, {self.null:.4f} with none, {self.other:.4f} with another"
        return f"loss on {self.num_draws} held-out draws: {losses} (labels help by {self.labels})"


def measure(teacher: TorchDenoiser, held_out: LabelledImages, *, seed: int = 0) -> Semantics | None:
    """Compare labels on draws of the held-out images; the same draws for the same seed. None: there is one class.

    Takes 200 to 400 forwards of a teacher that is clearly right, 1536 of one that is not, and up to 4000 more to find
    the order of its classes.
    """
    if teacher.interface.num_classes < 2:
        return None
    draws = _Draws(teacher, held_out, seed)
    losses, classes = np.empty((3, 0)), np.empty(0, np.int64)
    while losses.shape[1] < MOST_DRAWS:
        losses = np.concatenate([losses, draws.losses(ROUND, draws.usual)], axis=1)
        classes = np.concatenate([classes, draws.drawn])
        if not np.isfinite(losses).all():
            return _not_finite(losses)
        found = _compared(losses, classes, teacher.interface.num_classes)
        judged = len(classes) >= min(EACH * len(draws.classes), 2 * ROUND)
        if judged and found.labels.t >= CLEAR and found.nulls.t >= LIKELY and found.worst < LIKELY:
            return found
    if found.labels.t >= CLEAR and found.worst < SURE:
        return found
    order, gain = _order(draws, held_out)
    return found if order is None else Semantics(**{**vars(found), "order": order, "gain": gain})


def _not_finite(losses: Loss) -> Semantics:
    """What there is to say of losses that are not finite: their means, which `problem` refuses."""
    unknown = Difference(float("nan"), float("nan"))
    with np.errstate(invalid="ignore", over="ignore"):
        right, other, null = (float(loss.mean()) for loss in losses)
    return Semantics(losses.shape[1], right, other, null, labels=unknown, nulls=unknown, worst=float("nan"))


def _compared(losses: Loss, classes: NDArray[np.int64], num_classes: int) -> Semantics:
    right, other, null = losses
    as_mean = (num_classes + 1) / (2 * num_classes)
    by_class = [(right - null)[classes == c] for c in np.unique(classes)]
    return Semantics(
        *(len(right), float(right.mean()), float(other.mean()), float(null.mean())),
        labels=_difference(other - right),
        nulls=_difference(other - null - as_mean * (other - right)),
        worst=max((_difference(values).t for values in by_class if len(values) >= EACH), default=0.0),
    )


def _difference(values: Loss) -> Difference:
    return Difference(float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5))


class _Draws:
    """Draws of held-out images, all classes in turn; every call of `losses` makes new ones."""

    def __init__(self, teacher: TorchDenoiser, held_out: LabelledImages, seed: int) -> None:
        self.teacher, self.data = teacher, held_out
        self.classes = np.unique(held_out.labels)
        self.random = np.random.default_rng(seeds.derive(seed, "semantics"))
        self.random.shuffle(self.classes)
        self.made = 0

    @property
    def usual(self) -> list[NDArray[np.int64]]:
        """For each class: itself, another class, and the null class; for `losses`."""
        k = self.teacher.interface.num_classes
        own = np.arange(k)
        return [own, (own + self.random.integers(1, k, k)) % k, np.full(k, k)]

    @torch.no_grad()
    def losses(self, num: int, labels: Sequence[NDArray[np.int64]]) -> Loss:
        """(len(labels), num): the loss of each of `num` new draws, of classes `drawn[-num:]`, by each labelling.

        Args:
            labels: from the data's class to the label that the teacher is given.
        """
        schedule, device = self.teacher.interface.schedule, self.teacher.device
        self.drawn = self.classes[np.arange(self.made, self.made + num) % len(self.classes)]
        self.made += num
        rows = [self.random.choice(np.flatnonzero(self.data.labels == c)) for c in self.drawn]
        x_0 = torch.from_numpy(to_float(self.data.images[rows]))
        generator = torch.Generator().manual_seed(int(self.random.integers(2**62)))
        share = (torch.randperm(num, generator=generator) + torch.rand(num, generator=generator)) / num
        t = ((LOWEST + SPAN * share) * schedule.num_train_timesteps).long()
        eps = torch.randn(x_0.shape, generator=generator)
        x_t = schedule.add_noise(x_0, eps, t)
        found = np.empty((len(labels), num))
        for row, labelling in enumerate(labels):
            y = torch.from_numpy(labelling[self.drawn])
            for start in range(0, num, BATCH):
                part = slice(start, start + BATCH)
                output = self.teacher(x_t[part].to(device), t[part].to(device), y[part].to(device)).float().cpu()
                predicted = self.teacher.interface.convert(output, x_t[part], t[part], "epsilon")
                found[row, part] = (predicted - eps[part]).square().mean((1, 2, 3)).double().numpy()
        return found


def _order(draws: _Draws, data: LabelledImages) -> tuple[tuple[int, ...] | None, Difference | None]:
    """Labels 0..K that fit the classes clearly better than 0..K−1 do, on new draws; None: none was found."""
    k = data.num_classes
    own = np.arange(k)
    natural = sorted(range(k), key=lambda c: _natural(data.classes[c]))
    candidates = [own + 1, np.argsort(natural), np.argsort(natural) + 1]
    if (each := SEARCH // (k * (k + 1))) >= 2 and len(draws.classes) == k:
        candidates.append(_assigned(draws, each * k))
    candidates = [c for c in candidates if (c != own).any()]
    losses = draws.losses(min(MOST_DRAWS, SEARCH // (len(candidates) + 1)), [own, *candidates])
    gains = [_difference(losses[0] - other) for other in losses[1:]]
    best = int(np.argmax([gain.mean for gain in gains]))
    if gains[best].t < SURE:
        return None, None
    return tuple(int(label) for label in candidates[best]), gains[best]


def _assigned(draws: _Draws, num: int) -> NDArray[np.int64]:
    """The labels 0..K whose losses by class are least in sum, each given to one class (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment

    k = draws.teacher.interface.num_classes
    losses = draws.losses(num, [np.full(k, label) for label in range(k + 1)])
    by_class = np.stack([losses[:, draws.drawn == c].mean(1) for c in range(k)])
    return np.asarray(linear_sum_assignment(by_class)[1])


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts 2 before 10, and does not tell capitals from small letters."""
    parts = re.split(r"([0-9]{1,18})", name.casefold())
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def problem(found: Semantics, rows: Sequence[int]) -> str | None:
    """What is wrong with a teacher by what was measured, and which keys to set; None: nothing is.

    Args:
        rows: the rows of the teacher's embedding that its labels 0..K are.
    """
    if not np.isfinite([found.right, found.other, found.null]).all():
        return "what it predicts on noisy held-out images is not finite. Look for damaged or half-precision weights."
    if found.order is not None:
        return (
            f"its classes are in another order than the data's: {found}; in another order the loss is lower by "
            f"{found.gain}. {_keys(found.order, rows)}"
        )
    if found.labels.t < LIKELY:
        return (
            f"its labels do not help: {found}. Was it trained on other classes or data, or hardly at all? If its "
            "classes are in another order, give the row of each in teacher.labels."
        )
    if found.nulls.t <= -CLEAR:
        return (
            f"its null class (row {rows[-1]}) does not stand for any label: {found}; without a label it should be "
            "nearer the right one's. Set teacher.null_class to the row that was trained without labels. A teacher "
            "that was trained without label dropout has none, and no guidance to distil."
        )
    return None


def doubt(found: Semantics) -> str | None:
    """What was not clear enough to accept it without a word; None: all was."""
    if found.labels.t >= CLEAR and found.nulls.t >= LIKELY:
        return None
    part = "labels" if found.labels.t < CLEAR else "null class"
    return f"it is not clear that its {part} mean what the recipe says: {found}"


def refuse(found: Semantics, rows: Sequence[int], *, name: object) -> None:
    """Refuse a teacher whose labels or null class do not help.

    Raises:
        UserError: what was measured and which keys to set; `name` is what the message calls the teacher.
    """
    if told := problem(found, rows):
        raise UserError(f"teacher {name}: {told} To take it as it is: --no-check, or teacher.check: false.")


def _keys(order: Sequence[int], rows: Sequence[int]) -> str:
    """The keys that give the classes these labels; what is left of 0..K is the null class."""
    labels = [rows[label] for label in order]
    left = [row for row in rows if row not in labels]
    null = f"teacher.null_class to {left[0]}" if left[0] != rows[-1] else ""
    if labels == [row for row in sorted(rows) if row != left[0]]:
        return f"Set {null}."
    return f"Set teacher.labels to {labels}{f' and {null}' if null else ''}."

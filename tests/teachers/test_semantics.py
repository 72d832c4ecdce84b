"""A teacher whose labels or null class mean something else than the recipe says is refused, and told how to be right.

The digits teacher has its rows moved about; it is the same network then, with other labels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_recipe
from dashdeploy.recipe.schema import Prediction, Teacher
from dashdeploy.teachers import choose, formats, rows, semantics

K = 10
OWN = tuple(range(K + 1))
RECIPE = load_recipe("digits")


@pytest.fixture(scope="module")
def held_out() -> LabelledImages:
    torch.set_num_threads(1)
    return load_dataset(RECIPE.data).split(RECIPE.data.holdout)[1]


def moved(*order: int) -> TorchDenoiser:
    """The digits teacher with its rows in this order."""
    folder = choose.find(RECIPE, Path("nowhere"))
    assert folder is not None
    return rows.take(formats.load(folder, role="teacher"), order)


def with_null(row: torch.Tensor | None) -> TorchDenoiser:
    """The digits teacher with another null class; None: every row is the null class's."""
    teacher = moved(*OWN)
    weight = teacher.unet.class_embedding.weight
    with torch.no_grad():
        if row is None:
            weight[:] = weight[K].clone()
        else:
            weight[K] = row
    return teacher


def found(teacher: TorchDenoiser, held_out: LabelledImages, seed: int = 0) -> semantics.Semantics:
    measured = semantics.measure(teacher, held_out, seed=seed)
    assert measured is not None
    return measured


@pytest.mark.parametrize("seed", range(3))
def test_a_good_teacher_is_taken_after_few_draws_and_without_a_word(held_out: LabelledImages, seed: int) -> None:
    measured = found(moved(*OWN), held_out, seed)
    assert measured.right < measured.null < measured.other
    assert measured.num_draws <= 2 * semantics.ROUND
    assert semantics.problem(measured, OWN) is None and semantics.doubt(measured) is None
    semantics.refuse(measured, OWN, name="digits")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "keys"),
    [
        ((10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9), "Set teacher.null_class to 0."),
        ((1, 0, 10, 2, 3, 4, 5, 6, 7, 8, 9), "Set teacher.labels to [1, 0, 3, 4, 5, 6, 7, 8, 9, 10] and teacher.null_"),
    ],
)
def test_another_order_is_named_and_the_keys_that_are_told_set_it_right(held_out, order, keys: str) -> None:
    with pytest.raises(UserError) as caught:
        semantics.refuse(found(moved(*order), held_out), OWN, name="digits")
    said = str(caught.value)
    assert keys in said and "--no-check" in said and "\n" not in said
    labels = said.partition("teacher.labels to ")[2].partition("]")[0].strip("[")
    null = said.partition("teacher.null_class to ")[2].partition(".")[0]
    section = Teacher(
        path="x",
        labels=tuple(int(row) for row in labels.split(",")) if labels else None,
        null_class=int(null) if null else None,
    )
    mended = rows.take(moved(*order), rows.chosen(section, K + 1))
    assert torch.equal(mended.unet.class_embedding.weight, moved(*OWN).unet.class_embedding.weight)
    assert semantics.problem(found(mended, held_out), OWN) is None


def test_a_null_class_that_is_a_class_like_others_is_refused(held_out: LabelledImages) -> None:
    row = moved(*OWN).unet.class_embedding.weight[3].clone()
    assert "null class (row 10) does not stand for any label" in str(
        semantics.problem(found(with_null(row), held_out), OWN)
    )


@pytest.mark.slow
def test_labels_that_say_nothing_are_refused(held_out: LabelledImages) -> None:
    assert "its labels do not help" in str(semantics.problem(found(with_null(None), held_out), OWN))


def test_a_prediction_that_is_not_finite_is_refused(held_out: LabelledImages) -> None:
    assert "not finite" in str(semantics.problem(found(with_null(torch.tensor(float("nan"))), held_out), OWN))


@pytest.mark.slow
def test_classes_that_sort_as_text_are_found_to_be_in_the_order_of_numbers(held_out: LabelledImages) -> None:
    # As with folders 1, 10, 2, …: the teacher's classes are in the order of the numbers.
    names = sorted(str(n) for n in range(1, 11))
    order = [int(name) - 1 for name in names]
    labels = torch.tensor(order).argsort().numpy()[held_out.labels]
    data = LabelledImages("x", held_out.images, labels, tuple(names), horizontal_flip=False)
    assert f"Set teacher.labels to {order}." in str(semantics.problem(found(moved(*OWN), data), OWN))


def test_one_image_a_class_and_classes_without_images_are_enough(held_out: LabelledImages) -> None:
    first = [int((held_out.labels == c).argmax()) for c in range(5)]
    few = held_out.take(torch.tensor(first).numpy())
    assert semantics.problem(found(moved(*OWN), few), OWN) is None


@pytest.mark.parametrize("scale", [float("inf"), 3e38])
def test_predictions_that_are_not_finite_are_refused_as_such(held_out: LabelledImages, scale: float) -> None:
    teacher = moved(*OWN)
    with torch.no_grad():
        teacher.unet.conv_out.weight.fill_(scale)
    with pytest.raises(UserError, match="what it predicts on noisy held-out images is not finite"):
        semantics.refuse(found(teacher, held_out), OWN, name="x")


def test_a_student_that_teaches_is_measured_like_any_other_teacher(tiny_run: Path, tiny_recipe) -> None:
    section = tiny_recipe.teacher.model_copy(update={"path": str(tiny_run / "student")})
    recipe, data = tiny_recipe.model_copy(update={"teacher": section}), load_dataset(tiny_recipe.data)
    own = choose.open_teacher(tiny_run / "teacher", tiny_recipe, data)
    assert choose.check(own, tiny_recipe, data) is None
    with pytest.raises(UserError, match="student: its labels do not help"):
        choose.check(choose.open_teacher(tiny_run / "student", recipe, data), recipe, data)


class As(nn.Module):
    """A network of eps that says what it predicts as v or x_0."""

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule, prediction: Prediction) -> None:
        super().__init__()
        self.unet, self.schedule, self.prediction = unet, schedule, prediction

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        eps = self.unet(x, t, y, return_dict=False)[0].double()
        bar = self.schedule.alphas_cumprod[t].double().view(-1, 1, 1, 1)
        a, s = bar.sqrt(), (1 - bar).sqrt()
        x_0 = (x - s * eps) / a
        return ((a * eps - s * x_0 if self.prediction == "v_prediction" else x_0).float(),)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_a_teacher_of_v_or_x_0_is_measured_in_eps_as_it_would_be_if_it_said_eps(
    held_out: LabelledImages, prediction: Prediction
) -> None:
    plain = moved(*OWN)
    interface = replace(plain.interface, prediction=prediction)
    said = TorchDenoiser(As(plain.unet, interface.schedule, prediction), interface)
    ours, theirs = found(said, held_out), found(plain, held_out)
    assert ours.num_draws == theirs.num_draws
    for name in ("right", "other", "null"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-4)
    semantics.refuse(ours, OWN, name="v")

"""Stage keys hold the whole recipe but what is left out with a reason: every field of the schema is tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError, create_model

from dashdeploy.recipe import keys
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Distill, Recipe
from dashdeploy.stages import open_run, stage_key
from dashdeploy.training import distill, teach

STAGES = get_args(keys.Stage)
PLAIN: dict[str, Any] = {
    "name": "plain",
    "noise_schedule": {},
    "teacher": {"path": "somewhere"},
    "teach": {"steps": 1000},
    "student": {"compression": 3.0, "layers_per_block": 2},
}
SECTIONS: list[dict[str, Any]] = [
    *({"distill": {"objective": {"kind": kind}}} for kind in ("dash", "cond_only", "composite", "multi_w")),
    *({"distill": {"objective": {"kind": kind}}} for kind in ("gap_match", "fitnets", "shared_mask", "single_head")),
    {"distill": {"objective": {"kind": "scratch"}}},
    {"distill": {"objective": {"kind": "guided"}}, "student": {"compression": 3.0, "branches": 1}},
    {
        "distill": {"objective": {"kind": "segments", "steps": [4, 2]}},
        "student": {"compression": 3.0, "branches": 1, "prediction_type": "v_prediction"},
        "sampling": {"num_inference_steps": 4},
    },
    {
        "distill": {"objective": {"kind": "distribution_matching", "steps": [4, 2]}},
        "student": {
            **{"compression": 3.0, "branches": 1, "prediction_type": "v_prediction"},
            "init": {"kind": "run", "path": "somewhere"},
        },
        "sampling": {"num_inference_steps": 4},
    },
    {
        "distill": {"objective": {"kind": "progressive"}, "steps": 1200},
        "student": {"compression": 3.0, "branches": 1, "prediction_type": "v_prediction"},
        "sampling": {"num_inference_steps": 4},
    },
    {
        "distill": {"objective": {"kind": "consistency"}},
        "student": {"compression": 3.0, "branches": 1, "prediction_type": "v_prediction"},
        "sampling": {"num_inference_steps": 4, "solver": "consistency"},
    },
    {"distill": {"objective": {"kind": "dash", "gap": "guidance"}}},
    {"distill": {"timesteps": "sampling"}},
    {"distill": {"ema_decay": {"kind": "power"}}},
    {"teach": {"ema_decay": {"kind": "power"}}},
    {"sampling": {"guidance": {"kind": "tag"}}},
    {"sampling": {"guidance": {"kind": "interval"}}},
    {"sampling": {"clip_sample": False}},
    {"student": {"architecture": {}}},
    {"student": {"dit": {}}},
    {"student": {"compression": 3.0, "init": {"kind": "pruned"}}},
    {"student": {"compression": 3.0, "init": {"kind": "run", "path": "somewhere"}}},
]
"""The sections that exclude each other, so that each kind's fields have their turn."""
RECIPES = [Recipe.model_validate({**PLAIN, **sections}) for sections in SECTIONS]
SAMPLES: list[Any] = [
    *(True, False, 1, 2, 3, 6, 8, 0.25, 0.75, 5.5, "x", [8], [4], [3], [1], [0.5], ["x"], None),
    *({"kind": "power"}, {"kind": "scratch"}, {"kind": "single_head"}, {"kind": "pruned"}, {"kind": "random"}),
    *({"kind": "tag"}, {"kind": "interval"}, {"kind": "uniform"}, {"kind": "tirt"}),
]


def key(recipe: Recipe, stage: keys.Stage) -> str:
    return stage_key(stage, recipe, {})


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field may hold, through unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


def schema_fields(model: type[BaseModel]) -> set[tuple[str, str]]:
    """(section's class, field) of every field that is not a section only, in the whole schema."""
    found = set()
    for name, field in model.model_fields.items():
        inner = set(models(field.annotation))
        for section in inner:
            found |= schema_fields(section)
        if not inner or any(part not in inner and part is not type(None) for part in members(field.annotation)):
            found.add((model.__name__, name))
    return found


def members(annotation: Any) -> list[Any]:
    """What a union is of; of another type, the type."""
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    if hasattr(annotation, "__metadata__"):
        return members(get_args(annotation)[0])
    return [annotation]


def leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, BaseModel, str]]:
    """(dotted field, its section, its name) of all fields of a recipe that hold a value and no section."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", section, name


def changed(recipe: Recipe, field: str) -> Recipe | None:
    """The recipe with another value of one field; None: the schema allows it no other one here."""
    *sections, name = field.split(".")
    owner: Any = recipe
    for part in sections:
        owner = getattr(owner, part)
    annotation = type(owner).model_fields[name].annotation
    choices = [choice for part in members(annotation) if get_origin(part) is Literal for choice in get_args(part)]
    value = getattr(owner, name)
    near = [value + 1, value * 2, value / 2] if isinstance(value, int | float) else []
    for candidate in [*choices, *near, *SAMPLES]:
        values = recipe.model_dump(mode="json")
        inside = values
        for part in sections:
            inside = inside[part]
        inside[name] = candidate
        try:
            other = Recipe.model_validate(values)
        except ValidationError:
            continue
        if other != recipe:
            return other
    return None


def is_left_out(field: str, fields: dict[str, str]) -> bool:
    """Whether a field is named, or a section that it is in."""
    parts = field.split(".")
    return any(".".join(parts[:end]) in fields for end in range(1, len(parts) + 1))


@pytest.mark.parametrize("recipe", RECIPES, ids=[str(sections) for sections in SECTIONS])
def test_every_field_changes_every_key_unless_it_is_left_out_with_a_reason(recipe: Recipe) -> None:
    for field, _, _ in leaves(recipe):
        other = changed(recipe, field)
        if other is None:
            continue  # which fields these are: the next test
        for stage in STAGES:
            idle = [is_left_out(field, keys.left_out(each, stage)) for each in (recipe, other)]
            same = key(recipe, stage) == key(other, stage)
            assert same == all(idle), f"{stage}: {field}"


def test_no_field_of_the_schema_was_passed_over() -> None:
    tried = {
        (type(section).__name__, name)
        for recipe in RECIPES
        for field, section, name in leaves(recipe)
        if changed(recipe, field) is not None
    }
    kinds = {(section, name) for section, name in schema_fields(Recipe) if name == "kind"}
    # The objective decides the branches, and `progressive` the steps of the sampler: no other value goes with it.
    assert schema_fields(Recipe) - tried <= kinds | {("Student", "branches"), ("Progressive", "steps")}
    # A kind is changed with its section: other sections in the same place are other keys.
    for stage in ("teacher", "student", "artifact"):
        assert len({key(recipe, stage) for recipe in RECIPES}) > 1
    objectives = [key(recipe, "student") for recipe in RECIPES[:14]]
    assert len(set(objectives)) == len(objectives)


def test_a_field_that_nobody_has_thought_of_is_in_the_keys() -> None:
    distilling = create_model("Distill", __base__=Distill, brand_new=(int, 0))
    wider = create_model("Recipe", __base__=Recipe, distill=(distilling, distilling()), brand_new=(int, 0))
    base = wider.model_validate(PLAIN)
    in_section = wider.model_validate({**PLAIN, "distill": {"brand_new": 1}})
    at_the_top = wider.model_validate({**PLAIN, "brand_new": 1})
    assert all(key(base, stage) != key(at_the_top, stage) for stage in STAGES)
    assert [stage for stage in STAGES if key(base, stage) != key(in_section, stage)] == ["bank", "student"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_that_is_left_out_exists_and_has_a_reason(stage: keys.Stage) -> None:
    paths: set[str] = set()
    for recipe in RECIPES:
        for field, _, _ in leaves(recipe):
            parts = field.split(".")
            paths |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    assert keys.LEFT_OUT[stage].keys() <= paths
    assert all(len(reason) > 10 for reason in keys.LEFT_OUT[stage].values())


def test_no_stage_reads_a_section_that_is_left_out_as_unread(tiny_recipe, tmp_path: Path, monkeypatch) -> None:
    reads: set[str] = set()

    def spy(self: Recipe, name: str) -> Any:
        reads.add(name)
        return object.__getattribute__(self, name)

    folder = open_run(tmp_path, "tiny")
    recipe = tiny_recipe.model_copy(update={"distill": tiny_recipe.distill.model_copy(update={"teacher_bank": 32})})
    for stage, carry_out in (("teacher", teach.teach), ("student", distill.distill)):
        reads.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Recipe, "__getattribute__", spy, raising=False)
            carry_out(recipe, folder)
        assert {"seed", "data"} <= reads
        unread = {field for field, reason in keys.LEFT_OUT[stage].items() if reason == keys.UNREAD}
        assert unread
        assert unread & reads == set()


def bank_key(*overrides: str) -> str:
    text = "name: b\nstudent: {compression: 2}\nteacher: {path: x}\ndistill: {teacher_bank: 100}"
    return key(load_text(text, name="b", overrides=overrides), "bank")


@pytest.mark.parametrize(
    "override",
    [
        "distill.objective.kind=cond_only",
        "distill.objective={kind: dash, gap: guidance}",
        "distill.steps=7",
        "distill.timestep_weights.kind=tirt",
        "student.init.kind=pruned",
        "sampling.num_inference_steps=7",
        "sampling.guidance=3.0",
    ],
)
def test_students_that_learn_otherwise_from_the_same_draws_share_a_bank(override: str) -> None:
    assert bank_key(override) == bank_key()


@pytest.mark.parametrize(
    "override",
    ["distill.teacher_bank=99", "distill.teacher_precision=bf16", "distill.timesteps=sampling", "seed=1"],
)
def test_other_draws_are_another_bank(override: str) -> None:
    assert bank_key(override) != bank_key()


def test_a_bank_at_the_samplers_timesteps_depends_on_them() -> None:
    matched = "distill.timesteps=sampling"
    assert bank_key(matched, "sampling.num_inference_steps=7") != bank_key(matched)
    assert bank_key(matched, "sampling.guidance=3.0") == bank_key(matched)

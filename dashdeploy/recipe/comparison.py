"""Comparisons: variants of one recipe over several seeds, as validated data (`recipes/ablation-*.yaml`)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from dashdeploy import locate
from dashdeploy.errors import UserError, unknown
from dashdeploy.recipe.fields import DISTINCT, Count, Model, Text
from dashdeploy.recipe.load import MAX_BYTES, load_model, load_recipe
from dashdeploy.recipe.schema import Recipe

Changes = dict[str, Any]
NAME = r"^[a-z0-9][a-z0-9._-]*$"


class Variant(Model):
    """One variant: what it changes in the recipe."""

    label: Text
    set: Changes = Field({}, description="recipe keys and their values, as in `distill.objective: {kind: scratch}`")


class Shares(Model):
    """How much of a method's gain each of its terms carries: what is lost without it."""

    full: Text = Field(description="the variant with all terms")
    baseline: Text = Field(description="the variant that the gain is counted from")
    without: dict[str, str] = Field(min_length=1, description="term -> the variant that lacks just it")


class Comparison(Model):
    """Variants × seeds of one recipe, with one order of the data and one budget.

    Variants that change keys under `teach`, with `teacher.path: null`, have teachers of their own.
    """

    name: str = Field(pattern=NAME, description="names the folder: runs/<name>")
    recipe: Text = Field(description="what every variant starts from: a name, or a YAML file")
    seeds: Annotated[tuple[Count, ...], DISTINCT] = Field((0, 1, 2), min_length=1)
    set: Changes = Field({}, description="changes of the recipe for every variant")
    variants: dict[Annotated[str, Field(pattern=NAME)], Variant] = Field(min_length=1)
    shares: Shares | None = None
    closes: Text | None = Field(
        None, description="a variant: how much of the FID distance that it leaves to its teacher each other one closes"
    )

    @model_validator(mode="after")
    def _names_variants(self) -> Comparison:
        if self.shares is not None:
            for name in (self.shares.full, self.shares.baseline, *self.shares.without.values()):
                if name not in self.variants:
                    raise ValueError(f"shares: {unknown('variant', name, self.variants)}")
        if self.closes is not None and self.closes not in self.variants:
            raise ValueError(f"closes: {unknown('variant', self.closes, self.variants)}")
        return self


def is_comparison(path: Path) -> bool:
    """Whether a YAML file is meant as a comparison: it has the key `variants`."""
    try:
        with path.open("rb") as file:
            return re.search(rb"^variants\s*:", file.read(MAX_BYTES), re.MULTILINE) is not None
    except OSError:
        return False


def load_comparison(name: str) -> Comparison:
    """Read and validate a comparison and every variant's recipe.

    Raises:
        UserError: not found or not valid; a variant's problems name the variant.
    """
    path = locate.find("recipes", name)
    if not is_comparison(path):
        raise UserError(f"{path}: not a comparison (it has no variants). `dashdeploy run` takes recipes.")
    found = load_model(Comparison, path)
    for variant in found.variants:
        try:
            _check_teacher(found, variant)
        except UserError as error:
            raise UserError(f"{path}: variant {variant}: {error}") from error
    return found


def _check_teacher(comparison: Comparison, variant: str) -> None:
    """Refuse changes of `teach` that a ready teacher would make void."""
    recipe = recipe_of(comparison, variant, comparison.seeds[0])
    changed = [
        key for key in {**comparison.set, **comparison.variants[variant].set} if key.partition(".")[0] == "teach"
    ]
    if changed and recipe.teacher.path is not None:
        raise UserError(
            f"it changes {', '.join(changed)}, and its teacher is ready: teacher.path {recipe.teacher.path!r}. "
            "Set teacher.path: null too, and the teacher is trained."
        )


def recipe_of(comparison: Comparison, variant: str, seed: int, *, more: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of one variant at one seed; `more` is changed last."""
    changes = {**comparison.set, **comparison.variants[variant].set, "seed": seed, **(more or {})}
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_recipe(comparison.recipe, overrides=overrides)

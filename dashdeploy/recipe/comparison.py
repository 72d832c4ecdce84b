"""Comparisons: variants of one recipe over several seeds, as validated data (`recipes/ablation-*.yaml`)."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from dashdeploy import locate
from dashdeploy.errors import UserError, unknown
from dashdeploy.fields import DISTINCT, Model, Name, Seed, Text
from dashdeploy.recipe import paths
from dashdeploy.recipe.document import Document, Origin, Origins, within
from dashdeploy.recipe.load import MAX_BYTES, read, read_recipe
from dashdeploy.recipe.problems import KeyPath
from dashdeploy.recipe.schema import Recipe

Changes = dict[str, Any]


class Variant(Model):
    """One variant: an extension of the comparison's recipe."""

    label: Text = Field(description="what tables and plots call it")
    set: Changes = Field(
        {},
        description="what it changes, merged as `extends` does; a key may be dotted: "
        "`distill.objective: {kind: scratch}`",
    )


class Shares(Model):
    """How much of a method's gain each of its terms carries: how much is lost without the term."""

    full: Text = Field(description="the variant with all terms")
    baseline: Text = Field(description="the variant without any of them")
    without: dict[str, str] = Field(min_length=1, description="term -> the variant that lacks only this term")


class Confirm(Model):
    """Variants that were chosen by the comparison's own figures, trained and measured again on other seeds.

    The best of many is partly the luckiest: only fresh trainings and fresh images say how good it is.
    """

    variants: Annotated[tuple[Text, ...], DISTINCT] = Field(
        min_length=1, description="the chosen ones, and what they are compared with"
    )
    seeds: Annotated[tuple[Seed, ...], DISTINCT] = Field(min_length=1, description="other ones than the comparison's")


class Comparison(Model):
    """Variants × seeds of one recipe. All see the same data in the same order, for as many steps.

    A variant that changes keys under `teach` and sets `teacher.path: null` trains another teacher.
    """

    name: Name = Field(description="names the folder: runs/<name>")
    recipe: Text = Field(description="the recipe that every variant extends: a name, or a path relative to this file")
    seeds: Annotated[tuple[Seed, ...], DISTINCT] = Field((0, 1, 2), min_length=1)
    set: Changes = Field({}, description="changes for every variant; those of the variant come after them")
    variants: dict[Name, Variant] = Field(min_length=1)
    shares: Shares | None = Field(None, description="report each term's share of a variant's gain")
    closes: Text | None = Field(
        None,
        description="a variant to compare with: report what part of the FID distance between it and the teacher each "
        "other variant closes",
    )

    confirm: Confirm | None = Field(None, description="score chosen variants again on fresh seeds")

    @model_validator(mode="after")
    def _names_variants(self) -> Comparison:
        if self.shares is not None:
            for name in (self.shares.full, self.shares.baseline, *self.shares.without.values()):
                if name not in self.variants:
                    raise ValueError(f"shares: {unknown('variant', name, self.variants)}")
        if self.closes is not None and self.closes not in self.variants:
            raise ValueError(f"closes: {unknown('variant', self.closes, self.variants)}")
        for name in self.confirm.variants if self.confirm else ():
            if name not in self.variants:
                raise ValueError(f"confirm: {unknown('variant', name, self.variants)}")
        if self.confirm and (old := sorted(set(self.confirm.seeds) & set(self.seeds))):
            raise ValueError(f"confirm: seeds {', '.join(map(str, old))} had a part in the choice; give other ones")
        return self

    @property
    def confirmation(self) -> Comparison | None:
        """The chosen variants at the fresh seeds, as a comparison of its own."""
        if self.confirm is None:
            return None
        chosen = {name: variant for name, variant in self.variants.items() if name in self.confirm.variants}
        closes = self.closes if self.closes in chosen and len(chosen) > 1 else None
        changes = {"variants": chosen, "seeds": self.confirm.seeds, "shares": None, "closes": closes, "confirm": None}
        return self.model_copy(update=changes)


def is_comparison(path: Path) -> bool:
    """Whether a YAML file is meant as a comparison: it has the key `variants`."""
    try:
        with path.open("rb") as file:
            return re.search(rb"^variants\s*:", file.read(MAX_BYTES), re.MULTILINE) is not None
    except OSError:
        return False


def load_comparison(name: str) -> Comparison:
    """Read and validate a comparison and every variant's recipe; a path in `recipe` is relative to the comparison.

    Raises:
        UserError: not found or not valid; a variant's problems name the variant and the line.
    """
    path = locate.find("recipes", name)
    if not is_comparison(path):
        raise UserError(f"{path}: not a comparison (it has no variants). `dashdeploy run` takes recipes.")
    document = read(Comparison, path)
    for changes in _all_changes(document.values):
        _anchor(changes, path.parent)
    comparison = document.validated()
    if locate.is_path(comparison.recipe):
        file = locate.find("recipes", comparison.recipe, folder=path.parent)
        comparison = comparison.model_copy(update={"recipe": str(file.absolute())})
    for variant in comparison.variants:
        try:
            recipe = recipe_of(comparison, variant, comparison.seeds[0], origins=document.origins)
            _check_teacher(comparison, variant, recipe)
        except UserError as error:
            raise UserError(f"{path}: variant {variant}: {error}") from error
    return comparison


def recipe_of(
    comparison: Comparison,
    variant: str,
    seed: int,
    *,
    more: Mapping[str, Any] | None = None,
    origins: Origins | None = None,
) -> Recipe:
    """The recipe of one variant at one seed.

    It extends the comparison's recipe as a recipe's file would: by the comparison's `set`, then by the variant's.

    Args:
        more: changes that are laid over all others. None: none.
        origins: the lines of the comparison's keys, for messages. None: the values were validated before.

    Raises:
        UserError: not valid; the message lists every problem with its line.
    """
    document = read_recipe(locate.find("recipes", comparison.recipe))
    _lay_over(document, comparison.set, ("set",), origins or {})
    _lay_over(document, comparison.variants[variant].set, ("variants", variant, "set"), origins or {})
    _lay_over(document, {"seed": seed, **(more or {})}, (), {})
    return document.validated()


def _check_teacher(comparison: Comparison, variant: str, recipe: Recipe) -> None:
    """Refuse changes of `teach` that a ready teacher would make void."""
    keys = {**comparison.set, **comparison.variants[variant].set}
    changed = [key for key in keys if key.partition(".")[0] == "teach"]
    if changed and recipe.teacher.path is not None:
        raise UserError(
            f"it changes {', '.join(changed)}, and its teacher is ready: teacher.path {recipe.teacher.path!r}. "
            "Set teacher.path: null too, and the teacher is trained."
        )


def _all_changes(values: dict[str, Any]) -> Iterator[Changes]:
    """The changes in a comparison's raw values: for every variant, then those of each; not those of a wrong type."""
    variants = values.get("variants")
    sections = [values, *(variants.values() if isinstance(variants, dict) else ())]
    for section in sections:
        if isinstance(section, dict) and isinstance(section.get("set"), dict):
            yield section["set"]


def _anchor(changes: Changes, folder: Path) -> None:
    """Make the relative paths in a comparison's changes absolute; see `paths.anchor`."""
    for key in [key for key in changes if isinstance(key, str)]:
        nested = _nested(key, changes[key])
        paths.anchor(nested, folder)
        for section in key.split("."):
            nested = nested[section]
        changes[key] = nested


def _nested(key: str, value: Any) -> Any:
    """`a.b` and a value -> {a: {b: value}}."""
    for section in reversed(key.split(".")):
        value = {section: value}
    return value


def _lay_over(document: Document[Recipe], changes: Changes, place: KeyPath, origins: Origins) -> None:
    """Merge changes into a recipe's values; `place` is where the comparison's file has them."""
    for key, value in changes.items():
        nested, here, steps = _nested(key, copy.deepcopy(value)), (*place, key), tuple(key.split("."))
        lines = {(*steps, *path[len(here) :]): line for path, line in origins.items() if within(path, here)}
        above: dict[KeyPath, Origin] = {steps[:n]: lines[steps] for n in range(1, len(steps)) if steps in lines}
        document.merge(nested, {**above, **lines})

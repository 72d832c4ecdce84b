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
from dashdeploy.recipe import keys, paths
from dashdeploy.recipe.document import Document, Origin, Origins, within
from dashdeploy.recipe.load import MAX_BYTES, finished, read, read_recipe
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
    start: Text | None = Field(
        None, description="another variant: this one begins with its student of the same seed (`student.init`: run)"
    )
    train_as: Text | None = Field(
        None,
        description="another variant: this one has its `set` and its student of the same seed, and changes only how it "
        "is sampled or measured",
    )

    @property
    def needs(self) -> str | None:
        """The variant whose student has to be there first."""
        return self.start or self.train_as


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

    @model_validator(mode="after")
    def _needs_variants(self) -> Comparison:
        for name, variant in self.variants.items():
            for key in ("start", "train_as"):
                if (other := getattr(variant, key)) is not None and other not in self.variants:
                    raise ValueError(f"variants.{name}.{key}: {unknown('variant', other, self.variants)}")
            if variant.start and variant.train_as:
                raise ValueError(f"variants.{name}: start trains a student and train_as takes one: give one of them")
            if variant.train_as and self.variants[variant.train_as].train_as:
                raise ValueError(
                    f"variants.{name}.train_as: {variant.train_as} has the student of another variant: name that one"
                )
            if self.confirm and name in self.confirm.variants and variant.needs not in (None, *self.confirm.variants):
                raise ValueError(f"confirm: {name} needs the student of {variant.needs}: confirm that one too")
        for name in self.variants:
            path = [name]
            while following := self.variants[path[-1]].needs:
                if following in path:
                    raise ValueError(f"variants: {' → '.join([*path, following])}: a circle of start and train_as")
                path.append(following)
        return self

    def start_of(self, variant: str) -> str | None:
        """The variant whose student a variant's own student begins with."""
        of = self.variants[variant]
        return self.variants[of.train_as].start if of.train_as else of.start

    def root_of(self, variant: str) -> str:
        """The variant that begins the chain of students which this one needs; itself where it needs none."""
        while needed := self.variants[variant].needs:
            variant = needed
        return variant

    @property
    def ordered(self) -> list[str]:
        """The variants in their order, but each after the one whose student it needs."""
        found: dict[str, None] = {}

        def add(name: str) -> None:
            if needed := self.variants[name].needs:
                add(needed)
            found[name] = None

        for name in self.variants:
            add(name)
        return list(found)

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
            _check_student(comparison, variant, recipe)
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

    It extends the comparison's recipe as a recipe's file would: by the comparison's `set`, then by the one of the
    variant whose student it has, then by its own. The path of a student to begin with is only the name of its
    variant, unless `more` says it whole.

    Args:
        more: changes that are laid over all others. None: none.
        origins: the lines of the comparison's keys, for messages. None: the values were validated before.

    Raises:
        UserError: not valid; the message lists every problem with its line.
    """
    document = read_recipe(locate.find("recipes", comparison.recipe))
    _lay_over(document, comparison.set, ("set",), origins or {})
    of = comparison.variants[variant].train_as
    for name in (of, variant) if of is not None else (variant,):
        _lay_over(document, comparison.variants[name].set, ("variants", name, "set"), origins or {})
    start = comparison.start_of(variant)
    begins = {} if start is None else {"student.init": {"kind": "run", "path": start}}
    _lay_over(document, {"seed": seed, **begins, **(more or {})}, (), {})
    return finished(document)


def _check_teacher(comparison: Comparison, variant: str, recipe: Recipe) -> None:
    """Refuse changes of `teach` that a ready teacher would make void."""
    keys = {**comparison.set, **comparison.variants[variant].set}
    changed = [key for key in keys if key.partition(".")[0] == "teach"]
    if changed and recipe.teacher.path is not None:
        raise UserError(
            f"it changes {', '.join(changed)}, and its teacher is ready: teacher.path {recipe.teacher.path!r}. "
            "Set teacher.path: null too, and the teacher is trained."
        )


def _check_student(comparison: Comparison, variant: str, recipe: Recipe) -> None:
    """Refuse changes that the student which a variant takes, or its start, would make void."""
    of = comparison.variants[variant]
    changed = {**comparison.set, **of.set}
    if of.start is not None and any(_names_init(key, value) for key, value in changed.items()):
        raise UserError(f"it changes student.init, and start: {of.start} sets it: leave one of them out")
    if of.start is not None and recipe.distill.objective.fine_tunes:
        _check_fine_tuning(recipe_of(comparison, of.start, comparison.seeds[0]), recipe, of.start)
    if of.train_as is None:
        return
    trained = recipe_of(comparison, of.train_as, comparison.seeds[0])
    both = [
        one.model_dump(mode="json", exclude={"sampling", "bench"}) | {"depends on": keys.depends_on(one, "student")}
        for one in (trained, recipe)
    ]
    if found := next((name for name in both[0] if both[0][name] != both[1][name]), None):
        what = "sampling, which its training reads" if found == "depends on" else found
        raise UserError(
            f"it has the student of {of.train_as}, and their recipes differ in {what}: change only sampling and bench, "
            "or leave train_as out"
        )


def _check_fine_tuning(start: Recipe, recipe: Recipe, name: str) -> None:
    """Refuse a student that is fine-tuned for another solver, other steps or another prediction than its start's."""
    objective, given = recipe.distill.objective, start.distill.objective
    if given.solver != objective.solver:
        raise UserError(
            f"{objective.kind} fine-tunes the student of {name}, which samples by the solver {given.solver}; take a "
            "student of segments or progressive"
        )
    if sorted(given.few_steps) != sorted(objective.few_steps):
        makes = f"makes {' or '.join(map(str, given.few_steps)) or 'any number of'} steps"
        problem = f"{makes}, and its distill.objective.steps asks for {' or '.join(map(str, objective.few_steps))}"
    elif start.student.prediction_type != recipe.student.prediction_type:
        asked = recipe.student.prediction_type
        problem = f"has student.prediction_type {start.student.prediction_type}, and its own is {asked}"
    else:
        return
    raise UserError(f"{objective.kind} fine-tunes the student of {name}, which {problem}: give both the same")


def _names_init(key: str, value: Any) -> bool:
    nested: Any = _nested(key, value).get("student")
    return isinstance(nested, dict) and "init" in nested


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

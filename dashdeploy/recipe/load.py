"""Recipes, and whatever else is YAML with a schema, from files: every problem reported at once, each with its line.

A recipe may extend another: `extends: digits` (a name, or a path relative to the file) takes every value of the other
that the file does not give. Sections are merged key by key; lists and all other values replace what they are laid
over, `null` too; a section that names another `kind` starts anew. The name is not inherited: it names the run folder.
A relative path is relative to the file in which it stands, and in an override to the working folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dashdeploy import locate
from dashdeploy.errors import UserError
from dashdeploy.recipe import paths, yaml_values
from dashdeploy.recipe.document import Document
from dashdeploy.recipe.problems import KeyPath, shown, validation_problems
from dashdeploy.recipe.schema import Recipe

M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 200_000  # a recipe has about 2 kB
EXTENDS = "extends"
NOUNS = {"Recipe": "a recipe", "Comparison": "a comparison", "Target": "an export target", "Package": "a package"}
"""Class of the schema -> what messages call such a file."""
SIGNS = {
    **dict.fromkeys(("student", "distill", EXTENDS), "a recipe"),
    "variants": "a comparison",
    **dict.fromkeys(("backend", "graphs"), "an export target"),
    "package": "a package",
}
"""Top-level keys that only one kind of file has."""
VALIDATE = {
    **dict.fromkeys(("a recipe", "a comparison"), "`dashdeploy recipes validate {}`"),
    **dict.fromkeys(("an export target", "a package"), "`dashdeploy exporters validate {}`"),
}


def load_recipe(source: str | Path, *, overrides: Sequence[str] | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        source: a path, or the name of a recipe that ships with the package; `.yaml` may be left out.
        overrides: ``"distill.steps=200"`` and the like, applied in order; values are YAML. None: none.

    Raises:
        UserError: not found or not valid; the message lists every problem with its line.
    """
    return _overridden(read_recipe(locate.find("recipes", str(source))), overrides)


def load_text(text: str, *, name: str, overrides: Sequence[str] | None = None) -> Recipe:
    """A recipe from YAML text; `name` is what error messages call it.

    Paths in the text stay as they are, so that `resolved_yaml` loads to an equal recipe.
    """
    document = Document(text, name=name, model=Recipe)
    return _overridden(_on_its_base(document, folder=Path(), chain={Path(name): name}), overrides)


def recipe_in(manifest: Mapping[str, Any], *, source: str | Path) -> Recipe:
    """The recipe that a stage's manifest holds; `source` is what messages call the manifest.

    Raises:
        UserError: it is not one, or not of this version.
    """
    return _validated(Recipe, manifest.get("recipe"), ("recipe",), source=source)


def section_in(manifest: Mapping[str, Any], model: type[M], name: str, *, source: str | Path) -> M:
    """One section of the recipe that a stage's manifest holds; the others may be an earlier version's.

    Raises:
        UserError: it is not there, or not of this version.
    """
    recipe = manifest.get("recipe")
    values = recipe.get(name) if isinstance(recipe, dict) else None
    return _validated(model, values, ("recipe", name), source=source)


def _validated(model: type[M], values: Any, place: KeyPath, *, source: str | Path) -> M:
    """The value at `place` of a manifest as a section."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        path, problem = validation_problems(error, values if isinstance(values, dict) else {}, model)[0]
        where = ".".join(map(str, (*place, *path)))
        raise UserError(f"{source}: {where}: {problem}. Make the stage again.") from error


def load_model(model: type[M], path: Path) -> M:
    """Read and validate a YAML file of another schema, such as a deployment target's. See `load_recipe`."""
    return read(model, path).validated()


def read(model: type[M], path: Path) -> Document[M]:
    """The values of a YAML file, not yet validated.

    Raises:
        UserError: it cannot be read, or is no mapping.
    """
    name = _shown(path)
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            noun = model.__name__.lower()
            raise UserError(f"{name}: {size} bytes; a {noun} has at most {MAX_BYTES}. Is it another kind of file?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start}). Is it another kind of file?") from error
    document = Document(text, name=name, model=model)
    _refuse_other_kind(document)
    return document


def _refuse_other_kind(document: Document[M]) -> None:
    """Say which kind of file it is, rather than which keys it lacks and has too many."""
    wanted = NOUNS.get(document.model.__name__)
    signs = {key: noun for key, noun in SIGNS.items() if key in document.values}
    if wanted is None or wanted in signs.values() or not signs:
        return
    key, noun = next(iter(signs.items()))
    command = VALIDATE[noun].format(document.name)
    raise UserError(f"{document.name}: it has `{key}`, so it is {noun}; expected {wanted}. Check it with {command}.")


def read_recipe(path: Path, *, chain: dict[Path, str] | None = None) -> Document[Recipe]:
    """A recipe's values laid over those that it extends, not yet validated.

    Args:
        chain: the recipes that extend this one, outermost first, each with what messages call it. None: none.

    Raises:
        UserError: a file that cannot be read or is not there, or a circle; the message names the chain.
    """
    chain = chain or {}
    if path.resolve() in chain:
        raise UserError(f"{' → '.join([*chain.values(), _shown(path)])}: recipes extend each other in a circle")
    document = read(Recipe, path)
    paths.anchor(document.values, path.parent)
    return _on_its_base(document, folder=path.parent, chain={**chain, path.resolve(): _shown(path)})


def _on_its_base(document: Document[Recipe], *, folder: Path, chain: dict[Path, str]) -> Document[Recipe]:
    if EXTENDS not in document.values:
        return document
    name = document.values[EXTENDS]
    if not isinstance(name, str) or not name:
        document.add((EXTENDS,), f"must be the name of a recipe, or a path relative to this file, got {shown(name)}")
        raise UserError(document.report())
    document.drop(EXTENDS)
    try:
        path = locate.find("recipes", name, folder=folder)
    except UserError as error:
        raise UserError(f"{' → '.join([*chain.values(), name])}: {error}") from error
    base = read_recipe(path, chain=chain)
    base.drop("name")
    base.extend(document)
    return base


def _overridden(document: Document[Recipe], overrides: Sequence[str] | None) -> Recipe:
    for override in overrides or ():
        document.override(override)
    paths.anchor(document.values, Path(), wanted=lambda path: isinstance(document.origin(path), str))
    return finished(document)


def finished(document: Document[Recipe]) -> Recipe:
    """A recipe of values that nothing more is laid over."""
    paths.take_teachers_vae(document.values)
    return document.validated()


def _shown(path: Path) -> str:
    """A path as messages show it: relative to the working folder where it lies below it."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe with every default written out, as YAML that loads to an equal recipe."""
    return yaml_values.dump(recipe.model_dump(mode="json"))

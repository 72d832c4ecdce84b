"""Recipes, and whatever else is YAML with a schema, from files: every problem reported at once, each with its line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, overload

from pydantic import BaseModel, ValidationError

from dashdeploy import locate
from dashdeploy.errors import UserError
from dashdeploy.recipe import yaml_values
from dashdeploy.recipe.document import Document
from dashdeploy.recipe.schema import Recipe

M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 200_000  # a recipe has about 2 kB


def load_recipe(source: str | Path, *, overrides: Sequence[str] | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        source: a path, or the name of a recipe that ships with the package; `.yaml` may be left out.
        overrides: ``"distill.steps=200"`` and the like, applied in order; values are YAML. None: none.

    Raises:
        UserError: not found or not valid; the message lists every problem with its line.
    """
    return load_model(Recipe, locate.find("recipes", str(source)), overrides=overrides)


def load_model(model: type[M], path: Path, *, overrides: Sequence[str] | None = None) -> M:
    """Read and validate a YAML file against a schema: a recipe, or a deployment target. See `load_recipe`."""
    name = os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            noun = model.__name__.lower()
            raise UserError(f"{name}: {size} bytes; a {noun} has at most {MAX_BYTES}. Is it another kind of file?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start}). Is it another kind of file?") from error
    return load_text(text, name=name, overrides=overrides, model=model)


@overload
def load_text(text: str, *, name: str, overrides: Sequence[str] | None = None) -> Recipe: ...
@overload
def load_text(text: str, *, name: str, overrides: Sequence[str] | None = None, model: type[M]) -> M: ...
def load_text(
    text: str, *, name: str, overrides: Sequence[str] | None = None, model: type[BaseModel] = Recipe
) -> BaseModel:
    """Validate YAML text against a schema; `name` is what its error messages call it. See `load_recipe`."""
    document = Document(text, name=name, model=model)
    for override in overrides or ():
        document.override(override)
    found = None
    try:
        found = model.model_validate(document.values)
    except ValidationError as error:
        document.add_validation_problems(error)
    if found is None or document.problems:
        raise UserError(document.report())
    return found


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe with every default written out, as YAML that loads to an equal recipe."""
    return yaml_values.dump(recipe.model_dump(mode="json"))

"""The base of a recipe's sections, and the types of their values: strict numbers, lists without repeats.

The bounds are part of these types. Only so does the JSON Schema keep them for values that may be null and for the items
of lists. For other bounds write ``Annotated[int, Field(ge=4), WHOLE]``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError


def _numeric(problem: Literal["int_type", "float_type"]) -> BeforeValidator:
    """Refuse what pydantic would convert: `seed: yes` to 1, `steps: "5"` to 5. `steps: 1e4` stays allowed."""

    def check(value: Any) -> Any:
        if isinstance(value, bool | str):
            raise PydanticKnownError(problem)
        return value

    return BeforeValidator(check)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"value {index} (counted from 0) repeats value {values.index(value)}")
    return values


def _no_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path cannot hold a NUL character")
    return path


WHOLE = _numeric("int_type")
REAL = _numeric("float_type")
DISTINCT = AfterValidator(_distinct)

Whole = Annotated[int, WHOLE]
Positive = Annotated[int, Field(ge=1), WHOLE]
Count = Annotated[int, Field(ge=0), WHOLE]
Number = Annotated[float, REAL]
Coefficient = Annotated[float, Field(ge=0), REAL]
Text = Annotated[str, Field(min_length=1)]
FilePath = Annotated[str, Field(min_length=1), AfterValidator(_no_nul)]


class Model(BaseModel):
    """Base of every section: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def may_extend(schema: dict[str, Any]) -> None:
    """Add `extends` to a JSON Schema. It is a key of the file only: `recipe/load.py` resolves it before validation."""
    extends = {
        "type": "string",
        "minLength": 1,
        "description": "another recipe (a name, or a path relative to this file), from which all is taken that this "
        "file leaves out. Sections merge key by key; lists and other values replace; another kind starts anew",
    }
    schema["properties"] = {"name": schema["properties"].pop("name"), "extends": extends, **schema["properties"]}
    schema["required"] = ["name"]
    schema["anyOf"] = [{"required": ["student"]}, {"required": ["extends"]}]

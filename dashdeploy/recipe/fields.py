"""The base of a recipe's sections, and the kinds of value that keys hold: strict numbers, lists without repeats.

Bounds stand inside of these types, because only there the JSON Schema takes them over for values that may be
null or that are items of a list. Other bounds: ``Annotated[int, Field(ge=4), WHOLE]``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError


def _numeric(problem: Literal["int_type", "float_type"]) -> BeforeValidator:
    """Pydantic alone would read `seed: yes` as 1 and `steps: "5"` as 5. `steps: 1e4` is meant, and stays allowed."""

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


WHOLE = _numeric("int_type")
REAL = _numeric("float_type")
DISTINCT = AfterValidator(_distinct)

Whole = Annotated[int, WHOLE]
Positive = Annotated[int, Field(ge=1), WHOLE]
Count = Annotated[int, Field(ge=0), WHOLE]
Number = Annotated[float, REAL]
Coefficient = Annotated[float, Field(ge=0), REAL]
Text = Annotated[str, Field(min_length=1)]


class Model(BaseModel):
    """Base of every section: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

"""The base of a recipe's sections, and the types of their values: strict numbers within limits, lists without repeats.

The bounds are part of these types. Only so does the JSON Schema keep them for values that may be null and for the items
of lists. For other bounds write ``Annotated[int, Field(ge=4, le=99), WHOLE]``. Every number has an upper bound: far
above what anybody needs, and low enough that a slip of the hand (`steps: 10000000000`) is told at once, and does not
end in a full memory or in numbers that the libraries below cannot hold.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError


def _numeric(problem: Literal["int_type", "float_type"]) -> BeforeValidator:
    """Refuse what pydantic would convert: `seed: yes` to 1, `steps: "5"` to 5. `steps: 1e4` stays allowed.

    A number beyond ±MOST is refused here too: a bound of the type would take the place of a field's own.
    """

    def check(value: Any) -> Any:
        if isinstance(value, bool | str):
            raise PydanticKnownError(problem)
        if problem == "float_type" and isinstance(value, int | float) and MOST < abs(value) < math.inf:
            if value > 0:
                raise PydanticKnownError("less_than_equal", {"le": MOST})
            raise PydanticKnownError("greater_than_equal", {"ge": -MOST})
        return value

    return BeforeValidator(check)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"value {index} (counted from 0) repeats value {values.index(value)}")
    return values


def _plain(text: str) -> str:
    """Refuse what no file name, terminal or C string takes: NUL, escape sequences, halves of surrogate pairs."""
    if found := [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]:
        raise ValueError(f"has the control character {found[0]!r}")
    return text


MOST = 10**9
"""Of anything that is counted: steps, say. A step of a millisecond makes this twelve days."""
WHOLE = _numeric("int_type")
REAL = _numeric("float_type")
DISTINCT = AfterValidator(_distinct)

Positive = Annotated[int, Field(ge=1, le=MOST), WHOLE]
Count = Annotated[int, Field(ge=0, le=MOST), WHOLE]
Seed = Annotated[int, Field(ge=0, lt=2**63), WHOLE]
"""torch and numpy take 64 bits, torch with a sign."""
MOST_THREADS = 1024
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS), WHOLE]
"""Each one is started, and takes its stack; the largest machines have some hundred cores."""
Batch = Annotated[int, Field(ge=1, le=65_536), WHOLE]
"""A whole batch lies in memory: of 3×32×32 float32 as many take 0.8 GB, and a network's activations a multiple."""
Images = Annotated[int, Field(le=1_000_000), WHOLE]
"""Images, draws or pairs that are kept in memory together. It has no lower bound: each field has its own."""
Side = Annotated[int, Field(ge=4, le=4096), WHOLE]
"""Of an image in pixels: one of 3×4096×4096 float32 takes 0.2 GB."""
Bins = Annotated[int, Field(le=1000), WHOLE]
"""Ranges of t: no schedule in use has more timesteps than some thousand."""
Timesteps = Annotated[int, Field(ge=1, le=100_000), WHOLE]
"""Of a noise schedule, or visited by a sampler."""
Repeats = Annotated[int, Field(le=100_000), WHOLE]
"""Repetitions of a measurement, and resamples of its figures."""
Number = Annotated[float, REAL]
MOST_SCALE = 1_000_000
Coefficient = Annotated[float, Field(ge=0, le=MOST_SCALE), REAL]
"""A guidance scale, or a weight of a loss: float32 keeps no digits of what it is added to beyond this."""
Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_plain)]
NAME = r"^[a-z0-9][a-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
"""Names a folder, beside which others of longer names are made; file systems take 255 bytes."""


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

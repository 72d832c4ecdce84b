"""A YAML document on its way to a schema: its values, where each came from, overrides, and all problems so far."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from dashdeploy.errors import UserError
from dashdeploy.recipe.problems import UNREADABLE, KeyPath, begin, cut, shown, validation_problems
from dashdeploy.recipe.yaml_values import NotReadableError, Reading

Origin = int | str  # a line of the file, or the text of an override


class Document:
    """Raw values meant for `model`; `name` is what error messages call their file.

    Raises:
        UserError: not YAML, not a mapping, or too large; milder problems are kept for `report`.
    """

    def __init__(self, text: str, *, name: str, model: type[BaseModel]) -> None:
        self.name, self.model = name, model
        try:
            reading = Reading(text)
        except NotReadableError as error:
            raise UserError(f"{name}: {error}") from error
        self.origins: dict[KeyPath, Origin] = {(): 1, **reading.lines}
        self.problems: list[tuple[Origin, KeyPath, str]] = list(reading.problems)
        if reading.value is UNREADABLE:
            raise UserError(self.report())
        if not isinstance(reading.value, dict):
            keys = ", ".join(f"`{key}: …`" for key, field in model.model_fields.items() if field.is_required())
            got = "nothing" if reading.value is None else shown(reading.value)
            raise UserError(f"{name}: expected sections ({keys}) at the top level, got {got}")
        self.values: dict[str, Any] = reading.value

    def add(self, origin: Origin, path: KeyPath, message: str) -> None:
        self.problems.append((origin, path, message))

    def override(self, text: str) -> None:
        """Apply one `key.path=value`; sections on the way are created, a list is reached into by index."""
        key, equals, value_text = text.partition("=")
        steps = [int(step) if re.fullmatch("[0-9]{1,6}", step) else step for step in key.strip().split(".")]
        if not equals or "" in steps:
            return self.add(text, (), "expected key.path=value, such as distill.steps=200")
        try:
            reading = Reading(value_text)
        except NotReadableError as error:
            return self.add(text, (), f"the value is not YAML: {error}")
        for _, below, message in reading.problems:
            self.add(text, (*steps, *below), message)

        target: Any = self.values
        path: KeyPath = ()
        for step in steps:
            if isinstance(target, list):
                if not isinstance(step, int) or step > len(target):
                    return self.add(text, path, f"is a list of {len(target)}; give an index from 0 to {len(target)}")
                target.extend([None] * (step == len(target)))
            elif isinstance(target, dict):
                step = str(step)
                target.setdefault(step, None)
            else:
                return self.add(text, path, f"is {shown(target)} and has no keys; set it as a whole")
            path = (*path, step)
            if len(path) == len(steps):
                target[step] = reading.value
            elif target[step] is None:
                target[step] = begin(path, self.values, self.model)
                self.origins[path] = text
            target = target[step]
        self.origins = {key: origin for key, origin in self.origins.items() if key[: len(path)] != path}
        self.origins[path] = text

    def add_validation_problems(self, error: ValidationError) -> None:
        """Take over pydantic's problems; a key that is missing has the origin of its section."""
        for path, message in validation_problems(error, self.values, self.model):
            known = next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self.origins)
            self.add(self.origins[known], path, message)

    def report(self) -> str:
        """`recipes/x.yaml: 2 problems`, then one line for each: by line of the file, then the overrides."""
        lines = []
        for origin, path, message in sorted(self.problems, key=lambda p: p[0] if isinstance(p[0], int) else 1 << 31):
            label = f"line {origin}" if isinstance(origin, int) else f"--set {cut(origin)}"
            dotted = ".".join(str(step) if str(step).isprintable() else repr(step) for step in path)
            said_by_label = isinstance(origin, str) and origin.partition("=")[0].strip() == dotted
            lines.append(f"  {label}: {message}" if said_by_label or not path else f"  {label}: {dotted}: {message}")
        return "\n".join([f"{self.name}: {len(lines)} problem{'s' if len(lines) != 1 else ''}", *lines])

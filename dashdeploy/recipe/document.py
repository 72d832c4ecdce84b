"""A YAML document on its way to a schema: its values, where each came from, what is laid over them, all problems."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from dashdeploy.errors import UserError
from dashdeploy.recipe.problems import UNREADABLE, KeyPath, begin, cut, shown, validation_problems
from dashdeploy.recipe.yaml_values import NotReadableError, Reading

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Line:
    """A line of a file, counted from 1."""

    file: str
    number: int


Origin = Line | str  # str: the text of an override
Origins = Mapping[KeyPath, Origin]


def within(path: KeyPath, section: KeyPath) -> bool:
    """Whether a key path is that of a section, or of anything in it."""
    return path[: len(section)] == section


class Document(Generic[M]):
    """Raw values meant for `model`; `name` is what error messages call their file.

    Raises:
        UserError: not YAML, not a mapping, or too large; milder problems are kept for `validated`.
    """

    def __init__(self, text: str, *, name: str, model: type[M]) -> None:
        self.name, self.model = name, model
        try:
            reading = Reading(text)
        except NotReadableError as error:
            raise UserError(f"{name}: {error}") from error
        self.origins: dict[KeyPath, Origin] = {path: Line(name, n) for path, n in {(): 1, **reading.lines}.items()}
        self.problems: list[tuple[Origin, KeyPath, str]] = [
            (Line(name, n), path, message) for n, path, message in reading.problems
        ]
        if reading.value is UNREADABLE:
            raise UserError(self.report())
        if not isinstance(reading.value, dict):
            keys = ", ".join(f"`{key}: …`" for key, field in model.model_fields.items() if field.is_required())
            got = "nothing" if reading.value is None else shown(reading.value)
            raise UserError(f"{name}: expected sections ({keys}) at the top level, got {got}")
        self.values: dict[str, Any] = reading.value

    def add(self, path: KeyPath, message: str, origin: Origin | None = None) -> None:
        """Note a problem. None: the origin of its key."""
        self.problems.append((origin or self.origin(path), path, message))

    def origin(self, path: KeyPath) -> Origin:
        """Where the value at a key path came from, or the nearest section around it that has an origin."""
        return next(self.origins[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.origins)

    def drop(self, key: str) -> None:
        """Take a top-level key out, if it is there."""
        self.values.pop(key, None)
        self._forget((key,))

    def extend(self, above: Document[M]) -> None:
        """Lay another document over this one; the two are then reported under the other's name."""
        self.name = above.name
        self.problems += above.problems
        self.merge(above.values, above.origins)

    def merge(self, values: Mapping[str, Any], origins: Origins, path: KeyPath = ()) -> None:
        """Lay values over those at `path`: sections key by key, everything else (lists, numbers, null) as a whole.

        A section that names another `kind` than the one below it starts anew.
        """
        section = self.values
        for step in path:
            section = section[str(step)]
        self._note(path, origins)
        for key, value in values.items():
            here = (*path, key)
            default = begin(here, self.values, self.model)
            if section.get(key) is None and isinstance(value, dict) and "kind" not in value:
                section[key] = default
            if self._continues(value, section.get(key), default):
                self.merge(value, origins, here)
                continue
            self._forget(here)
            section[key] = value
            for each in [each for each in origins if within(each, here)]:
                self._note(each, origins)

    @staticmethod
    def _continues(value: Any, below: Any, default: Any) -> bool:
        """Whether a value changes keys of the section below it, which has the default kind where it names none."""
        if not (isinstance(value, dict) and isinstance(below, dict)):
            return False
        kind = below.get("kind", default.get("kind") if isinstance(default, dict) else None)
        return bool(value.get("kind", kind) == kind)

    def _note(self, path: KeyPath, origins: Origins) -> None:
        if path in origins:
            self.origins[path] = origins[path]

    def _forget(self, path: KeyPath) -> None:
        """Drop the origins of a value that is replaced, and of all below it."""
        self.origins = {key: origin for key, origin in self.origins.items() if not within(key, path)}

    def override(self, text: str) -> None:
        """Apply one `key.path=value`; sections on the way are created, a list is reached into by index."""
        key, equals, value_text = text.partition("=")
        steps = [int(step) if re.fullmatch("[0-9]{1,6}", step) else step for step in key.strip().split(".")]
        if not equals or "" in steps:
            return self.add((), "expected key.path=value, such as distill.steps=200", text)
        try:
            reading = Reading(value_text)
        except NotReadableError as error:
            return self.add((), f"the value is not YAML: {error}", text)
        for _, below, message in reading.problems:
            self.add((*steps, *below), message, text)

        target: Any = self.values
        path: KeyPath = ()
        for step in steps:
            if isinstance(target, list):
                if not isinstance(step, int) or step > len(target):
                    return self.add(path, f"is a list of {len(target)}; give an index from 0 to {len(target)}", text)
                target.extend([None] * (step == len(target)))
            elif isinstance(target, dict):
                step = str(step)
                target.setdefault(step, None)
            else:
                return self.add(path, f"is {shown(target)} and has no keys; set it as a whole", text)
            path = (*path, step)
            if len(path) == len(steps):
                target[step] = reading.value
            elif target[step] is None:
                target[step] = begin(path, self.values, self.model)
                self.origins[path] = text
            target = target[step]
        self._forget(path)
        self.origins[path] = text

    def validated(self) -> M:
        """The values as the schema reads them.

        Raises:
            UserError: every problem, each with its line or override.
        """
        model = None
        try:
            model = self.model.model_validate(self.values)
        except ValidationError as error:
            for path, message in validation_problems(error, self.values, self.model):
                self.add(path, message)
        if model is None or self.problems:
            raise UserError(self.report())
        return model

    def report(self) -> str:
        """`recipes/x.yaml: 2 problems`, then one line for each: of this file, of those below it, of the overrides."""
        lines = []
        for origin, path, message in sorted(self.problems, key=lambda problem: self._place(problem[0])):
            dotted = ".".join(str(step) if str(step).isprintable() else repr(step) for step in path)
            if isinstance(origin, Line):
                label = f"line {origin.number}" if origin.file == self.name else f"{origin.file} line {origin.number}"
            else:
                label = f"--set {cut(origin)}"
            said_by_label = isinstance(origin, str) and origin.partition("=")[0].strip() == dotted
            lines.append(f"  {label}: {message}" if said_by_label or not path else f"  {label}: {dotted}: {message}")
        return "\n".join([f"{self.name}: {len(lines)} problem{'s' if len(lines) != 1 else ''}", *lines])

    def _place(self, origin: Origin) -> tuple[int, str, int]:
        if isinstance(origin, str):
            return 2, "", 0
        return int(origin.file != self.name), origin.file, origin.number

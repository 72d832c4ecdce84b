"""Recipes from YAML and `--set` overrides: every problem reported at once, each with its line.

From top to bottom: the functions that others call, the document with its overrides, YAML to values, and the
wording of problems. They are one file because they share the two things that nothing else sees: a document's
key paths and the origin of each.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from dashdeploy import locate
from dashdeploy.errors import UserError
from dashdeploy.recipe.problems import UNREADABLE, KeyPath, begin, cut, shown, validation_problems
from dashdeploy.recipe.schema import Recipe

M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 200_000  # a recipe has about 2 kB
MAX_VALUES = 20_000  # counted with aliases expanded, against files that grow exponentially
MAX_DEPTH = 50

Origin = int | str  # a line of the file, or the text of an override


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
            raise UserError(f"{name}: {size} bytes; a recipe has at most {MAX_BYTES}. Is it another kind of file?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start}). Is it another kind of file?") from error
    return validate(model, text, name=name, overrides=overrides)


def load_text(text: str, *, name: str, overrides: Sequence[str] | None = None) -> Recipe:
    """Validate a recipe given as YAML text; `name` is what its error messages call it. See `load_recipe`."""
    return validate(Recipe, text, name=name, overrides=overrides)


def validate(model: type[M], text: str, *, name: str, overrides: Sequence[str] | None = None) -> M:
    """Validate YAML text against a schema; every problem in one UserError."""
    document = parse(text, name=name, model=model)
    for override in overrides or ():
        document.override(override)
    found = None
    try:
        found = model.model_validate(document.values)
    except ValidationError as error:
        document.add_validation_problems(error)
    if found is None or document.problems:
        raise UserError(document.report(name))
    return found


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe with every default written out, as YAML that loads to an equal recipe."""
    values = recipe.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def recipe_hash(recipe: Recipe, *, sections: Sequence[str] | None = None) -> str:
    """SHA-256 (hex) of the resolved values as canonical JSON; of some top-level keys only, or None: of all."""
    if unknown := set(sections or ()) - set(Recipe.model_fields):
        raise ValueError(f"not keys of a recipe: {sorted(unknown)}")
    values = recipe.model_dump(mode="json", include=None if sections is None else set(sections))
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse(text: str, *, name: str, model: type[BaseModel] = Recipe) -> Document:
    """YAML text to raw values with the line of each; keys are always text.

    Raises:
        UserError: not YAML, not a mapping, or too large; milder problems are kept in the document.
    """
    document = Document(model)
    try:
        values = _read(text, document)
    except _NotReadableError as error:
        raise UserError(f"{name}: {error}") from error
    if values is UNREADABLE:
        raise UserError(document.report(name))
    if not isinstance(values, dict):
        got = "nothing" if values is None else shown(values)
        raise UserError(f"{name}: expected sections (`name: …`, `student: …`) at the top level, got {got}")
    document.values = values
    return document


@dataclass
class Document:
    """A file's raw values, where each of them came from, and the problems found so far."""

    model: type[BaseModel] = Recipe
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=lambda: {(): 1})
    problems: list[tuple[Origin, KeyPath, str]] = field(default_factory=list)

    def add(self, origin: Origin, path: KeyPath, message: str) -> None:
        self.problems.append((origin, path, message))

    def override(self, text: str) -> None:
        """Apply one `key.path=value`; sections on the way are created, a list is reached into by index."""
        key, equals, value_text = text.partition("=")
        steps = [int(step) if re.fullmatch("[0-9]{1,6}", step) else step for step in key.strip().split(".")]
        if not equals or "" in steps:
            return self.add(text, (), "expected key.path=value, such as distill.steps=200")
        parsed = Document()
        try:
            value = _read(value_text, parsed)
        except _NotReadableError as error:
            return self.add(text, (), f"the value is not YAML: {error}")
        for _, path, message in parsed.problems:
            self.add(text, (*steps, *path), message)

        target: Any = self.values
        path = ()
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
                target[step] = value
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

    def report(self, name: str) -> str:
        """`recipes/x.yaml: 2 problems`, then one line for each: by line of the file, then the overrides."""
        lines = []
        for origin, path, message in sorted(self.problems, key=lambda p: p[0] if isinstance(p[0], int) else 1 << 31):
            label = f"line {origin}" if isinstance(origin, int) else f"--set {cut(origin)}"
            dotted = ".".join(str(step) if str(step).isprintable() else repr(step) for step in path)
            said_by_label = isinstance(origin, str) and origin.partition("=")[0].strip() == dotted
            lines.append(f"  {label}: {message}" if said_by_label or not path else f"  {label}: {dotted}: {message}")
        return "\n".join([f"{name}: {len(lines)} problem{'s' if len(lines) != 1 else ''}", *lines])


# YAML to values


class _NotReadableError(Exception):
    """Text that is not YAML or that is too large, with the place."""


class _Loader(yaml.SafeLoader):
    """SafeLoader, but `1e-4` is a number (YAML 1.1 wants `1.0e-4`) and a date stays text."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper, with lists on one line, and quotes round a text that `_Loader` would take for a number."""


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        f"{_TAG}float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
    )
_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence(f"{_TAG}seq", data, flow_style=True))


def _read(text: str, document: Document) -> Any:
    """Values of a YAML text, built from its node tree, because only nodes know their lines and repeated keys."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return None if root is None else _value(root, (), document, loader, itertools.count(1))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _NotReadableError(place + ", ".join(filter(None, (error.problem, error.context)))) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _NotReadableError(f"line {line}: character U+{ord(text[error.position]):04X} is not allowed") from error
    except RecursionError as error:
        raise _NotReadableError("nested too deeply") from error


def _value(node: yaml.Node, path: KeyPath, document: Document, loader: _Loader, count: Iterator[int]) -> Any:
    if next(count) > MAX_VALUES or len(path) > MAX_DEPTH:
        raise _NotReadableError(f"more than {MAX_VALUES} values with aliases expanded, or {MAX_DEPTH} levels")
    line = node.start_mark.line + 1
    try:
        if isinstance(node, yaml.ScalarNode):
            return loader.construct_object(node)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            raise ValueError
    except (yaml.YAMLError, ValueError, LookupError, AttributeError):  # PyYAML for 0x_, !!bool abc, …
        got = shown(node.value) if isinstance(node, yaml.ScalarNode) else "it"
        document.add(line, path, f"cannot read {got} as {node.tag.replace(_TAG, '!!')}")
        return UNREADABLE
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.origins[*path, index] = item.start_mark.line + 1
        return [_value(item, (*path, index), document, loader, count) for index, item in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key, str) or key_node.tag == f"{_TAG}merge":
            document.add(line, path, "merge keys (<<), and keys that are lists or mappings, are not supported")
        elif key in mapping:
            document.add(line, (*path, key), f"given twice, first on line {document.origins[*path, key]}")
        else:
            document.origins[*path, key] = line
            mapping[key] = None
            mapping[key] = _value(value_node, (*path, key), document, loader, count)
    return mapping

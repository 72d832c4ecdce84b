"""YAML text to plain values, each with its line, and back."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import yaml

from dashdeploy.recipe.problems import UNREADABLE, KeyPath, shown

MAX_VALUES = 20_000  # counted with aliases expanded, against files that grow exponentially
MAX_DEPTH = 50
ODD_NUMBER = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+)")
"""What YAML 1.1 takes for a number of base 8 or 60, and a person for a decimal one or a time."""


class NotReadableError(Exception):
    """The text is not YAML, or too large; the message names the place."""


class Reading:
    """What a YAML text holds.

    Attributes:
        value: plain values; keys are always text; UNREADABLE stands for values that `problems` lists.
        lines: the line (from 1) of every key and list item below the root.
        problems: (line, key path, text) of each value or key that cannot be read.

    Raises:
        NotReadableError: not YAML, or too large.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[tuple[int, KeyPath, str]] = []
        self._count: Iterator[int] = itertools.count(1)
        try:
            self._loader = _Loader(text)
            # Built from the node tree, because only nodes know their lines and repeated keys.
            root = self._loader.get_single_node()
            self.value = None if root is None else self._value(root, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            raise NotReadableError(place + ", ".join(filter(None, (error.problem, error.context)))) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise NotReadableError(
                f"line {line}: character U+{ord(text[error.position]):04X} is not allowed"
            ) from error
        except RecursionError as error:
            raise NotReadableError("nested too deeply") from error

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if next(self._count) > MAX_VALUES or len(path) > MAX_DEPTH:
            raise NotReadableError(f"more than {MAX_VALUES} values with aliases expanded, or {MAX_DEPTH} levels")
        try:
            if isinstance(node, yaml.ScalarNode):
                if node.tag == f"{_TAG}int" and ODD_NUMBER.fullmatch(node.value):
                    self.problems.append((node.start_mark.line + 1, path, _odd(node.value)))
                    return UNREADABLE
                return self._loader.construct_object(node)
            if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
                raise ValueError
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):  # PyYAML for 0x_, !!bool abc, …
            got = shown(node.value) if isinstance(node, yaml.ScalarNode) else "it"
            line = node.start_mark.line + 1
            self.problems.append((line, path, f"cannot read {got} as {node.tag.replace(_TAG, '!!')}"))
            return UNREADABLE
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[*path, index] = item.start_mark.line + 1
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key, str) or key_node.tag == f"{_TAG}merge":
                refused = "merge keys (<<), and keys that are lists or mappings, are not supported"
                self.problems.append((line, path, refused))
            elif key in mapping:
                first = self.lines[*path, key]
                self.problems.append((line, (*path, key), f"given twice, first on line {first}"))
            else:
                self.lines[*path, key] = line
                mapping[key] = None
                mapping[key] = self._value(value_node, (*path, key))
        return mapping


def _odd(text: str) -> str:
    return f"YAML reads {shown(text)} as {yaml.safe_load(text)}; write the number that you mean, in decimal digits"


def dump(values: dict[str, Any]) -> str:
    """YAML that loads to equal values, with the keys in the given order and each list on one line."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """SafeLoader, but `1e-4` is a number (in YAML 1.1 only `1.0e-4` is) and a date stays text."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper, with lists on one line and quotes around text that `_Loader` would read as a number."""


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

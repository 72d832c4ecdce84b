"""Pydantic's problems in the file's terms: key paths without union labels, known keys, nearest names."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dashdeploy.errors import nearest
from dashdeploy.fields import NAME

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]  # ("bench", "quality", "guidance", 0)
UNREADABLE = object()  # stands for a value that was reported already


def sections(path: KeyPath, values: Any, root: type[BaseModel]) -> list[type[BaseModel]]:
    """The section classes that the value at `path` may have; of a union only those with its `kind`."""
    classes: list[type[BaseModel]] = [root]
    of_any_name = False  # as the variants of a comparison
    for step in path:
        has_children = isinstance(values, dict | list)
        values = values[step] if has_children else None
        if of_any_name:
            of_any_name = False
        elif isinstance(step, str):
            fields = [cls.model_fields[step] for cls in classes if step in cls.model_fields]
            classes = [cls for field in fields for cls in _classes_in(field.annotation)]
            of_any_name = any(get_origin(field.annotation) is dict for field in fields)
    kind = values.get("kind") if isinstance(values, dict) else None
    of_kind = [c for c in classes if "kind" in c.model_fields and kind in get_args(c.model_fields["kind"].annotation)]
    return of_kind or classes


def _classes_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for argument in get_args(annotation) for cls in _classes_in(argument)]


def begin(path: KeyPath, values: dict[str, Any], root: type[BaseModel]) -> Any:
    """What an absent value starts as when something inside it is set: its default list, or its default kind."""
    for cls in sections(path[:-1], values, root):
        default = cls.model_fields[str(path[-1])].default if path[-1] in cls.model_fields else None
        if isinstance(default, tuple):
            return [item.model_dump() if isinstance(item, BaseModel) else item for item in default]
        if kind := getattr(default, "kind", None):
            return {"kind": kind}
    return {}


PATTERNS = {
    NAME: "must be a name of small letters, digits and . _ -, with no sign at its beginning",
    r"^[A-Za-z0-9][A-Za-z0-9_-]*$": "must be a name of letters, digits and _ -, with no sign at its beginning",
}
"""The patterns of fields, in words."""
_WORDING = {
    "missing": "required key is missing",
    "greater_than": "must be > {gt}, got {got}",
    "greater_than_equal": "must be ≥ {ge}, got {got}",
    "less_than": "must be < {lt}, got {got}",
    "less_than_equal": "must be ≤ {le}, got {got}",
    "string_type": "must be text (in quotes if it looks like a number), got {got}",
    "string_pattern_mismatch": "{pattern}, got {got}",
    "string_too_long": "must have at most {max_length} characters, got {got}",
    "too_short": "must have {min_length} or more values, got {got}",
    "tuple_type": "must be a list, got {got}",
    "model_type": "must be a section (`key: value` lines), got {got}",
    "model_attributes_type": "must be a section (`key: value` lines), got {got}",
    "value_error": "{error}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number, got {got}"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number, got {got}"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false, got {got}"),
}


def validation_problems(
    error: ValidationError, values: dict[str, Any], root: type[BaseModel]
) -> list[tuple[KeyPath, str]]:
    """Key path and text of each problem; of a union, only the problems of the arm that the value is meant for."""
    errors = [details for details in error.errors(include_url=False) if not _is_echo(details)]
    placed = [(details, *_key_path(details, values)) for details in errors]
    meant = [item for item in placed if not (item[2] and _is_of_other_arm(item[0]))]
    worded = [(d["type"], *_worded(d, path, values, root, at_arm=at_arm)) for d, path, at_arm in meant or placed]
    # Of number | word: one problem, not two.
    words = {path for kind, path, _ in worded if kind == "literal_error"}
    numbers = {path for kind, path, _ in worded if kind.startswith("float_") and path in words}
    return [
        (path, text.replace("must be ", "must be a number or ", 1) if path in numbers else text)
        for kind, path, text in worded
        if not (kind.startswith("float_") and path in numbers)
    ]


def _is_echo(details: ErrorDetails) -> bool:
    """Whether this problem only follows from another one, which is reported too."""
    got = details["input"]
    if details["type"] == "too_short":  # pydantic counts only the valid items
        return isinstance(got, list) and len(got) >= details["ctx"]["min_length"]
    return got is UNREADABLE or details["type"] == "default_factory_not_called"


def _key_path(details: ErrorDetails, values: Any) -> tuple[KeyPath, bool]:
    """Pydantic's location without its labels of union arms, and whether it ended with such a label."""
    path: KeyPath = ()
    at_arm = False
    for index, step in enumerate(details["loc"], start=1):
        is_absent_key = details["type"] == "missing" and index == len(details["loc"])
        at_arm = not (is_absent_key or isinstance(step, int) or (isinstance(values, dict) and step in values))
        if not at_arm:
            path = (*path, step)
            values = None if is_absent_key else values[step]
    return path, at_arm


def _is_of_other_arm(details: ErrorDetails) -> bool:
    """Of number | section: "must be a number" about a section, or "must be a section" about anything else."""
    wants_section = details["type"] in ("model_type", "model_attributes_type")
    return details["type"].endswith("_type") and wants_section != isinstance(details["input"], dict)


def _worded(
    details: ErrorDetails, path: KeyPath, values: Any, root: type[BaseModel], *, at_arm: bool
) -> tuple[KeyPath, str]:
    kind, context, got = details["type"], details.get("ctx", {}), shown(details["input"])
    if at_arm and kind.startswith("float_") and sections(path, None, root):
        keys = list(dict.fromkeys(key for cls in sections(path, None, root) for key in cls.model_fields))
        return path, f"must be a number or a section (keys: {', '.join(keys)}), got {got}"
    if kind == "extra_forbidden":
        keys = [key for cls in sections(path[:-1], values, root) for key in cls.model_fields]
        return path, f"unknown key{_did_you_mean(path[-1], keys)}{_known(keys)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [str(arm.model_fields["kind"].default) for arm in sections(path, None, root)]
        if kind == "union_tag_not_found":
            return path, f"needs a kind{_known(kinds)}"
        return (*path, "kind"), f"unknown {context['tag']!r}{_did_you_mean(context['tag'], kinds)}{_known(kinds)}"
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", context["expected"])
        return path, f"must be {context['expected']}, got {got}{_did_you_mean(details['input'], choices)}"
    if kind == "string_pattern_mismatch":
        context = {"pattern": PATTERNS.get(context["pattern"], f"must match {context['pattern']}")}
    if kind in _WORDING:
        return path, _WORDING[kind].format(**{name: _bound(value) for name, value in context.items()}, got=got)
    return path, f"{re.sub('^[A-Z][a-z]+ should ', 'must ', details['msg'])}, got {got}"


def _bound(value: Any) -> Any:
    """A whole number with all its digits, 1e9 as well as 10**9; others shortened."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{int(value):,}" if value == int(value) else f"{value:g}"
    return value


def _known(names: list[str]) -> str:
    return f" (known: {', '.join(names)})" if names else ""


def _did_you_mean(name: Any, choices: list[str]) -> str:
    guess = nearest(str(name), choices)
    return f"; did you mean {guess!r}?" if guess else ""


def shown(value: Any) -> str:
    return cut(repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"

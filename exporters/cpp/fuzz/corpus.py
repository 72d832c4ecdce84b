"""A corpus for the fuzz target: manifests that differ from a valid one in one place, for every property of its schema.

    dashdeploy exporters schema --artifact > schema.json
    python corpus.py artifact/manifest.json schema.json corpus/

Some of them are still valid (another value of an enumeration, a key that no reader knows). Needs Python alone.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Step = str | int
Schema = dict[str, Any]

TYPES: dict[str, type | tuple[type, ...]] = {
    **{"object": dict, "array": list, "string": str, "boolean": bool},
    **{"integer": int, "number": (int, float), "null": type(None)},
}
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
OTHERS: tuple[Any, ...] = (None, True, 7, 0.5, "text", [], {})
"""A value of each type."""
LITERALS = ("NaN", "Infinity", "1e400", "-1e400", r'"\ud800"', r'"\u0000"')
"""What Python's json would not write: numbers that are not finite, half a surrogate pair, and a zero in a text."""
STRINGS = ("", "../text", "/text", "a/b", "A" * 64, "x" * 300, "x" * 5000, "a\nb")
MISSING = object()


class Mutation(NamedTuple):
    """A manifest that differs from the valid one at `path`, and how."""

    path: tuple[Step, ...]
    kind: str
    text: str


def mutations(manifest: dict[str, Any], schema: Schema) -> Iterator[Mutation]:
    """Every mutation of every property; of a list's or a map's entries, of the first and the last.

    Args:
        manifest: valid under the schema.
        schema: JSON Schema as pydantic writes it, its references within `$defs`.
    """
    for path, part in places(schema, manifest, schema["$defs"]):
        if not path:
            continue
        for kind, value in values(part, at(manifest, path)):
            yield Mutation(path, kind, with_value(manifest, path, value))
        for literal in LITERALS:
            yield Mutation(path, literal.strip('"'), with_literal(manifest, path, literal))
        if isinstance(path[-1], str):
            yield Mutation(path, "missing", with_value(manifest, path, MISSING))
            yield Mutation(path, "twice", with_second(manifest, path))


def places(schema: Schema, value: Any, defs: dict[str, Schema], path: tuple[Step, ...] = ()) -> Iterator[Any]:
    """(path, its schema) of a value and of everything in it."""
    schema = branch(schema, value, defs)
    yield path, schema
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        free = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
        for key in value if properties else ends(list(value)):
            inner = properties.get(key, free)
            if isinstance(inner, dict):
                yield from places(inner, value[key], defs, (*path, key))
    elif isinstance(value, list):
        for index in ends(range(len(value))):
            items = schema.get("prefixItems", [])
            inner = items[index] if index < len(items) else schema.get("items")
            if isinstance(inner, dict):
                yield from places(inner, value[index], defs, (*path, index))


def ends(items: Sequence[Any]) -> list[Any]:
    """The first and the last."""
    return [*items[:1], *items[1:][-1:]]


def branch(schema: Schema, value: Any, defs: dict[str, Schema]) -> Schema:
    """A schema without references and alternatives: of those, the one that `value` has."""
    if "$ref" in schema:
        return branch(defs[schema["$ref"].rsplit("/", 1)[-1]], value, defs)
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        if choices:
            parts = [branch(choice, value, defs) for choice in choices]
            return next((part for part in parts if describes(part, value)), parts[0])
    return schema


def describes(schema: Schema, value: Any) -> bool:
    """Whether a value has the type of a schema, and its `kind` where that tells schemas apart."""
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kind = schema.get("properties", {}).get("kind", {}).get("const")
    is_type = isinstance(value, TYPES[schema["type"]]) and (schema["type"] == "boolean") == isinstance(value, bool)
    return is_type and (kind is None or value.get("kind") == kind)


def values(schema: Schema, value: Any) -> Iterator[tuple[str, Any]]:
    """(what is done, the new value) for one place."""
    for other in OTHERS:
        if type(other) is not type(value):
            yield f"as {type(other).__name__}", other
    if isinstance(value, bool):
        yield "the other", not value
    elif isinstance(value, int | float):
        bounds = [schema[key] for key in BOUNDS if key in schema]
        for number in (*bounds, *(b - 1 for b in bounds), *(b + 1 for b in bounds), -1, value + 1, 2**63, 2**64, 2**70):
            yield f"{number}", number
    elif isinstance(value, str):
        for text in (*STRINGS, *schema.get("enum", ())):
            if text != value:
                yield f"{text!r:.20}", text
    elif isinstance(value, list):
        more = value[-1:] or ["text"]
        yield from (("empty", []), ("one less", value[:-1]), ("the last twice", value + more))
        yield from (("reversed", value[::-1]), ("a thousand", value[:-1] + more * 1000))
    elif isinstance(value, dict):
        yield from (("empty", {}), ("with another key", {**value, "later": 1}))
        if value and "properties" not in schema:
            first, *_ = value
            yield "its first key renamed", {("later" if key == first else key): part for key, part in value.items()}


def at(tree: Any, path: tuple[Step, ...]) -> Any:
    """The value at a path."""
    for step in path:
        tree = tree[step]
    return tree


def with_value(manifest: dict[str, Any], path: tuple[Step, ...], value: Any) -> str:
    """The manifest's JSON with another value at a path, or without the key (MISSING)."""
    tree = copy.deepcopy(manifest)
    parent = at(tree, path[:-1])
    if value is MISSING:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return json.dumps(tree)


def with_literal(manifest: dict[str, Any], path: tuple[Step, ...], literal: str) -> str:
    """The same with JSON that is written as it stands."""
    return with_value(manifest, path, "<literal>").replace('"<literal>"', literal)


def with_second(manifest: dict[str, Any], path: tuple[Step, ...]) -> str:
    """The same with the key a second time, its value null: the last one counts."""
    tree = copy.deepcopy(manifest)
    at(tree, path[:-1])["<second>"] = None
    return json.dumps(tree).replace('"<second>"', json.dumps(path[-1]))


def main() -> int:
    """Write each mutation into a file of the folder, beside the valid manifest."""
    if len(sys.argv) != 4:
        print("usage: python corpus.py manifest.json schema.json FOLDER", file=sys.stderr)
        return 2
    manifest, schema = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3])
    folder = Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "valid.json").write_text(json.dumps(manifest), encoding="utf-8")
    for number, mutation in enumerate(mutations(manifest, schema)):
        (folder / f"{number:05}.json").write_text(mutation.text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

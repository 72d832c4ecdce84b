"""Write the pages that list every key of recipes and of targets, from the schema itself.

python tools/schema_pages.py            # write docs/recipe-keys.md, target-keys.md and package-keys.md
python tools/schema_pages.py --check    # exit 1 if one of them is stale
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dashdeploy.fields import MOST
from dashdeploy.packages.schema import Package
from dashdeploy.recipe.schema import Recipe
from dashdeploy.target import Target

Schema = dict[str, Any]
DOCS = Path(__file__).resolve().parent.parent / "docs"
COMMAND = "python tools/schema_pages.py"
AT_MOST = f"Where a number's upper bound is not given, it is {MOST:,}."
PAGES: dict[str, tuple[str, type[BaseModel], str]] = {
    "recipe-keys.md": (
        "Recipe keys",
        Recipe,
        "Every key of a recipe. How recipes are written: [Recipes](recipes.md). "
        f"As a JSON Schema for editors: `dashdeploy recipes schema`. {AT_MOST}",
    ),
    "target-keys.md": (
        "Target keys",
        Target,
        "Every key of a deployment target. How targets are used: [Targets and graphs](targets.md). "
        f"As a JSON Schema for editors: `dashdeploy exporters schema`. {AT_MOST}",
    ),
    "package-keys.md": (
        "Package keys",
        Package,
        "Every key of a package: an artifact with what builds or serves it, for [C++](cpp.md), [Triton](triton.md) "
        "or a [browser](web.md), or the student for [diffusers](targets.md#plain-diffusers).",
    ),
}
"""File -> title, schema, introduction."""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def page(title: str, model: type[BaseModel], intro: str) -> str:
    """The whole page: the top level's keys, then a section for each part of the schema, once."""
    schema = model.model_json_schema()
    parts = schema.get("$defs", {})
    places = {name: list(where) for name, where in _places(schema, parts).items()}
    lines = [f"<!-- Written by: {COMMAND} -->", f"# {title}", intro, _table(schema, parts, places)]
    for name, where in places.items():
        lines += [f"## {_heading(parts[name], where)}", _sentence(parts[name].get("description", ""))]
        if len(where) > 1:
            lines.append(f"Also: {', '.join(f'`{place}`' for place in where[1:])}.")
        lines.append(_table(parts[name], parts, places))
    return "\n\n".join(line for line in lines if line) + "\n"


def _places(schema: Schema, parts: Schema) -> dict[str, dict[str, None]]:
    """For each part, in the order of reading, the dotted keys that hold it."""
    places: dict[str, dict[str, None]] = {}

    def walk(properties: Schema, prefix: str) -> None:
        for key, value in properties.items():
            for name in _refs(value):
                places.setdefault(name, {})[f"{prefix}{key}"] = None
                walk(parts[name].get("properties", {}), f"{prefix}{key}.")

    walk(schema["properties"], "")
    return places


def _refs(value: Schema) -> Iterator[str]:
    """The parts that a value may be."""
    if "$ref" in value:
        yield value["$ref"].rsplit("/", 1)[-1]
    for branch in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _refs(branch)
    if isinstance(value.get("items"), dict):
        yield from _refs(value["items"])


def _kind(part: Schema) -> str | None:
    kind = part.get("properties", {}).get("kind", {}).get("const")
    return None if kind is None else str(kind)


def _heading(part: Schema, where: list[str]) -> str:
    kind = _kind(part)
    return f"{where[0]}: {kind}" if kind else where[0]


def _table(part: Schema, parts: Schema, places: dict[str, list[str]]) -> str:
    """One line a key."""
    rows = []
    for key, value in part.get("properties", {}).items():
        if _kind(part) and set(part["properties"]) == {"kind"}:
            return f"`kind: {_kind(part)}` is its only key."
        meaning = value.get("description") or _first_line(value, parts)
        rows.append((f"`{key}`", _values(value, parts, places), _default(key, value, part), _escape(meaning)))
    head = "| Key | Values | Default | Meaning |\n| :-- | :-- | :-- | :-- |"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _first_line(value: Schema, parts: Schema) -> str:
    """Of the one section that a value may be; nothing where it may be several or none."""
    names = list(_refs(value))
    if len(names) != 1:
        return ""
    return re.split(r"(?<!Eq)\. ", _sentence(parts[names[0]].get("description", "")), maxsplit=1)[0].rstrip(".")


def _values(value: Schema, parts: Schema, places: dict[str, list[str]]) -> str:
    """What may be written: names as code, numbers with their bounds, a link for a section."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        heading = _heading(parts[name], places[name])
        return f"[{_kind(parts[name]) or 'section'}](#{_slug(heading)})"
    if branches := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(_values(branch, parts, places) for branch in branches)
    if "const" in value or "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_values(value['items'], parts, places)}"
    name = {"integer": "whole number", "boolean": "`true`, `false`", "null": "`null`", "string": "text"}
    bounds = " and ".join(f"{sign} {_number(value[bound])}" for bound, sign in BOUNDS.items() if _tells(bound, value))
    text = name.get(str(value.get("type")), str(value.get("type", "anything")))
    return f"{text} {bounds}".strip()


def _tells(bound: str, value: Schema) -> bool:
    """Whether a bound says something: that all numbers end at MOST is said once, and < 1 makes it needless."""
    return bound in value and not (bound == "maximum" and value[bound] == MOST)


def _number(value: float) -> str:
    if value == 2**63:
        return "2^63"
    return f"{int(value):,}" if value == int(value) and value >= 1000 else f"{value:g}"


def _default(key: str, value: Schema, part: Schema) -> str:
    if key in part.get("required", ()):
        return "required"
    if {"required": [key]} in part.get("anyOf", ()):
        return "–" if key == "extends" else "required, unless `extends` is there"
    if "default" not in value:
        return "–"
    default = value["default"]
    if isinstance(default, dict):
        return f"`{default['kind']}`" if "kind" in default else "–"
    if isinstance(default, list):
        if any(isinstance(item, dict) and "kind" not in item for item in default):
            return "one, with its defaults"
        default = [item["kind"] if isinstance(item, dict) else item for item in default]
    return f"`{json.dumps(default, ensure_ascii=False)}`" if not isinstance(default, str) else f"`{default}`"


def _sentence(text: str) -> str:
    return _escape(" ".join(text.split()))


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def main(arguments: Sequence[str] | None = None) -> int:
    """0: fresh or rewritten; 1: stale, with --check."""
    parser = argparse.ArgumentParser(
        description="Write the pages that list every key of recipes, targets and packages."
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is stale")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args(arguments)
    stale = False
    for name, (title, model, intro) in PAGES.items():
        path, text = options.docs / name, page(title, model, intro)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale = True
        if options.check:
            print(f"{path} is stale. Run: {COMMAND}", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
    return int(stale and options.check)


if __name__ == "__main__":
    sys.exit(main())

"""`dashdeploy recipes`: list, copy and check recipes, and print their JSON Schema.

Export targets are YAML files too, and `files_app` makes the same four commands for them.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashdeploy import locate, terminal
from dashdeploy.cli.options import DEFAULT_RUN_DIR, RunDir
from dashdeploy.cli.output import Result, lines
from dashdeploy.errors import UserError, printable, shown
from dashdeploy.files import write_whole

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that `ls` lists, or a YAML file.")]
_Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Names that `ls` lists, or YAML files.")]
_Destination = Annotated[
    Path | None, typer.Argument(metavar="DEST", help="File or folder; default: the working folder.")
]
_Full = Annotated[
    bool,
    typer.Option("--full", help="Look at all that a run will need too, in seconds, and at which stages are finished."),
]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")]


def files_app(
    kind: locate.Kind,
    *,
    noun: str,
    check: Callable[[str], None],
    schema_of: Callable[[], TypeAdapter] | None,
    preflight: Callable[[str, Path], list[str]] | None = None,
) -> typer.Typer:
    """The commands `ls`, `cp`, `validate` and `schema` for one kind of YAML file.

    Args:
        noun: what help texts call one file, in the singular.
        check: reads and validates one file by its name or path; raises UserError.
        schema_of: returns the files' schema; called only where it is needed, because importing it takes time. None:
            the caller adds a `schema` command itself.
        preflight: looks at all that a run of one file in a folder of runs will need, too, and says what it would do;
            raises UserError. None: `validate` has no --full.
    """
    app = typer.Typer(no_args_is_help=True, help=f"List, copy and check {noun}s.")

    @app.command("ls", help=f"List the {noun}s that ship with dashdeploy.")
    def ls() -> Result:
        return _list(kind)

    @app.command("cp", help=f"Copy one of the {noun}s, to edit it. The copy gets the name of its file.")
    def cp(name: _Name, destination: _Destination = None, *, force: _Force = False) -> Result:
        written = _copy(kind, locate.find(kind, name), destination or Path(), force=force)
        return lines({"file": written}, written)

    validating = app.command(
        "validate", help=f"Check {noun}s: every problem is reported, with its line; exit code 2 if any."
    )
    if preflight is None:

        @validating
        def validate(names: _Names) -> Result:
            return _validate(names, check)

    else:

        @validating
        def validate_fully(names: _Names, *, full: _Full = False, run_dir: RunDir = DEFAULT_RUN_DIR) -> Result:
            return _validate(names, (lambda name: preflight(name, run_dir)) if full else check)

    if schema_of is not None:

        @app.command("schema", help=schema_help(noun))
        def schema() -> Result:
            return schema_of_type(schema_of())

    return app


def schema_help(noun: str) -> str:
    """The help text of a `schema` command."""
    return (
        f"Print the JSON Schema of {noun}s. Editors use it to check and complete them.\n\n"
        f"Save it and name it in a file's first line: # yaml-language-server: $schema={noun.split()[-1]}.schema.json"
    )


def schema_of_type(adapter: TypeAdapter) -> Result:
    """A type's JSON Schema, which is JSON for a reader too."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **adapter.json_schema()}
    return lines(schema, json.dumps(schema, indent=2, ensure_ascii=False))


def _list(kind: locate.Kind) -> Result:
    rows = [
        {"name": name, "path": str(path), "comment": _head_comment(path)}
        for name, path in locate.available(kind).items()
    ]
    width = max((len(str(row["name"])) for row in rows), default=0)
    shown = []
    for row in rows:
        first, *others = row["comment"] or [""]
        shown += [f"{row['name']:{width}}  {first}".rstrip(), *(f"{'':{width}}  {line}" for line in others)]
    return lines({kind: rows}, *shown)


def _head_comment(path: Path) -> list[str]:
    """The first two lines of the comment at a file's head: of a recipe its command and its measured result."""
    comment: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#") or len(comment) == 2:
                break
            text = line.lstrip("#").strip()
            if text and not text.startswith("yaml-language-server:"):
                comment.append(text)
    return comment


def _copy(kind: locate.Kind, source: Path, target: Path, *, force: bool) -> Path:
    """Copy a file to a file or into a folder; returns the file that was written."""
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise UserError(f"{target} exists. Give another name, or --force to overwrite it.")
    if not target.parent.is_dir():
        raise UserError(f"the folder {target.parent} does not exist. Create it first, or give another one.")
    content = _with_its_base(kind, source, target.parent)
    if kind == "recipes" and not source.is_relative_to(locate.data_root("recipes")):  # these name what ships
        _keep_its_paths(content, source, target.parent)
    write_whole(target, _renamed(content, source, target))
    return target


def _keep_its_paths(content: bytes, source: Path, folder: Path) -> None:
    """Refuse a copy whose relative paths, as in `data.path`, would lead elsewhere: they are relative to their file."""
    from dashdeploy.recipe.paths import anchor

    here = _values(content)
    there = copy.deepcopy(here)
    anchor(here, source.parent)
    anchor(there, folder)
    if here != there:
        raise UserError(
            f"{shown(source)}: its relative paths are relative to its folder, and would lead elsewhere from "
            f"{shown(folder)}. Copy it into its own folder, or make them absolute first."
        )


def _renamed(content: bytes, source: Path, target: Path) -> bytes:
    """The content with its `name` changed to the file's, so that the two do not share a folder of results."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from dashdeploy.fields import Name

    name = target.stem
    if name == source.stem or "name" not in _values(content):
        return content
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UserError(
            f"{shown(target)}: the file's name becomes the copy's `name`, which has small letters, digits and . _ - "
            "only, with no sign at its beginning. Choose another."
        ) from error
    line = f"name: {name if yaml.safe_load(name) == name else json.dumps(name)}"
    pattern = r"^name[ \t]*:[^#\n]*?(?=[ \t]*(?:#.*)?$)"
    renamed, replaced = re.subn(pattern, lambda _: line, content.decode(), count=1, flags=re.MULTILINE)
    if not replaced:
        raise UserError(f"{shown(source)}: write `name` on a separate line to copy it under another name")
    return renamed.encode()


def _with_its_base(kind: locate.Kind, source: Path, folder: Path) -> bytes:
    """A file's content for another folder: a path in `extends`, or in a comparison's `recipe`, keeps its meaning."""
    content = source.read_bytes()
    values = _values(content)
    key = next((key for key in ("extends", "recipe") if key in values), None)
    if key is None or not isinstance(values[key], str) or not locate.is_path(values[key]):
        return content
    base = locate.find(kind, values[key], folder=source.parent)
    line = f"{key}: {json.dumps(os.path.relpath(base, folder), ensure_ascii=False)}"
    moved, replaced = re.subn(rf"^{key}:.*$", lambda _: line, content.decode(), count=1, flags=re.MULTILINE)
    if not replaced:
        raise UserError(f"{shown(source)}: write `{key}` on a separate line to copy it to another folder")
    return moved.encode()


def _values(content: bytes) -> dict[str, Any]:
    """What a file says; nothing if it is no YAML mapping: it is copied as it is, and `validate` says what is wrong."""
    import yaml

    try:
        values = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _validate(names: list[str], check: Callable[[str], list[str] | None]) -> Result:
    files: list[dict[str, object]] = []
    shown: list[str] = []
    for name in names:
        try:
            found = check(name)
        except UserError as error:
            terminal.tell(f"error: {printable(str(error))}")
            files.append({"name": name, "ok": False, "error": str(error)})
        else:
            files.append({"name": name, "ok": True, **({} if found is None else {"plan": found})})
            shown += [f"{name}: ok", *(f"  {line}" for line in found or ())]
    return lines({"files": files}, *shown, code=0 if all(file["ok"] for file in files) else 2)


def _schema() -> TypeAdapter:
    from pydantic import TypeAdapter

    from dashdeploy.recipe.comparison import Comparison
    from dashdeploy.recipe.schema import Recipe

    return TypeAdapter(Recipe | Comparison)


def _check(name: str) -> None:
    from dashdeploy.recipe.comparison import is_comparison, load_comparison
    from dashdeploy.recipe.load import load_recipe

    (load_comparison if is_comparison(locate.find("recipes", name)) else load_recipe)(name)


def _preflight(name: str, run_dir: Path) -> list[str]:
    from dashdeploy.cli.job import open_job
    from dashdeploy.compare.compare import designs
    from dashdeploy.pipeline import describe
    from dashdeploy.preflight.examine import require
    from dashdeploy.recipe.comparison import is_comparison, load_comparison

    if is_comparison(locate.find("recipes", name)):
        comparison = load_comparison(name)
        students = designs(comparison, run_dir / comparison.name)
        return [f"{variant}: {student}" for variant, student in students.items()]
    job = open_job(name, None, run_dir)
    return describe(job.recipe, job.folder, require(job.recipe, job.folder))


app = files_app("recipes", noun="recipe", check=_check, schema_of=_schema, preflight=_preflight)

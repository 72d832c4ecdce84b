"""`dashdeploy recipes`: list, copy and check recipes, and print their JSON Schema."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from dashdeploy import locate
from dashdeploy.cli.options import AsJson
from dashdeploy.errors import UserError

app = typer.Typer(no_args_is_help=True, help="List, copy and check recipes.")


@app.command("ls")
def list_recipes(*, as_json: AsJson = False) -> None:
    """List the recipes that ship with dashdeploy."""
    rows = [
        {"name": name, "path": str(path), "comment": _head_comment(path)}
        for name, path in locate.available("recipes").items()
    ]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max((len(str(row["name"])) for row in rows), default=0)
    for row in rows:
        first, *others = row["comment"] or [""]
        print(f"{row['name']:{width}}  {first}".rstrip())
        for line in others:
            print(f"{'':{width}}  {line}")


@app.command("cp")
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `dashdeploy recipes ls`, or a YAML file.")],
    destination: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="File or folder; default: the working folder.")
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Copy a recipe, to edit it."""
    source = locate.find("recipes", name)
    target = destination or Path()
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise UserError(f"{target} exists. Give another name, or --force to overwrite it.")
    if not target.parent.is_dir():
        raise UserError(f"the folder {target.parent} does not exist. Create it first, or give another one.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    print(target)


@app.command()
def validate(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names or YAML files.")],
) -> None:
    """Check recipes and report every problem, with its line; exit code 2 if there is any."""
    from dashdeploy.recipe.load import load_recipe

    failed = False
    for name in names:
        try:
            load_recipe(name)
        except UserError as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
        else:
            print(f"{name}: ok")
    if failed:
        raise typer.Exit(2)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, with which editors check and complete them.

    Save it and name it in a recipe's first line: # yaml-language-server: $schema=recipe.schema.json
    """
    from dashdeploy.recipe.schema import Recipe

    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    print(json.dumps(dialect | Recipe.model_json_schema(), indent=2, ensure_ascii=False))


def _head_comment(path: Path) -> list[str]:
    """The first two lines of the comment that a recipe begins with: its command and its measured result."""
    comment: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#") or len(comment) == 2:
                break
            text = line.lstrip("#").strip()
            if text and not text.startswith("yaml-language-server:"):
                comment.append(text)
    return comment

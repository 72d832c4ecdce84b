"""`dashdeploy exporters`: list, copy and check export targets, and print their JSON Schema or the artifact's."""

from __future__ import annotations

from typing import Annotated

import typer

from dashdeploy.cli.output import Result
from dashdeploy.cli.recipes import files_app, schema_help, schema_of_type

NOUN = "export target"


def _check(name: str) -> None:
    from dashdeploy.errors import UserError
    from dashdeploy.packages.schema import Package, load
    from dashdeploy.target import load_target

    found = load(name)
    if isinstance(found, Package) and found.artifact is not None:
        try:
            load_target(found.artifact)
        except UserError as error:
            raise UserError(f"{name}: artifact {found.artifact!r}: {error}") from error


app = files_app("exporters", noun=NOUN, check=_check, schema_of=None)


@app.command("schema", help=schema_help(NOUN))
def schema(
    *,
    of_artifact: Annotated[
        bool,
        typer.Option("--artifact", help="The schema of an artifact's manifest.json instead: what every runtime reads."),
    ] = False,
) -> Result:
    from pydantic import TypeAdapter

    from dashdeploy.manifest import Manifest
    from dashdeploy.packages.schema import Package
    from dashdeploy.target import Target

    return schema_of_type(TypeAdapter(Manifest if of_artifact else Target | Package))

"""`dashdeploy exporters`: list, copy and check export targets, and print their JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashdeploy.cli.recipes import files_app

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def _schema() -> TypeAdapter:
    from pydantic import TypeAdapter

    from dashdeploy.package import Package
    from dashdeploy.target import Target

    return TypeAdapter(Target | Package)


def _check(name: str) -> None:
    from dashdeploy.package import load

    load(name)


app = files_app("exporters", noun="export target", schema_of=_schema, check=_check)

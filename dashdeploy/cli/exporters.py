"""`dashdeploy exporters`: list, copy and check export targets, and print their JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashdeploy.cli.recipes import files_app

if TYPE_CHECKING:
    from pydantic import BaseModel


def _target() -> type[BaseModel]:
    from dashdeploy.target import Target

    return Target


app = files_app("exporters", noun="export target", model=_target)

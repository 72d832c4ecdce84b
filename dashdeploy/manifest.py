"""manifest.json of an artifact's folder as a type: the artifact, what was measured of it, and what it was made from."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from dashdeploy import stages
from dashdeploy.artifact import Artifact, FileName, Sha256, Text
from dashdeploy.errors import UserError
from dashdeploy.figures import Checks, Part


class Inputs(Part):
    """What the artifact was made from, beside the recipe: the student's hash and the resolved target.

    vae: the hash of an autoencoder of the target's own.
    """

    student: Sha256
    target: dict[str, Any]
    vae: Sha256 | None = None


class Manifest(Part):
    """manifest.json of an artifact's folder.

    files: name -> SHA-256. recipe: the student's, with the sampling that was exported. seed: the recipe's.
    """

    format: Annotated[int, Field(ge=stages.FORMAT, le=stages.FORMAT)]
    stage: Text
    key: Sha256
    inputs: Inputs
    files: dict[FileName, Sha256]
    figures: Checks
    artifact: Artifact
    seed: int
    versions: dict[str, str]
    recipe: dict[str, Any]

    @model_validator(mode="after")
    def _vouches_for_every_graph(self) -> Manifest:
        for name, graph in self.artifact.graphs.items():
            if missing := [file for file in graph.files if file not in self.files]:
                raise ValueError(f"artifact.graphs.{name}.files names {missing[0]!r}, which files does not list")
        return self


def read(stage: stages.Stage) -> Manifest:
    """The manifest of an artifact's folder, whose files `stages.read_stage` has checked against it.

    Raises:
        UserError: it is not an artifact's, or a value is missing or of a wrong type or range; it names the key.
    """
    path = stage.folder / stages.MANIFEST
    if "artifact" not in stage.manifest:
        raise UserError(f"{path}: not an artifact's manifest; its stage is {stage.manifest['stage']}. Export it first.")
    return parse(json.dumps(stage.manifest), source=path)


def parse(text: str | bytes, *, source: object) -> Manifest:
    """A manifest from its JSON; `source` is what messages call it. See `read`."""
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {problem(error)}. Export it again.") from error


def problem(error: ValidationError, *, whole: str = "the manifest") -> str:
    """The first problem on one line: the key and the problem; `whole` is what it calls what holds the keys."""
    first, *others = error.errors(include_url=False)
    where = ".".join(str(step) for step in first["loc"]) or whole
    said = {"missing": "is missing", "extra_forbidden": "is no key that is known here"}
    text = said.get(first["type"], first["msg"].removeprefix("Value error, "))
    text = re.sub(r"^(Input|[A-Z][a-z]+) should ", "must ", text)
    got = f", got {str(first['input'])[:60]!r}" if first["type"] not in ("missing", "value_error") else ""
    more = f" (and {len(others)} more)" if others else ""
    return " ".join(f"{where}: {text}{got}{more}".split())

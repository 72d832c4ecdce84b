"""What the export measured of an artifact, from its manifest into the benchmark's record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dashdeploy import stages
from dashdeploy.artifact import EngineLayers
from dashdeploy.bench.record.parts import ArtifactChecks
from dashdeploy.figures import GateFigures, Parity, ParityRow, SamplingCheck

_PARITY_LIMITS = ("relative_error", "sampler_error")


def artifact_checks(model: str, stage: stages.Stage) -> ArtifactChecks:
    """Gate, parity and sampling checks of an artifact's manifest; empty parts where it has none.

    Args:
        model: the artifact's key in the record.
    """
    figures, artifact = stage.figures, stage.manifest["artifact"]
    gate, parity, int8 = figures.get("gate"), figures.get("parity"), figures.get("int8")
    limits = stage.manifest["inputs"]["target"]["parity"]
    return ArtifactChecks(
        model=model,
        precision=artifact["precision"],
        verified=figures.get("verified", ""),
        parity=Parity(
            limits={name: limits[name] for name in _PARITY_LIMITS}, worst=ParityRow(**parity["worst"]), rows=()
        )
        if parity
        else None,
        gate=GateFigures(**gate) if gate else None,
        sampling=tuple(SamplingCheck(**check) for check in figures.get("sampling", ())),
        float_layers=tuple(int8["float_layers"]) if int8 else None,
        layers={
            name: EngineLayers(**engine["layers"]) for name, engine in engines(artifact).items() if engine.get("layers")
        },
    )


def engines(artifact: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What an artifact's manifest says about its engines, by graph; empty for other backends."""
    return {name: entry["engine"] for name, entry in artifact.get("graphs", {}).items() if entry.get("engine")}


def build_figures(artifact: Mapping[str, Any]) -> tuple[float, float]:
    """(seconds that building all engines took, most MiB that building one of them took); NaN without engines."""
    records = engines(artifact).values()
    seconds = [float(e["build_s"]) for e in records if e.get("build_s") is not None]
    mib = [float(e["build_peak_mib"]) for e in records if e.get("build_peak_mib") is not None]
    return sum(seconds) if seconds else math.nan, max(mib, default=math.nan)

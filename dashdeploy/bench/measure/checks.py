"""What the export measured of an artifact, from its manifest into the benchmark's record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dashdeploy import stages
from dashdeploy.bench.record.parts import ArtifactChecks, Gap, GraphCheck, ParityWorst, Rung

_PARITY_LIMITS = ("relative_error", "sampler_error")


def artifact_checks(model: str, stage: stages.Stage) -> ArtifactChecks:
    """Gate, parity and sampling checks of an artifact's manifest; empty parts where it has none.

    Args:
        model: the artifact's key in the record.
    """
    figures, artifact = stage.figures, stage.manifest["artifact"]
    gate, parity = figures.get("gate"), figures.get("parity")
    limits = gate["limits"] if gate else stage.manifest["inputs"]["target"]["parity"]
    int8 = figures.get("int8")
    return ArtifactChecks(
        model=model,
        precision=artifact["precision"],
        verified=figures.get("verified", ""),
        limits={k: v for k, v in limits.items() if gate or k in _PARITY_LIMITS},
        rungs=tuple(_rung(rung) for rung in gate["rungs"]) if gate else (),
        parity=_worst(parity["worst"]) if parity else None,
        graphs=tuple(GraphCheck(**check) for check in figures.get("sampling", ())),
        int8=int8 is not None,
        float_layers=tuple(int8["float_layers"]) if int8 else (),
        layer_types={
            name: types
            for graph, engine in engines(artifact).items()
            for name, types in _layer_types(graph, engine.get("layers") or {}).items()
        },
    )


def engines(artifact: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What an artifact's manifest says about its engines, by graph; empty for other backends."""
    return {name: entry["engine"] for name, entry in artifact.get("graphs", {}).items() if entry.get("engine")}


def build_figures(artifact: Mapping[str, Any]) -> tuple[float, float]:
    """(seconds that all engines took to build, most MiB that one of these builds took); NaN without engines."""
    found = engines(artifact).values()
    seconds = [float(e["build_s"]) for e in found if e.get("build_s") is not None]
    mib = [float(e["build_peak_mib"]) for e in found if e.get("build_peak_mib") is not None]
    return sum(seconds) if seconds else math.nan, max(mib, default=math.nan)


def _rung(found: Mapping[str, Any]) -> Rung:
    return Rung(
        name=found["name"],
        overall=Gap(**found["overall"]),
        bins=tuple(Gap(**row) for row in found["bins"]),
        failures=tuple(found["failures"]),
    )


def _worst(found: Mapping[str, Any]) -> ParityWorst:
    return ParityWorst(**{name: found[name] for name in ParityWorst.model_fields})


def _layer_types(graph: str, layers: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Counts of the network's heavy layers, and of the finished engine's where an inspector could read it."""
    found: dict[str, dict[str, int]] = {}
    for name, part in ((graph, "heavy"), (f"{graph}, engine", "engine")):
        counts = layers.get(part) or {}
        types = {f"{kind} {kept}": int(n) for kind, by_type in counts.items() for kept, n in by_type.items()}
        found |= {name: types} if types else {}
    return found

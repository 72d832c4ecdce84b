"""What the export measured of an artifact, from its manifest into the benchmark's record."""

from __future__ import annotations

import math

from dashdeploy.artifact import Artifact
from dashdeploy.bench.record.parts import ArtifactChecks
from dashdeploy.manifest import Manifest


def artifact_checks(model: str, manifest: Manifest) -> ArtifactChecks:
    """Gate, parity and sampling checks of an artifact; of parity the worst row only.

    Args:
        model: the artifact's key in the record.
    """
    checks, artifact = manifest.figures, manifest.artifact
    return ArtifactChecks(
        model=model,
        precision=artifact.precision,
        verified=checks.verified,
        parity=checks.parity.model_copy(update={"rows": ()}) if checks.parity else None,
        gate=checks.gate,
        sampling=checks.sampling,
        float_layers=checks.int8.float_layers if checks.int8 else None,
        layers={name: graph.engine.layers for name, graph in artifact.graphs.items() if graph.engine},
        decoder=checks.decoder,
    )


def build_cost(artifact: Artifact | None) -> tuple[float, float]:
    """(seconds that building all engines took, most MiB that building one of them took); NaN without engines."""
    engines = [graph.engine for graph in artifact.graphs.values() if graph.engine] if artifact else []
    if not engines:
        return math.nan, math.nan
    return sum(engine.build_s for engine in engines), max(engine.build_peak_mib for engine in engines)

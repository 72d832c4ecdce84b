"""Records of older formats in the shape of today's: what they did not measure is null."""

from __future__ import annotations

import copy
from typing import Any

OLDER = (1,)
"""Formats that can still be read."""
_MODEL = ("artifact_bytes", "precision", "way", "load_ms", "first_call_ms", "build_s", "build_peak_mib")
_ROW = ("p50_low_ms", "p50_high_ms")


def upgraded(found: dict[str, Any]) -> dict[str, Any]:
    """A record of format 1 as one of format 2. Parts that are damaged are left for the schema to name.

    Format 1 timed every sampler as the host loop at the recipe's plan, and took its pairs from batched rows.
    """
    new = copy.deepcopy(found)
    new["format"] = 2
    settings, fidelity = _dict(new.get("settings")), _dict(new.get("fidelity"))
    new["plans"] = {
        "recipe": {
            "guidance": fidelity.get("guidance", ""),
            "timesteps": settings.get("timesteps", []),
            "weights": None,
            "clip_sample": _dict(settings.get("sampling")).get("clip_sample"),
        }
    }
    for model in _dict(new.get("models")).values():
        if isinstance(model, dict):
            model.update(dict.fromkeys(_MODEL), way="guided")
    for row in _dicts(new.get("latency")):
        sampler = row.get("scope") == "sampler"
        row.update(dict.fromkeys(_ROW), plan="recipe" if sampler else None, way="guided" if sampler else None)
    for pair in _dicts(new.get("pairs")):
        missing = pair.get("ratio") is None
        refused = "a median is missing" if missing else ""
        pair.update(slow_branches="batched", fast_branches="batched", refused=refused)
    return new


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []

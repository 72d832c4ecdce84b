"""A plausible record, built in code: three models, a sweep of guidance, ten bins, sixty lines of training."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashdeploy.bench.record import FILE, Record, parse

LABELS = {"teacher": "teacher (torch)", "student": "student (torch)", "student-onnx-cpu": "student (ONNX Runtime)"}
FID = {
    "w=1": (0.231, 0.583),
    "w=1.5": (1.12, 1.21),
    "w=2": (2.01, 1.98),
    "w=3": (2.74, 2.95),
    "w=4": (3.09, 3.65),
    "TAG 1–4": (2.43, 2.61),
}
STEP_MS = {"teacher": (7.9, 21.4, 138.0), "student": (4.1, 7.2, 27.5), "student-onnx-cpu": (1.3, 3.4, 16.6)}
BATCHES = (1, 8, 64)


def _interval(value: float, share: float = 0.07) -> dict[str, float]:
    return {"value": value, "low": value * (1 - share), "high": value * (1 + share)}


def _latency() -> list[dict[str, Any]]:
    rows = []
    for model, medians in STEP_MS.items():
        for batch, step in zip(BATCHES, medians, strict=True):
            for branches, cost in (("batched", 1.0), ("two-pass", 1.17))[: 1 if "onnx" in model else 2]:
                for scope, calls in (("step", 1), ("sampler", 50)):
                    p50 = step * cost * calls
                    rows.append(
                        {
                            "model": model,
                            "branches": branches,
                            "scope": scope,
                            "batch_size": batch,
                            "p50_ms": p50,
                            "p90_ms": p50 * 1.08,
                            "p99_ms": p50 * 1.31,
                            "mean_ms": p50 * 1.03,
                            "repeats": 20 if scope == "step" else 3,
                            "images_per_s": batch / p50 * 1000,
                        }
                    )
    return rows


def _quality() -> list[dict[str, Any]]:
    rows = []
    for guidance, (teacher, student) in FID.items():
        for model in LABELS:
            fid = teacher if model == "teacher" else student * (1 if model == "student" else 1.002)
            rows.append(
                {
                    "model": model,
                    "guidance": guidance,
                    "w": float(guidance[2:]) if guidance.startswith("w=") else None,
                    "fid": _interval(fid),
                    "kid": _interval(fid / 217, 0.11),
                    "fid_to_teacher": None if model == "teacher" else _interval(0.31 + 0.11 * student),
                    "accuracy": 0.991 if model == "teacher" else 0.978,
                }
            )
    return rows


def _gap(low: int, high: int, num: int, nudge: float) -> dict[str, Any]:
    at = (low + high) / 2000
    cosine = 0.93 - 0.35 * at + nudge
    return {
        "t_low": low,
        "t_high": high,
        "num": num,
        "rho": 0.97 - 0.16 * at + nudge,
        "relative_error": 0.36 + 0.42 * at,
        "energy_cosine": cosine,
        "mean_cosine": cosine - 0.031,
        "slope": cosine * 0.95,
        "mse": 0.0123 * (1 - at) + 0.0007,
        "guided_error": 0.173 * math.exp(-1.7 * at) + 0.012,
        "uncond_error": 0.094 * math.exp(-1.9 * at) + 0.004,
        "cond_error": 0.083 * math.exp(-1.9 * at) + 0.004,
    }


def _training() -> list[dict[str, Any]]:
    points = []
    for step in range(20, 1201, 20):
        decay = math.exp(-step / 260)
        terms = {"imitation": 0.011 + 0.31 * decay, "unconditional": 0.009 + 0.29 * decay}
        terms["anchor"] = 0.142 + 0.44 * decay
        loss = terms["imitation"] + terms["unconditional"] + 0.1 * terms["anchor"]
        rates = {"learning_rate": 1e-3 * (1 - step / 1200), "images_per_s": 812.0, "grad_norm": 0.4 + decay}
        points.append({"step": step, "loss": loss, **terms, **rates, "terms": list(terms)})
    return points


def _baseline(name: str, label: str, fid: tuple[float, float], cosine: float, rho: float) -> dict[str, Any]:
    fids = dict(zip(("w=1", "w=2"), fid, strict=True))
    return {"name": name, "label": label, "fid": fids, "energy_cosine": cosine, "rho": rho}


def _payload() -> dict[str, Any]:
    bins = [(100 * i, 100 * (i + 1)) for i in range(10)]
    sizes = {"teacher": 1952513, "student": 316033, "student-onnx-cpu": 316033}
    return {
        "format": 1,
        "recipe": "digits",
        "created": "2026-11-23T06:00:00+00:00",
        "seed": 0,
        "threads": 2,
        "machine": {
            "cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            "cores": 2,
            "memory_gib": 23.4,
            "platform": "Linux-6.1-x86_64",
            "gpu": None,
        },
        "versions": {"dashdeploy": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "onnxruntime": "1.32.0"},
        "settings": {
            "sampling": {"num_inference_steps": 50, "timestep_spacing": "trailing", "guidance": 2.0},
            "latency": {"batch_sizes": list(BATCHES), "warmup": 3, "repeats": 20},
            "quality": {"num_images": 1000, "guidance": [1.0, {"kind": "tag", "w_min": 1.0}], "bootstrap": 200},
            "fidelity": {"num_pairs": 2000, "bins": 10},
            "timesteps": list(range(999, 0, -20)),
        },
        "classes": [str(k) for k in range(10)],
        "models": {
            key: {
                "label": label,
                "runtime": "onnxruntime" if "onnx" in key else "torch",
                "parameters": sizes[key],
                "file_bytes": sizes[key] * 4 + 21517,
                "sha256": f"{i + 10:x}" * 64,
                "peak_rss_mib": 412.0 - 71 * i,
            }
            for i, (key, label) in enumerate(LABELS.items())
        },
        "compression": sizes["teacher"] / sizes["student"],
        "images_seen": 153_600,
        "latency": _latency(),
        "quality": {
            "features": {"name": "digits-cnn", "sha256": "9" * 64},
            "num_images": 1000,
            "num_reference": 1617,
            "rows": _quality(),
        },
        "fidelity": {
            "guidance": "w=2",
            "num_pairs": 2000,
            "rows": [
                {
                    "model": model,
                    "overall": _gap(0, 1000, 2000, nudge),
                    "bins": [_gap(low, high, 200, nudge) for low, high in bins],
                }
                for model, nudge in (("student", 0.0), ("student-onnx-cpu", 0.00004))
            ],
        },
        "training": _training(),
        "baselines": {
            "source": "benchmarks/results/digits-baselines.json",
            "rows": [
                _baseline("digits-scratch", "from scratch", (0.89, 3.38), 0.66, 1.19),
                _baseline("digits-cond-only", "conditional branch only", (0.51, 13.8), 0.28, 3.55),
            ],
            "recovery": {"w=1": 0.466, "w=2": 1.022},
        },
        "notes": ["FID is taken in a small classifier's features and is not comparable with Inception FID."],
        "pairs": [
            {"batch_size": batch, "scope": "step", "slow": "teacher", "fast": fast, "ratio": ratio}
            for fast, ratios in (("student", (1.9, 3.0, 5.1)), ("student-onnx-cpu", (6.2, 6.4, 8.3)))
            for batch, ratio in zip(BATCHES, ratios, strict=True)
        ],
    }


@pytest.fixture
def payload() -> dict[str, Any]:
    """What bench.json holds, free to change."""
    return copy.deepcopy(_payload())


@pytest.fixture
def record(payload: dict[str, Any]) -> Record:
    return parse(json.dumps(payload))


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes bench.json and samples.npz (two images a class, 1×8×8) as a benchmark does; returns the folder."""

    def write(payload: dict[str, Any]) -> Path:
        (tmp_path / FILE).write_text(json.dumps(payload))
        num = 2 * len(payload["classes"])
        images = np.random.default_rng(0).integers(0, 256, (len(payload["models"]), num, 1, 8, 8), dtype=np.uint8)
        arrays = dict(zip(payload["models"], images, strict=True))
        labels = np.repeat(np.arange(len(payload["classes"])), 2)
        np.savez(tmp_path / "samples.npz", columns=np.array(2), labels=labels, **arrays)
        return tmp_path

    return write

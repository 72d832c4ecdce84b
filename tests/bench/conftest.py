"""A plausible record, built in code: three models, a sweep of guidance, ten ranges of t, checks, training."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashdeploy.bench.record.record import FILE, Record, parse

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
SEEDS = (0, 7)


def _estimate(value: float, share: float = 0.07) -> dict[str, float]:
    return {"value": value, "low": value * (1 - share), "high": value * (1 + share)}


def _graph(model: str) -> str:
    return "sampler" if "onnx" in model else "guided"


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
                            "plan": "recipe" if scope == "sampler" else None,
                            "graph": _graph(model) if scope == "sampler" else None,
                            "evaluations": 2 * calls,
                            "p50_ms": p50,
                            "p50_low_ms": p50 * 0.98,
                            "p50_high_ms": p50 * 1.02,
                            "p90_ms": p50 * 1.08,
                            "p99_ms": None,
                            "mean_ms": p50 * 1.03,
                            "repeats": 20 if scope == "step" else 6,
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
                    "fid": _estimate(fid),
                    "kid": _estimate(fid / 217, 0.11),
                    "fid_to_teacher": None if model == "teacher" else _estimate(0.31 + 0.11 * student),
                    "accuracy": 0.991 if model == "teacher" else 0.978,
                    "pixel_distance": None if model == "teacher" else 0.21 + 0.01 * student,
                    "feature_distance": None if model == "teacher" else 0.3,
                    "confidence": 0.9 + 0.02 * teacher if model == "teacher" else 0.88 + 0.01 * student,
                    "neighbours": {"precision": 0.9, "recall": 0.7, "density": 1.1, "coverage": 0.8},
                }
                | {"by_seed": [_of_seed(seed, fid, model) for seed in SEEDS]}
            )
    return rows


def _of_seed(seed: int, fid: float, model: str) -> dict[str, Any]:
    """Two seeds, of which the first has the larger FID."""
    moved = fid * (1.01 if seed == 0 else 0.99)
    to_teacher = None if model == "teacher" else 0.31 + 0.11 * moved
    distances = {"pixel_distance": to_teacher and 0.2, "feature_distance": to_teacher and 0.3, "confidence": 0.9}
    near = {"precision": 0.9, "recall": 0.7, "density": 1.1, "coverage": 0.8}
    return {
        "seed": seed,
        "fid": moved,
        "kid": moved / 217,
        "fid_to_teacher": to_teacher,
        "accuracy": 0.98,
        "neighbours": near,
    } | distances


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


def _pairs() -> list[dict[str, Any]]:
    """From the step's medians, of which batched is the faster."""
    wanted = [("teacher", "student"), ("teacher", "student-onnx-cpu"), ("student", "student-onnx-cpu")]
    return [
        {
            "batch_size": batch,
            "scope": "step",
            "slow": slow,
            "fast": fast,
            "slow_branches": "batched",
            "fast_branches": "batched",
            "ratio": a / b,
            "low": a / b * 0.972,
            "high": a / b * 1.029,
            "refused": "",
        }
        for slow, fast in wanted
        for batch, a, b in zip(BATCHES, STEP_MS[slow], STEP_MS[fast], strict=True)
    ]


def _sampling(graph: str, step: float | None, image: float | None) -> dict[str, Any]:
    return {"graph": graph, "step_error": step, "image_error": image, "max_difference": image}


def _rung(name: str, size: float) -> dict[str, Any]:
    def part(low: int, high: int, num: int) -> dict[str, Any]:
        errors = ("relative_error", "guided_error", "uncond_error", "cond_error")
        exact = {"rho": 1.0, "mean_cosine": 1.0, "slope": 1.0, "mse": 0.0, "energy_cosine": 1 - size / 10}
        row = {"t_low": low, "t_high": high, "num": num, **exact}
        return row | {error: size * (i + 1) * (1 - low / 2000) for i, error in enumerate(reversed(errors))}

    bins = [part(125 * i, 125 * (i + 1), 32) for i in range(8)]
    return {"name": name, "overall": part(0, 1000, 256), "bins": bins, "excess": size * 4 / 0.15, "failures": []} | {
        "bounds": [],
        "excess_bound": None,
    }


def _checks() -> list[dict[str, Any]]:
    """An artifact that is held to parity, and one, not measured here, that is held to the gate."""
    worst = {"branch": "guided", "batch_size": 65, "t_low": 0, "t_high": 100, "relative_error": 1.74e-6}
    limits = {"branch_error": 0.1, "gap_relative_error": 0.3, "gap_relative_error_bin": 1.5, "gap_cosine": 0.96}
    heavy = {"convolution": {"int8": 31, "float32": 2}}
    return [
        {
            "model": "student-onnx-cpu",
            "precision": "fp32",
            "verified": "",
            "parity": {
                "limits": {"relative_error": 1e-4, "sampler_error": 1e-3},
                "worst": {**worst, "problem": None},
                "rows": [],
            },
            "gate": None,
            "sampling": [_sampling("cond", 6.9e-7, None), _sampling("sampler", None, 7.5e-6)],
            "float_layers": None,
            "layers": {},
            "decoder": None,
        },
        {
            "model": "student-rtx-int8",
            "precision": "int8",
            "verified": "its ONNX graphs were checked on the CPU",
            "parity": None,
            "gate": {
                "limits": {**limits, "guided_error": 0.15},
                "rungs": [_rung("ONNX fp32", 2.5e-7), _rung("tensorrt_rtx int8", 0.0217)],
            },
            "sampling": [_sampling("step", 0.0088, 0.0166)],
            "float_layers": ["conv_in", "up_blocks.1.resnets.0.conv1"],
            "layers": {"guided": {"source": "network definition", "heavy": heavy, "engine": None}},
            "decoder": None,
        },
    ]


def _plan(guidance: str, weights: list[float]) -> dict[str, Any]:
    return {
        "guidance": guidance,
        "timesteps": list(range(999, 0, -20)),
        "weights": weights,
        "clip_sample": True,
        "solver": "ddim",
    }


def _study() -> dict[str, Any]:
    """Twenty of fifty steps without guidance: a fifth of the work is saved."""
    rows = []
    for row in _latency():
        if (row["model"], row["scope"]) == ("student-onnx-cpu", "sampler"):
            scaled = {k: v * 0.8 if k.endswith("_ms") and v is not None else v for k, v in row.items()}
            rows += [row | {"plan": "constant"}, scaled | {"plan": "interval", "graph": "step"}]
    base = next(row for row in _quality() if (row["model"], row["guidance"]) == ("student-onnx-cpu", "w=2"))
    changing = base | {"guidance": "w=2 in 0.2–0.8", "w": None, "fid": _estimate(1.777), "fid_to_teacher": None}
    return {
        "model": "student-onnx-cpu",
        "constant_plan": "constant",
        "interval_plan": "interval",
        "cond_only_steps": 20,
        "latency": rows,
        "quality": [base, changing],
    }


def _payload() -> dict[str, Any]:
    bins = [(100 * i, 100 * (i + 1)) for i in range(10)]
    sizes = {"teacher": 1952513, "student": 316033, "student-onnx-cpu": 316033}
    return {
        "format": 4,
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
                "artifact_bytes": 5_172_345 if "onnx" in key else None,
                "precision": "fp32",
                "graph": _graph(key),
                "plan": "recipe",
                "evaluations": 100,
                "load_ms": 38.25 + i,
                "first_call_ms": 241.5 - 71 * i,
                "build_s": None,
                "build_peak_mib": None,
            }
            for i, (key, label) in enumerate(LABELS.items())
        },
        "compression": sizes["teacher"] / sizes["student"],
        "images_seen": 153_600,
        "plans": {
            "recipe": _plan("w=2", [2.0] * 50),
            "constant": _plan("w=2", [2.0] * 50),
            "interval": _plan("w=2 in 0.2–0.8", [1.0] * 10 + [2.0] * 30 + [1.0] * 10),
        },
        "latency": _latency(),
        "checks": _checks(),
        "guidance_interval": _study(),
        "quality": {
            "features": {"name": "digits-cnn", "sha256": "9" * 64, "held_out_accuracy": None},
            "num_images": 1000,
            "num_reference": 1617,
            "class_counts": [100] * 10,
            "seeds": list(SEEDS),
            "rows": _quality(),
            "reference": None,
        },
        "decoding": [],
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
        "pairs": _pairs(),
        "response": None,
    }


@pytest.fixture
def payload() -> dict[str, Any]:
    """What bench.json holds, free to change."""
    return copy.deepcopy(_payload())


@pytest.fixture
def record(payload: dict[str, Any]) -> Record:
    return parse(json.dumps(payload))


@pytest.fixture
def few(payload: dict[str, Any]) -> dict[str, Any]:
    """The same of students of one branch in four steps, whose teacher's images were drawn in fifty."""
    payload = copy.deepcopy(payload)
    own = [row | {"plan": "teacher"} for row in payload["latency"] if _is_sampler(row, "teacher")]
    for row in payload["latency"]:
        if row["scope"] == "sampler":
            small = {k: v * 4 / 50 for k, v in row.items() if k.endswith("_ms") and v is not None}
            row |= small | {"evaluations": 8 if row["model"] == "teacher" else 4}
    payload["latency"] += own
    payload["plans"]["teacher"] = payload["plans"]["recipe"]
    steps = {"timesteps": [999, 749, 499, 249], "weights": [2.0] * 4}
    payload["plans"]["recipe"] = payload["plans"]["recipe"] | steps
    payload["models"]["teacher"]["plan"] = "teacher"
    for name in ("student", "student-onnx-cpu"):
        payload["models"][name]["evaluations"] = 4
    payload["settings"]["timesteps"] = steps["timesteps"]
    return payload | {"guidance_interval": None}


def _is_sampler(row: dict[str, Any], model: str) -> bool:
    return (row["scope"], row["model"]) == ("sampler", model)


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

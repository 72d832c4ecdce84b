"""The manifest of an artifact, held against the contract that the package carries as a JSON Schema, and its files.

Only the standard library: a server's Python has no pydantic. What a schema cannot say is in `_holds_together`; the same
is in dashdeploy/artifact/__init__.py, and a test compares the two on thousands of manifests.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import checked

FORMAT = 5
"""Of the manifests that this module reads."""
SCHEMA = "manifest.schema.json"
SIGNATURES = {
    "guided": (("x", "t", "y", "w"), "eps"),
    "cond": (("x", "t", "y"), "eps"),
    "step": (("x", "t", "t_prev", "y", "w"), "x_prev"),
    "sampler": (("noise", "y", "w"), "images"),
    "decoder": (("latents",), "images"),
}
"""Graph -> its inputs, in order, and its output; of guided and cond it is named after what the student predicts."""
PREDICTED = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}
ENGINES = ("tensorrt", "tensorrt_rtx")
GUIDANCE = {"tag": ("w_min", "w_max", "beta"), "interval": ("w", "low", "high")}
MOST_PIXELS = 1 << 28
MOST_BYTES = 64 << 20
"""Of a manifest."""
TYPES: dict[str, type | tuple[type, ...]] = {
    **{"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)},
    **{"integer": int, "number": (int, float)},
}


def read_manifest(folder: Path, *, public_key: str | None = None) -> dict[str, Any]:
    """The manifest of an artifact's folder, checked against its SHA-256 and the contract, and its files against it.

    Args:
        public_key: only what this key has signed is read; None: signatures are not asked for.

    Raises:
        ValueError: one line that names the file, the key and the reason.
    """
    path = folder / checked.MANIFEST
    data = checked.read(folder, checked.MANIFEST, None)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}: {len(data)} bytes; expected at most {MOST_BYTES}.")
    try:
        manifest = json.loads(data)
        number = manifest["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: not a manifest ({type(error).__name__}). Export the package again.") from error
    if type(number) is not int or number != FORMAT:
        raise ValueError(f"{path}: format {number!r}; this model reads {FORMAT}. Export the package again.")
    sidecar = checked.read(folder, f"{checked.MANIFEST}.sha256", None)
    if sidecar != f"{hashlib.sha256(data).hexdigest()}  {checked.MANIFEST}\n".encode():
        raise ValueError(f"{path}: changed since it was made (its SHA-256 differs). Export the package again.")
    if public_key is not None:
        checked.check_signature(folder, data, public_key)
    try:
        check(manifest)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Export the package again.") from error
    for name in manifest["files"]:
        checked.read(folder, name, manifest["files"])
    return dict(manifest)


def check(manifest: Any) -> None:
    """Hold a manifest against the contract.

    Raises:
        ValueError: the key and what is wrong with its value.
    """
    schema = json.loads((Path(__file__).parent / SCHEMA).read_text(encoding="utf-8"))
    _fits(manifest, schema, schema["$defs"], "the manifest")
    _holds_together(manifest)


def _fits(value: Any, schema: dict[str, Any], defs: dict[str, Any], at: str) -> None:
    """Refuse a value that its schema does not allow; as strictly as JSON has types: 22.0 is no integer."""
    if "$ref" in schema:
        return _fits(value, defs[schema["$ref"].rsplit("/", 1)[-1]], defs, at)
    if "discriminator" in schema:
        kinds, key = schema["discriminator"]["mapping"], schema["discriminator"]["propertyName"]
        kind = value.get(key) if isinstance(value, dict) else None
        _need(isinstance(kind, str) and kind in kinds, at, f"must have {key}: {' or '.join(kinds)}", value)
        return _fits(value, {"$ref": kinds[kind]}, defs, at)
    if "anyOf" in schema:
        return _fits_one(value, schema["anyOf"], defs, at)
    for allowed in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
        _need(allowed is None or value in allowed, at, f"must be one of {allowed}", value)
    if "type" in schema:
        fits = isinstance(value, TYPES[schema["type"]]) and isinstance(value, bool) == (schema["type"] == "boolean")
        _need(fits, at, f"must be of type {schema['type']}", value)
    if isinstance(value, str):
        _fits_text(value, schema, at)
    elif isinstance(value, list):
        _fits_list(value, schema, defs, at)
    elif isinstance(value, dict):
        _fits_object(value, schema, defs, at)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _fits_number(value, schema, at)
    return None


def _fits_one(value: Any, choices: list[dict[str, Any]], defs: dict[str, Any], at: str) -> None:
    problems = []
    if value is not None:  # the problem is told of what it should be, not that it is not null
        choices = [choice for choice in choices if choice.get("type") != "null"]
    for choice in choices:
        try:
            return _fits(value, choice, defs, at)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(max(problems, key=len))


def _fits_text(value: str, schema: dict[str, Any], at: str) -> None:
    pattern = schema.get("pattern", "").replace("$", r"\Z")
    _need(re.search(pattern, value) is not None, at, f"must match {schema.get('pattern')}", value)
    _need(len(value) <= schema.get("maxLength", len(value)), at, "is too long", value)
    _need(value.isascii() or not re.search("[\ud800-\udfff]", value), at, "is not text", value)


def _fits_number(value: float, schema: dict[str, Any], at: str) -> None:
    _need(math.isfinite(value), at, "must be a finite number", value)
    for key, fits in (
        ("minimum", lambda bound: value >= bound),
        ("maximum", lambda bound: value <= bound),
        ("exclusiveMinimum", lambda bound: value > bound),
        ("exclusiveMaximum", lambda bound: value < bound),
    ):
        _need(key not in schema or fits(schema[key]), at, f"is past its {key}, {schema.get(key)}", value)


def _fits_list(value: list[Any], schema: dict[str, Any], defs: dict[str, Any], at: str) -> None:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    _need(least <= len(value) <= most, at, f"must have {least} to {most} values", len(value))
    first = schema.get("prefixItems", [])
    for index, item in enumerate(value):
        part = first[index] if index < len(first) else schema.get("items")
        if isinstance(part, dict):
            _fits(item, part, defs, f"{at}.{index}")


def _fits_object(value: dict[str, Any], schema: dict[str, Any], defs: dict[str, Any], at: str) -> None:
    at = "" if at == "the manifest" else f"{at}."
    for key in schema.get("required", []):
        if key not in value:
            raise ValueError(f"{at}{key}: is missing")
    patterns = schema.get("patternProperties", {})
    for key, item in value.items():
        if "propertyNames" in schema:
            _fits(key, {"type": "string", **schema["propertyNames"]}, defs, f"{at}{key[:100]}")
        matching = [part for pattern, part in patterns.items() if re.search(pattern.replace("$", r"\Z"), key)]
        if patterns and not matching:
            raise ValueError(f"{at}{key[:100]!r}: must match {' or '.join(patterns)}")
        others = schema.get("additionalProperties")
        part = matching[0] if matching else schema.get("properties", {}).get(key, others)
        if isinstance(part, dict):
            _fits(item, part, defs, f"{at}{key}")


def _holds_together(manifest: dict[str, Any]) -> None:
    """What one value must be because of another."""
    artifact = manifest["artifact"]
    classes, total = artifact["num_classes"], artifact["num_train_timesteps"]
    whole, sampling = artifact.get("sampler"), artifact["sampling"]
    _need(
        len(artifact["classes"]) == classes, "artifact.classes", f"must have {classes} names", len(artifact["classes"])
    )
    _need(artifact["null_class"] == classes, "artifact.null_class", f"must be {classes}", artifact["null_class"])
    _need(len(artifact["betas"]) == total, "artifact.betas", f"must have {total} values", len(artifact["betas"]))
    _is_trained(artifact, total)
    decoder = artifact["decoder"]
    for at, part in (("artifact", artifact), ("artifact.decoder", decoder)):
        pixels = 0 if part is None else math.prod(part["image_shape"])
        _need(pixels <= MOST_PIXELS, f"{at}.image_shape", f"must have at most {MOST_PIXELS} values", pixels)
    _decodes(artifact, decoder, whole)
    for at, part in (("artifact.sampling", sampling), ("artifact.sampler", whole)):
        if part is not None:
            _is_schedule(part, total, at)
            _is_within(part, artifact, at)
    few = sampling["solver"] != "consistency" or artifact["grids"]
    _need(bool(few), "artifact.sampling.solver", "must be of a few-step student, whose grids are empty", "consistency")
    _is_spelled_out(sampling["guidance"])
    if artifact["backend"] == "onnxruntime":
        _need(bool(artifact.get("providers")), "artifact.providers", "must not be empty", [])
    graphs = artifact["graphs"]
    _need("guided" in graphs, "artifact.graphs", "must have guided", list(graphs))
    _need("sampler" not in graphs or whole is not None, "artifact.sampler", "must say the sampler graph's steps", None)
    _need("cond" not in graphs or artifact["branches"] == 2, "artifact.graphs", "must have no cond", list(graphs))
    for name, graph in graphs.items():
        _is_graph(name, graph, artifact, manifest["files"])


def _decodes(artifact: dict[str, Any], decoder: dict[str, Any] | None, whole: dict[str, Any] | None) -> None:
    """The decoder is of latents, and a graph; a sampler that ends in it needs one."""
    if decoder is not None:
        shape = decoder["image_shape"]
        _need(shape[0] in (1, 3), "artifact.decoder.image_shape", "must have 1 or 3 channels", shape)
        _need(artifact["latents"], "artifact.decoder", "must be null of a student of images", decoder)
    there = "decoder" in artifact["graphs"]
    _need(there == (decoder is not None), "artifact.graphs", "must have decoder where artifact.decoder is", there)
    _need(not (whole and whole["decode"] and decoder is None), "artifact.sampler.decode", "must be false", True)


def _is_trained(artifact: dict[str, Any], total: int) -> None:
    """What the student was trained for: its betas, its range of guidance scales and its lists of timesteps."""
    betas, span, grids = artifact["betas"], artifact["guidance_range"], artifact["grids"]
    for index, beta in enumerate(betas[:-1]):
        _need(beta < 1, f"artifact.betas.{index}", "must be below 1", beta)
    ends = betas[-1] < 1 or artifact["prediction_type"] != "epsilon"
    _need(ends, f"artifact.betas.{total - 1}", "must be below 1 of a student that predicts epsilon", betas[-1])
    _need((span is None) == (artifact["branches"] == 2), "artifact.guidance_range", "must be of one branch", span)
    _need(span is None or span[0] < span[1], "artifact.guidance_range", "must have the lower scale first", span)
    for grid in grids:
        _need(all(a > b for a, b in pairwise(grid)), "artifact.grids", "must descend", grid)
        _need(grid[0] < total, "artifact.grids", f"must be below {total}", grid[0])


def _is_within(part: dict[str, Any], artifact: dict[str, Any], at: str) -> None:
    """Steps are among those of a few-step student, and scales within the range of one branch."""
    grids, (low, high) = artifact["grids"], artifact["guidance_range"] or (0.0, math.inf)
    known = f"must be one of grids, of {', '.join(str(len(grid)) for grid in grids)} steps"
    _need(not grids or part["timesteps"] in grids, f"{at}.timesteps", known, part["timesteps"])
    fits = all(low <= w <= high for w in part["guidance_scales"])
    _need(fits, f"{at}.guidance_scales", f"must be within {low} … {high}", part["guidance_scales"])


def _is_schedule(part: dict[str, Any], total: int, at: str) -> None:
    steps, scales = part["timesteps"], part["guidance_scales"]
    _need(all(a > b for a, b in pairwise(steps)), f"{at}.timesteps", "must descend", steps)
    _need(steps[0] < total, f"{at}.timesteps", f"must be below {total}", steps[0])
    _need(len(scales) == len(steps), f"{at}.guidance_scales", f"must have {len(steps)} values", len(scales))


def _is_spelled_out(guidance: Any) -> None:
    if not isinstance(guidance, dict):
        return
    at = "artifact.sampling.guidance"
    for key in (*GUIDANCE[guidance["kind"]], *guidance):
        _need(
            key in guidance and key in ("kind", *GUIDANCE[guidance["kind"]]),
            f"{at}.{key}",
            "is missing or not known",
            "",
        )
    if guidance["kind"] == "tag":
        _need(guidance["w_min"] <= guidance["w_max"], at, "must have w_min ≤ w_max", guidance)
    else:
        _need(guidance["low"] < guidance["high"], at, "must have low < high", guidance)


def _is_graph(name: str, graph: dict[str, Any], artifact: dict[str, Any], files: dict[str, str]) -> None:
    at, engine = f"artifact.graphs.{name}", graph.get("engine")
    for file in (graph["file"], *([graph["onnx"]] if graph.get("onnx") else [])):
        _need(file in graph["files"], f"{at}.files", f"must list {file!r}", graph["files"])
    for file in graph["files"]:
        _need(file in files, f"{at}.files", "must be in the manifest's files", file)
    inputs, output = SIGNATURES[name]
    output = PREDICTED[artifact["prediction_type"]] if output == "eps" else output
    for part, names in (("inputs", inputs), ("outputs", (output,))):
        expected = [_tensor(tensor, name, artifact) for tensor in names]
        given = [{key: tensor[key] for key in ("name", "dtype", "shape")} for tensor in graph[part]]
        _need(given == expected, f"{at}.{part}", f"must be {expected}", given)
    wanted = artifact["backend"] if artifact["backend"] in ENGINES else None
    flavour = engine["flavour"] if engine else None
    _need(flavour == wanted, f"{at}.engine", f"must be {wanted or 'null'}", flavour)
    for profile in engine["profiles"] if engine else ():
        _need(profile["min"] <= profile["opt"] <= profile["max"], f"{at}.engine.profiles", "must be in order", profile)


def _tensor(name: str, graph: str, artifact: dict[str, Any]) -> dict[str, Any]:
    whole = artifact.get("sampler") if graph == "sampler" else None
    dtype, sides = "float32", []
    if name in ("t", "t_prev", "y"):
        dtype = "int64"
    elif name != "w":
        sides = artifact["image_shape"]
    elif whole:
        sides = [len(whole["timesteps"])]
    if name == "noise" and whole and artifact["sampling"]["solver"] == "consistency":
        sides = [len(whole["timesteps"]), *sides]
    if name == "images" and whole:
        dtype = whole["output"]
    if name == "images" and (graph == "decoder" or (whole and whole["decode"])):
        sides = artifact["decoder"]["image_shape"]
        dtype = whole["output"] if whole else artifact["decoder"]["output"]
    return {"name": name, "dtype": dtype, "shape": ["batch", *sides]}


def _need(fits: bool, at: str, problem: str, value: Any) -> None:
    if not fits:
        raise ValueError(f"{at}: {problem}, got {ascii(value)[:100]}")

"""Responses to guidance and images of the same noise in a comparison."""

from __future__ import annotations

import json

from dashdeploy.compare import tables
from dashdeploy.compare.summary import Run, parse, summarise
from tests.compare.test_summary import COMPARISON, EVEN, FIDS, record


def test_responses_and_images_of_the_same_noise_have_tables_where_there_are_any() -> None:
    runs = {}
    for name, by_seed in FIDS.items():
        for seed, fids in by_seed.items():
            one = record(fids, 0.2, seed=seed)
            likeness = {"rho": 0.9 + 0.1 * seed, "energy_cosine": 0.8}
            far = {"rho": 0.1, "energy_cosine": 0.1}
            one["response"] = {
                "rows": [
                    {"model": model, "w": 2.0, "t": t, "to_gap": far, "to_target": likeness if t is None else far}
                    for model in ("student", "student-onnx-cpu")
                    for t in (None, 999)
                ]
            }
            for row in one["quality"]["rows"]:
                for each in row["by_seed"]:
                    each |= {"confidence": 0.9, "pixel_distance": None if row["model"] == "teacher" else 0.2 + seed}
            runs[name, seed] = Run(one, "t", EVEN, EVEN)
    found = summarise(COMPARISON, runs)
    (response,) = [t for t in tables.all_of(found) if t.title.startswith("Response")]
    assert response.headings == ("", "Cosine, w=2", "ρ, w=2")
    assert response.rows[0] == ("SCRATCH", "0.800", "0.950 [0.900, 1.00]")
    (images,) = [t for t in tables.all_of(found) if t.title.startswith("Root mean square")]
    assert images.headings[1:] == ("Pixels, w=1", "Pixels, w=2", "Confidence, w=1 (%)", "Confidence, w=2 (%)")
    assert images.rows[0][1:] == ("–", "–", "90.0", "90.0")
    assert images.rows[1][1:3] == ("0.700 [0.200, 1.20]", "0.700 [0.200, 1.20]")
    assert parse(json.loads(json.dumps(found.as_dict()))) == found


def test_without_them_there_are_no_such_tables() -> None:
    runs = {(v, s): Run(record(f, 0.2, seed=s), "t", EVEN, EVEN) for v, of in FIDS.items() for s, f in of.items()}
    shown = tables.all_of(summarise(COMPARISON, runs))
    assert not [t for t in shown if t.title.startswith(("Response", "Root mean square"))]

"""benchmarks/render.py: the results in the README and in docs/ are those of the committed records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dashdeploy.bench.record.record import parse
from dashdeploy.bench.report.markdown import markdown_results
from dashdeploy.errors import UserError
from tests.scripts import load

ROOT = Path(__file__).resolve().parent.parent
README = "# Title\n\n<!-- results:begin small -->\nstale\n<!-- results:end small -->\n\nThe end.\n"


render = load(ROOT / "benchmarks" / "render.py")


@pytest.fixture
def payload() -> dict[str, Any]:
    fixture: dict[str, Any] = load(ROOT / "tests" / "bench" / "conftest.py", "bench_conftest")._payload()
    return fixture


@pytest.fixture
def arguments(tmp_path: Path, payload: dict[str, Any]) -> list[str]:
    (tmp_path / "README.md").write_text(README)
    results = tmp_path / "results"
    results.mkdir()
    (results / "small.json").write_text(json.dumps(payload))
    (results / "small-baselines.json").write_text('{"rows": []}')
    return ["--readme", str(tmp_path / "README.md"), "--results", str(results)]


def test_the_part_between_the_markers_is_made_anew(arguments: list[str], payload: dict[str, Any]) -> None:
    assert render.main(arguments) == 0
    text = Path(arguments[1]).read_text()
    assert "stale" not in text
    assert text.startswith("# Title\n\n<!-- results:begin small -->\n")
    assert text.endswith("<!-- results:end small -->\n\nThe end.\n")
    assert markdown_results(parse(json.dumps(payload))) in text


def test_check_fails_until_it_was_rendered(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main([*arguments, "--check"]) == 1
    assert "is stale. Run: python benchmarks/render.py" in capsys.readouterr().err
    assert Path(arguments[1]).read_text() == README
    assert render.main(arguments) == 0
    assert render.main([*arguments, "--check"]) == 0


def test_the_short_form_is_one_table_of_four_columns(arguments: list[str], payload: dict[str, Any]) -> None:
    Path(arguments[1]).write_text(README.replace("small", "small-short"))
    assert render.main(arguments) == 0
    rows = [line for line in Path(arguments[1]).read_text().splitlines() if line.startswith("|")]
    assert rows[0] == "| Model | Images/s | FID [95 %] | Gap error |"
    assert len(rows) == 2 + len(payload["models"])
    assert {row.count("|") for row in rows} == {5}


def test_an_unknown_name_is_told_with_the_known_ones(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(arguments[1]).write_text(README.replace("small", "smell"))
    assert render.main(arguments) == 2
    error = capsys.readouterr().err
    assert "'smell'" in error and "Did you mean 'small'" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        "<!-- results:begin small -->\n",
        "<!-- results:end small -->\n",
        "<!-- results:begin small -->\n<!-- results:end other -->\n",
        "<!-- results:begin small -->\n<!-- results:begin small -->\n",
    ],
)
def test_markers_come_in_pairs(text: str, payload: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"README.md line 1: .* is not one of a begin and end pair"):
        render.render(text, {"small": markdown_results(parse(json.dumps(payload)))})


def test_a_damaged_record_is_a_mistake_and_changes_nothing(
    arguments: list[str], payload: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    payload["latency"][0]["p50_ms"] = "fast"
    (Path(arguments[3]) / "small.json").write_text(json.dumps(payload))
    assert render.main(arguments) == 2
    assert "latency.0.p50_ms" in capsys.readouterr().err
    assert Path(arguments[1]).read_text() == README


def test_the_longest_name_that_fits_renders_a_record(tmp_path: Path) -> None:
    """`triton-steps.json` is not a `triton.json`, and both it and the soak's record become tables."""
    machine = {"cpu": "c", "cores": 2, "gpu": None, "load_before": 0.1}
    common = {"machine": machine, "versions": {"onnxruntime": "1", "nvidia-pytriton": "2"}, "seed": 0}
    row = {"images_per_s": 10.0, "p50_ms": 5.0, "p99_ms": 20.0, "image_steps": 100.0, "wasted_image_steps": 7.0}
    keys = [("mixed", "closed", 4), ("mixed", "open", 0.6), ("few", "cancels", 0.6)]
    rows = [
        {
            "workload": workload,
            "loop": loop,
            "at": at,
            "mode": mode,
            **row,
            "p99_ms": 20.0 if mode == "dynamic" else 5.0,
            **{f"p99_ms_{steps}": 30.0 if mode == "dynamic" else 3.0 * steps for steps in (1, 2, 10, 20, 50)},
        }
        for workload, loop, at in keys
        for mode in ("dynamic", "steps")
    ]
    steps = common | {"rows": rows, "workloads": {"mixed": [10, 20, 50], "few": [1, 2]}, "threads": 2, "rounds": 3}
    steps |= {"seconds": 9.0, "max_queue_delay_us": 2000, "cancel_share": 0.2, "step_times_ms": {"1": 0.5, "2": 0.75}}
    steps |= {"places": 2}
    cancel = common | {"from_cancel_to_image_ms": 7.0, "to_image_with_a_free_place_ms": 4.0, "trials": 15}
    cancel |= {"places": 2, "step_ms": 0.75, "threads": 2}
    held = {"memory_bytes": 100 << 20, "shared_bytes": 0, "files": 70, "threads": 110, "processes": 3}
    soak = common | {"minutes": 60.0, "clients": 8, "counts": {"done": 5, "late": 9}, "early": held, "late": held}
    soak |= {"image_steps": 50.0, "wasted_image_steps": 5.0, "end": {"exit_code": 0, "processes_left": 0}, "wrong": []}
    row = {"threads": 1, "batch_size": 10, "page_ms": 120.0, "python_ms": 60.0, "page_over_python": 2.0, "runs": 25}
    page = common | {"artifact": "onnx-cpu", "run": "digits", "num_inference_steps": 4, "guidance": 2.0, "rows": [row]}
    page |= {"chromium": "156", "onnxruntime_web": "1.30.0", "loaded_bytes": 8_700_000, "ready_ms": 700.0}
    for name, record in (("web-few", page), ("triton-steps", steps), ("triton-cancel", cancel), ("triton-soak", soak)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    found = render.find_results(tmp_path)
    assert (
        "| 10, 20 or 50 | 4 clients | 10.0 | 10.0 | 5 / 20 | 5 / 5 | 1.00× | 0.25× | 1.00× | 5.00× |  |  |"
        in found["triton-steps"]
    )
    assert "| 1 or 2 | arrivals at 60%, some cancelled | 10.0 |" in found["triton-steps"]
    assert "1: 0.50, 2: 0.75. From it follow 2 places" in found["triton-steps"] and "7 (7.0%)" in found["triton-steps"]
    assert "gave a request of one step its image after 7 ms" in found["triton-cancel"]
    assert "loads 8.7 MB and is ready after 0.7 s" in found["web-few"]
    assert "| 1 | 10 | 120.0 | 12.0 | 60.0 | 2.00× |" in found["web-few"]
    assert "nothing grew, was lost or was wrong" in found["triton-soak"]
    assert found["triton-soak"].index("| late | 9 |") < found["triton-soak"].index("| done | 5 |")

"""Deployment targets: those that ship are valid, and mistakes are told as those of recipes are."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashdeploy.errors import UserError
from dashdeploy.locate import available
from dashdeploy.packages.schema import load
from dashdeploy.target import Target, load_target

VALID = "name: mine\ndescription: for a test\n"  # two lines


def problems(folder: Path, more: str) -> list[str]:
    """The lines of the message about a target file, without its head and the indentation."""
    path = folder / "mine.yaml"
    path.write_text(VALID + more)
    with pytest.raises(UserError) as caught:
        load_target(str(path))
    head, *lines = str(caught.value).split("\n")
    assert head.endswith(f"mine.yaml: {len(lines)} problem{'s' if len(lines) > 1 else ''}")
    return [line.strip() for line in lines]


@pytest.mark.parametrize("name", available("exporters"))
def test_every_target_that_ships_is_valid_and_named_after_its_file(name: str) -> None:
    assert load(name).name == name


@pytest.mark.parametrize("name", available("exporters"))
def test_every_target_that_ships_says_first_what_it_is(name: str) -> None:
    assert len(available("exporters")[name].read_text().splitlines()[0].removeprefix("# ")) > 20


def test_a_file_of_the_users_is_read_and_the_rest_is_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(VALID + "opset: 20\nparity: {relative_error: 1e-5}\n")
    target = load_target(str(tmp_path / "mine.yaml"))
    assert (target.opset, target.parity.relative_error) == (20, 1e-5)
    assert target.providers == Target(name="x", description="x").providers


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    found = problems(tmp_path, "opsett: 20\nparity:\n  batch_sizes: [1, 0]\n  relative_error: 0\n")
    assert found[0].startswith("line 3: opsett: unknown key; did you mean 'opset'? (known: name, description, backend,")
    assert found[1:] == [
        "line 5: parity.batch_sizes.1: must be ≥ 1, got 0",
        "line 6: parity.relative_error: must be > 0, got 0",
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "backend: onnxruntim",
            "backend: must be 'onnxruntime', 'openvino', 'tensorrt' or 'tensorrt_rtx', got 'onnxruntim'; "
            "did you mean 'onnxruntime'?",
        ),
        ("opset: yes", "opset: must be a whole number, got true"),
        ("opset: 7", "opset: must be ≥ 18, got 7"),
        ("providers: []", "providers: must have 1 or more values, got []"),
        ("providers: [A, A]", "providers: value 1 (counted from 0) repeats value 0"),
        ("parity: {batch_sizes: []}", "parity.batch_sizes: must have 1 or more values, got []"),
        ("parity: {t_bins: 0}", "parity.t_bins: must be ≥ 1, got 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_problem(tmp_path: Path, more: str, expected: str) -> None:
    assert problems(tmp_path, more) == [f"line 3: {expected}"]


def test_what_is_no_target_is_refused_in_a_targets_terms(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("[1]")
    with pytest.raises(
        UserError, match=r"expected sections \(`name: …`, `description: …`\) at the top level, got \[1\]"
    ):
        load_target(str(path))
    path.write_text("a: 1\n" * 100_000)
    with pytest.raises(UserError, match="500000 bytes; a target has at most"):
        load_target(str(path))


def test_an_unknown_target_lists_those_that_there_are() -> None:
    with pytest.raises(UserError, match=r"unknown export target 'onnx-cup'\. Did you mean 'onnx-cpu'"):
        load_target("onnx-cup")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("graphs: [cond]", "graphs must include guided: it is what parity and the guidance gate measure"),
        (
            "engine: {optimization_level: 3}",
            "engine is for the backends tensorrt and tensorrt_rtx; this one is onnxruntime",
        ),
        ("backend: openvino\nproviders: [A]", "providers is for the backend onnxruntime; this one is openvino"),
        ("calibration: {num_images: 8}", "calibration is for precision int8; this one is fp32"),
        ("sampler: {form: unrolled}", "sampler has settings, but graphs does not include it"),
        (
            "backend: tensorrt\nengine: {compute_capabilities: ['8.6']}",
            "engine.compute_capabilities is tensorrt_rtx's; tensorrt has hardware_compatibility",
        ),
        (
            "backend: tensorrt_rtx\nengine: {version_compatible: true}",
            "engine.version_compatible is tensorrt's; tensorrt_rtx has no such engines",
        ),
        (
            "backend: tensorrt\nprecision: int8\ncalibration: {quantizer: nncf}",
            "calibration.quantizer nncf makes OpenVINO models; tensorrt takes onnxruntime's",
        ),
        (
            "precision: int8\ncalibration: {quantizer: nncf}",
            "calibration.quantizer nncf makes OpenVINO models; onnxruntime takes onnxruntime's",
        ),
        (
            "backend: openvino\nprecision: int8\ncalibration: {quantizer: nncf}\ngraphs: [guided, step, sampler]",
            "calibration.quantizer nncf cannot quantize a sampler graph; leave sampler out of graphs",
        ),
        ("precision: bf16", "ONNX Runtime's CPU provider does not run bf16; take fp16, or the backend openvino"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, more: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, more))


def test_a_profile_out_of_order_and_a_gpu_that_rtx_does_not_know_have_their_lines(tmp_path: Path) -> None:
    found = problems(tmp_path, "backend: tensorrt_rtx\nengine:\n  profiles:\n    - {min: 8, opt: 4, max: 2}\n")
    assert found == ["line 6: engine.profiles.0: expected min ≤ opt ≤ max, got 8, 4, 2"]
    found = problems(tmp_path, "backend: tensorrt_rtx\nengine:\n  compute_capabilities: ['9.0']\n")
    assert found[0].startswith("line 5: engine.compute_capabilities.0: must be '7.5', '8.0', '8.6', '8.9', '12.0' or")


def test_an_engine_limits_the_batch_and_other_backends_do_not() -> None:
    assert load_target("jetson-orin").largest_batch == 8
    assert load_target("onnx-cpu").largest_batch is None

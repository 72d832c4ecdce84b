from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import dashdeploy
from dashdeploy.errors import UserError
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.opening import artifact_folders, open_path
from dashdeploy.stages import file_sha256, sidecar_text


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_run, folder)
    return folder


@pytest.mark.parametrize(
    ("part", "label"),
    [
        ("", "student (ONNX Runtime)"),
        ("student", "student (torch)"),
        ("teacher", "teacher (torch)"),
        ("artifacts/onnx-cpu", "student (ONNX Runtime)"),
        ("artifacts/onnx-cpu/guided.onnx", "student (ONNX Runtime)"),
    ],
)
def test_anything_a_run_made_opens(tiny_run: Path, part: str, label: str) -> None:
    with open_path(tiny_run / part, threads=1) as model:
        assert model.label == label
        assert model.denoiser.interface.num_classes == 10
        assert model.classes == tuple("0123456789")
        assert model.parameters == (45_321 if "teacher" in label else 11_797)


def test_all_runtimes_of_a_student_agree_on_each_branch(tiny_run: Path) -> None:
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t, y = torch.tensor([0, 100, 500, 900, 999]), torch.tensor([0, 3, 5, 7, 9])
    with open_path(tiny_run / "student", threads=1) as a, open_path(tiny_run, threads=1) as b, torch.no_grad():
        for ours, theirs in zip(a.denoiser.branches(x, t, y), b.denoiser.branches(x, t, y), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.denoiser(x, t, y), b.denoiser(x, t, y), rtol=1e-4, atol=1e-5)
        null = torch.full_like(y, 10)
        torch.testing.assert_close(b.denoiser(x, t, null), b.denoiser.branches(x, t, y)[0], rtol=1e-4, atol=1e-5)


def test_a_run_without_artifacts_opens_its_student(copied: Path) -> None:
    shutil.rmtree(copied / "artifacts")
    with open_path(copied) as model:
        assert model.label == "student (torch)"


def test_a_truncated_onnx_file_is_named(copied: Path, tmp_path: Path) -> None:
    path = copied / "artifacts" / "onnx-cpu" / "guided.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"guided.onnx: damaged or changed"):
        open_path(copied)
    bare = tmp_path / "model.onnx"
    bare.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole ONNX model"):
        open_path(bare)


def test_a_foreign_onnx_model_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    info = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n"])
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [info], [out])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(UserError, match=r"its inputs are \['a'\]"):
        open_path(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=99), "format 99"),
        (lambda m: m["files"].update({"gone.bin": "0" * 64}), "missing"),
        (lambda m: m["files"].update({"../tiny.yaml": "0" * 64}), "outside of its folder"),
        (
            lambda m: m["artifact"].update(backend="abacus"),
            r"manifest\.json: artifact\.backend: must be .*, got 'abacus'",
        ),
        (lambda m: m.pop("files"), "not a manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copied: Path, change, message: str) -> None:
    folder = copied / "artifacts" / "onnx-cpu"
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "manifest.json.sha256").write_bytes(sidecar_text(folder / "manifest.json"))
    with pytest.raises(UserError, match=message):
        open_path(folder)


@pytest.mark.parametrize(
    "name", ["guided.onnx", "cond.onnx", "step.onnx", "sampler.onnx", "manifest.json", "manifest.json.sha256"]
)
def test_one_changed_byte_anywhere_is_refused_before_anything_is_loaded(
    copied: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied / "artifacts" / "onnx-cpu"
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # loading anything would fail in another way
    with pytest.raises(UserError, match=r"damaged or changed|not a manifest"):
        open_path(folder)


def test_content_counts_so_links_into_a_store_are_followed(copied: Path, tmp_path: Path) -> None:
    """As in a hub's cache: each file of a snapshot is a link to a blob."""
    folder, blobs = copied / "artifacts" / "onnx-cpu", tmp_path / "blobs"
    separate(folder, "guided.onnx", "weights.bin", listed=True)
    shutil.copytree(folder, blobs)
    for path in blobs.iterdir():
        (folder / path.name).unlink()
        (folder / path.name).symlink_to(os.path.relpath(path, folder))
    for path in (folder, folder / "guided.onnx"):
        open_path(path, threads=1).close()
    (blobs / "weights.bin").write_bytes(bytes((blobs / "weights.bin").stat().st_size))
    for path in (folder, folder / "guided.onnx"):
        with pytest.raises(UserError, match=r"weights\.bin: damaged or changed since it was made"):
            open_path(path)


def separate(folder: Path, graph: str, name: str, *, listed: bool) -> None:
    """Put a graph's weights into a file beside it, which the manifest lists or not."""
    model = onnx.load(folder / graph)
    onnx.save(model, folder / graph, save_as_external_data=True, location=name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][graph] = file_sha256(folder / graph)
    if listed:
        manifest["files"][name] = file_sha256(folder / name)
        manifest["artifact"]["graphs"][Path(graph).stem]["files"].append(name)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "manifest.json.sha256").write_bytes(sidecar_text(folder / "manifest.json"))


def test_a_graph_names_only_its_own_files(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied / "artifacts" / "onnx-cpu"
    separate(folder, "guided.onnx", "weights.bin", listed=False)
    monkeypatch.chdir(folder)  # where ONNX Runtime itself would find them
    for path in (folder, folder / "guided.onnx"):
        with pytest.raises(UserError, match=r"its weights lie in 'weights\.bin', which is none of its files"):
            open_path(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/tmp/weights.bin", "inner/weights.bin"])
def test_a_file_without_a_manifest_names_no_file_elsewhere(copied: Path, tmp_path: Path, location: str) -> None:
    bare = tmp_path / "bare" / "model.onnx"
    bare.parent.mkdir()
    onnx.save(
        onnx.load(copied / "artifacts" / "onnx-cpu" / "guided.onnx"),
        bare,
        save_as_external_data=True,
        location="weights.bin",
    )
    open_path(bare, threads=1).close()
    model = onnx.load(bare, load_external_data=False)
    for entry in (e for tensor in model.graph.initializer for e in tensor.external_data if e.key == "location"):
        entry.value = location
    bare.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=f"'{location}' is not the name of a file inside of it"):
        open_path(bare)


def test_a_graph_that_the_manifest_does_not_list_is_not_opened(copied: Path) -> None:
    folder = copied / "artifacts" / "onnx-cpu"
    shutil.copy(folder / "guided.onnx", folder / "mine.onnx")
    with pytest.raises(UserError, match=r"mine\.onnx: .*manifest\.json lists no such graph"):
        open_path(folder / "mine.onnx")


def test_what_is_changed_after_the_check_is_not_loaded(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied / "artifacts" / "onnx-cpu"
    with open_path(folder, threads=1) as model:
        shutil.copy(folder / "cond.onnx", folder / "step.onnx")
        assert isinstance(model.sampler, GraphSampler)
        with pytest.raises(UserError, match=r"step\.onnx: damaged or changed since it was made"):
            model.sampler.graphs["step"]


def test_an_artifact_of_an_earlier_student_is_refused_in_its_run_and_told_of_by_its_own_path(
    copied: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = copied / "student" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"].popitem()
    path.write_text(json.dumps(manifest))
    path.with_name("manifest.json.sha256").write_bytes(sidecar_text(path))
    with pytest.raises(UserError, match=r"another student.*`dashdeploy export .*tiny --to onnx-cpu`"):
        open_path(copied)
    assert capfd.readouterr().err == ""
    artifact = copied / "artifacts" / "onnx-cpu"
    for opened in (artifact, artifact / "guided.onnx"):
        with open_path(opened, threads=1):
            assert capfd.readouterr().err.startswith(f"warning: {artifact}: it was exported from another student")
    shutil.rmtree(copied / "student")
    with open_path(copied, threads=1):
        assert capfd.readouterr().err == ""


def test_what_a_killed_export_left_is_no_artifact(copied: Path) -> None:
    for left in (".work/aaa/draft", ".aaa-old"):
        shutil.copytree(copied / "artifacts" / "onnx-cpu", copied / "artifacts" / left)
    (copied / "artifacts" / ".work" / "aaa" / "draft" / "manifest.json").unlink()
    assert [folder.name for folder in artifact_folders(copied)] == ["onnx-cpu"]


def test_a_path_without_a_model_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        open_path(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no model yet"):
        open_path(tmp_path)


@pytest.mark.parametrize("device", ["mps", "cuda:99", "banana", "", "cpu:0", "cuda:-1"])
def test_another_device_is_refused_in_one_line(tiny_run: Path, device: str) -> None:
    with pytest.raises(UserError, match=rf"device '{device}': (expected cpu, cuda|torch sees \d+ CUDA devices)"):
        open_path(tiny_run, device=device)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"threads": n}, "threads must be a whole number from 1 to 1,024") for n in (0, -1, "2", 1.5, True, 10**9)],
        ({"device": 3}, "device '3': expected cpu"),
        ({"provider": ""}, "provider must be text, or be left out; got ''"),
        ({"provider": 1}, "provider must be text"),
        ({"public_key": ""}, "public_key must be text, or be left out; got ''"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_one_line(tiny_run: Path, options: dict, message: str) -> None:
    for path in (tiny_run, tiny_run / "student", tiny_run / "artifacts" / "onnx-cpu" / "step.onnx"):
        with pytest.raises(UserError, match=message):
            dashdeploy.open(path, **options)


def test_numbers_of_numpy_a_device_of_torch_and_a_long_name_are_taken_for_what_they_are(tiny_run: Path) -> None:
    dashdeploy.open(tiny_run, threads=np.int64(1), device=str(torch.device("cpu"))).close()
    dashdeploy.open(tiny_run, device=torch.device("cpu")).close()  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no such file or folder"):
        dashdeploy.open("x" * 300)

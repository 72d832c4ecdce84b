"""The package itself: what is in it, what vouches for it, and what is refused in one line with nothing written."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dashdeploy import locate, stages
from dashdeploy import manifest as manifests
from dashdeploy.artifact import Artifact
from dashdeploy.errors import UserError
from dashdeploy.packages import onnxruntime_web, schema
from dashdeploy.packages.web import WebWriter, served
from tests.web import browsing

TEMPLATES = locate.data_root("exporters") / "web"
HOSTS = re.compile(r"(?:https?:)?//([a-z0-9-]+(?:\.[a-z0-9-]+)+)", re.IGNORECASE)


def writer(**settings: Any) -> WebWriter:
    package = schema.load("web")
    assert isinstance(package, schema.Package)
    return WebWriter(package.model_copy(update={"package": package.package.model_copy(update=settings)}), TEMPLATES)


def listed(package: Path) -> dict[str, str]:
    """files.js: file -> SHA-256."""
    text = (package / "files.js").read_text()
    found: dict[str, str] = json.loads(text[text.index("{") : text.rindex("}") + 1])["files"]
    return found


@pytest.mark.slow
def test_every_file_of_the_page_is_vouched_for_from_the_page_down(package: Path) -> None:
    page = (package / "index.html").read_text()
    for name in ("files.js", "start.js", "page.css"):
        integrity = base64.b64encode(hashlib.sha256((package / name).read_bytes()).digest()).decode()
        # The address changes with the file, so that no browser takes an old copy for it.
        assert re.search(rf'"{name}\?\S+" integrity="sha256-{re.escape(integrity)}"', page)
    hashes = listed(package)
    assert {name for name, value in hashes.items() if value == ""} == {"index.html", "files.js"}
    loaded = set(served(package)) - {stages.MANIFEST, stages.SIDECAR}  # the stage's own come later
    assert {name: value for name, value in hashes.items() if value} == {
        name: stages.file_sha256(package / name) for name in loaded
    }
    pinned = json.loads((package / "ort" / "ort.json").read_text())
    assert pinned["files"] == {name: stages.file_sha256(package / "ort" / name) for name in pinned["files"]}
    assert stages.read_stage(package / "artifact").manifest["stage"] == "onnx-cpu"


@pytest.mark.slow
def test_the_service_worker_sends_the_policy_of_the_page(package: Path) -> None:
    """A worker inherits none: without the header ONNX Runtime's would have none at all."""
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (package / "index.html").read_text())
    sent = re.search(r'"Content-Security-Policy": "([^"]+)" \+\s*"([^"]+)"', (package / "sw.js").read_text())
    assert policy is not None
    assert sent is not None
    assert sent[1] + sent[2] == policy[1]


@pytest.mark.slow
def test_the_wasm_is_the_pinned_one_packed(package: Path) -> None:
    packed = package / "ort" / "ort-wasm-simd-threaded.wasm.gzip"
    unpacked = gzip.decompress(packed.read_bytes())
    assert hashlib.sha256(unpacked).hexdigest() == onnxruntime_web.SHA256["ort-wasm-simd-threaded.wasm"]
    assert "MIT License" in (package / "ort" / "LICENSE.txt").read_text()
    assert json.loads((package / "package.json").read_text())["dependencies"] == {
        "onnxruntime-web": onnxruntime_web.VERSION
    }


@pytest.mark.slow
def test_no_source_of_ours_names_another_host(package: Path) -> None:
    for path in package.iterdir():
        if path.suffix in (".js", ".html", ".css", ".ts", ".json"):
            assert not HOSTS.findall(path.read_text()), path


@pytest.mark.slow
def test_modules_have_types_and_source_maps_that_hold_the_sources(package: Path) -> None:
    for source in sorted((TEMPLATES / "src").glob("*.ts")):
        assert (package / f"{source.stem}.d.ts").is_file()
        held = json.loads((package / f"{source.stem}.js.map").read_text())
        assert held["sourcesContent"] == [source.read_text()]


@pytest.mark.slow
def test_it_is_small_and_its_figures_say_how_small(package: Path) -> None:
    figures = stages.read_stage(package).figures
    assert figures["onnxruntime_web"] == onnxruntime_web.VERSION
    assert 3e6 < figures["loaded_bytes"] < 16e6
    assert "node_modules" not in {path.name for path in package.rglob("*")}


@pytest.mark.slow
def test_a_title_is_text_and_webgpu_may_be_carried(newer: Path) -> None:
    assert "<h1>A &lt;b&gt;newer&lt;/b&gt; page &amp; more</h1>" in (newer / "index.html").read_text()
    assert set(json.loads((newer / "ort" / "ort.json").read_text())["backends"]) == {"wasm", "webgpu"}
    assert "?backend=webgpu" in (newer / "README.md").read_text()


@pytest.mark.slow
def test_artifacts_that_no_browser_runs_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    held = manifests.read(stages.read_stage(tiny_run / "artifacts" / "onnx-cpu"))
    with pytest.raises(UserError, match=r"a: a browser runs artifacts for onnxruntime, and this one is for openvino\b"):
        writer().fits("a", "openvino", ["guided"], ())
    changes: list[tuple[dict[str, Any], str]] = [
        ({"precision": "fp16"}, r"the precision is fp16, and WebAssembly has kernels for fp32 and int8 alone"),
        ({"providers": ["CUDAExecutionProvider"]}, r"CUDAExecutionProvider, which no browser has"),
        ({"latents": True}, r"it draws latents of 1 channels and has no decoder, so there is no picture to show"),
    ]
    for change, text in changes:
        artifact = Artifact.model_validate({**held.artifact.model_dump(), **change})
        with pytest.raises(UserError, match=text):
            writer().write(tmp_path, tmp_path, held.model_copy(update={"artifact": artifact}))
    assert not list(tmp_path.iterdir())


def test_a_copy_of_another_version_is_refused(tmp_path: Path) -> None:
    for name in onnxruntime_web.BACKENDS["wasm"]:
        (tmp_path / name).write_bytes(b"other")
    with pytest.raises(UserError, match=r"not the file of onnxruntime-web@\S+ \(its SHA-256 differs\)"):
        onnxruntime_web.write(tmp_path / "made", ("wasm",), tmp_path)
    (tmp_path / "ort.wasm.bundle.min.mjs").unlink()
    with pytest.raises(UserError, match=r"no such file. Give a folder with the npm package onnxruntime-web@"):
        onnxruntime_web.write(tmp_path / "made", ("wasm",), tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(locate, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / f"onnxruntime-web-{onnxruntime_web.VERSION}"


def npm_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Another npm."""
    program = tmp_path / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(program))


def test_without_npm_it_says_what_to_do(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for call in (
        lambda: onnxruntime_web.write(tmp_path / "made", ("wasm",), None),
        lambda: writer().fits("a", "onnxruntime", ["guided"], ()),  # before anything is trained or exported
    ):
        with pytest.raises(UserError, match=r"npm is not here. Install Node.js, or put onnxruntime_web: FOLDER"):
            call()
    assert not (tmp_path / "made").exists()


def test_what_npm_says_is_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_that(tmp_path, monkeypatch, "echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(UserError, match=r"npm cannot fetch onnxruntime-web@\S+ \(npm error code ENOTFOUND\)"):
        onnxruntime_web.write(tmp_path / "made", ("wasm",), None)
    assert not list(cache.glob("*.wasm"))


def test_another_package_of_the_same_name_is_not_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    for name in onnxruntime_web.SHA256:
        (dist / name).write_bytes(b"other")
    subprocess.run(["tar", "-czf", "other.tar", "package"], cwd=tmp_path, check=True)
    npm_that(tmp_path, monkeypatch, f"cp {tmp_path}/other.tar other.tgz")
    with pytest.raises(UserError, match=r"npm fetched another onnxruntime-web@\S+: the SHA-256 of its \S+ differs"):
        onnxruntime_web.write(tmp_path / "made", ("wasm",), None)
    assert not list(cache.glob("ort*"))


@pytest.mark.slow
def test_the_cache_is_filled_once_and_mended(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = browsing.modules() / "onnxruntime-web"
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "dist").symlink_to(source / "dist")
    names = [f"package/dist/{name}" for name in onnxruntime_web.SHA256]
    subprocess.run(["tar", "-cf", "real.tar", "--dereference", *names], cwd=tmp_path, check=True)
    npm_that(tmp_path, monkeypatch, f"echo x >> {tmp_path}/calls; cp {tmp_path}/real.tar real.tgz")
    onnxruntime_web.write(tmp_path / "first", ("wasm",), None)
    onnxruntime_web.write(tmp_path / "second", ("wasm",), None)
    assert (tmp_path / "calls").read_text() == "x\n"
    (cache / "ort.wasm.bundle.min.mjs").write_bytes(b"damaged")
    onnxruntime_web.write(tmp_path / "third", ("wasm",), None)
    assert (tmp_path / "calls").read_text() == "x\nx\n"
    assert stages.folder_sha256(tmp_path / "first") == stages.folder_sha256(tmp_path / "third")

"""The page in a headless Chromium: it draws what the Python runtime draws, stops, asks no other host, works offline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dashdeploy import stages
from dashdeploy.runtime.opening import open_path
from tests.web.browsing import INSECURE, Chromium, Server, Visit
from tests.web.conftest import Answers
from tests.web.test_library import by_python

pytestmark = pytest.mark.slow

READY = """
const told = () => document.getElementById("status").textContent === "Ready."
  || !document.getElementById("alert").hidden;
await page.goto(args.url);
await page.waitForFunction(told);
"""
STATUS = '() => document.getElementById("status").textContent'
PIXELS = """
[...document.querySelectorAll("canvas")].map((canvas) =>
  [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 0))
"""


def visit(chromium: Chromium, url: str, code: str = "return null;", **options: Any) -> Visit:
    """A visit of a page that is waited for until it is ready, or has said what is wrong."""
    seen = chromium.visit(READY + code, {"url": url}, **options)
    assert not seen.errors, seen.errors
    return seen


def test_the_page_draws_the_digits_of_the_python_runtime(chromium: Chromium, address: str, artifact: Path) -> None:
    code = f"""
    await page.fill("#w", "3");
    await page.fill("#seed", "7");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("canvas").length === 10);
    await page.waitForFunction(() => / each\\.$/.test(document.getElementById("status").textContent));
    const drawn = await page.evaluate(`{PIXELS}`);
    const floats = await page.evaluate(async () => {{
      const {{ open }} = await import("./dashdeploy.js");
      const model = await open("artifact");
      const {{ data, shape }} = await model.sample({{ labels: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], w: 3, seed: 7 }});
      return {{ data: [...data], shape, backend: model.backend, threads: model.threads }};
    }});
    return {{ drawn, floats, names: await page.locator("figcaption").allTextContents() }};
    """
    seen = visit(chromium, address, code)
    with open_path(artifact, threads=1) as model:
        expected = by_python(model, w=3.0, seed=7, steps=None)
    floats = seen.value["floats"]
    assert (floats["shape"], floats["backend"]) == ([10, 1, 8, 8], "wasm")
    assert np.abs(np.float32(floats["data"]).reshape(10, 1, 8, 8) - expected).max() < 1e-3
    pixels = np.clip(np.rint((expected + 1) * 127.5), 0, 255).reshape(10, 64)
    assert np.abs(np.array(seen.value["drawn"]) - pixels).max() <= 1
    assert [name[0] for name in seen.value["names"]] == [str(digit) for digit in range(10)]
    assert all("ms" in name for name in seen.value["names"])
    assert seen.console == []
    assert {url.split("/")[2] for url in seen.requests} == {address.removeprefix("http://")}


def test_escape_stops_within_a_step_and_the_page_draws_on(chromium: Chromium, address: str) -> None:
    code = f"""
    await page.selectOption("#steps", "250");
    await page.fill("#count", "40");
    await page.click("#draw");
    await page.waitForFunction(() => document.getElementById("progress").value > 0);
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("Stopped."));
    const [stopped, canvases] = [await page.evaluate({STATUS}), await page.locator("canvas").count()];
    const alert = await page.evaluate(() => document.getElementById("alert").hidden);
    await page.selectOption("#steps", "4");
    await page.fill("#count", "1");
    await page.click("#draw");
    await page.waitForFunction(() => / each\\.$/.test(document.getElementById("status").textContent));
    return {{ stopped, canvases, alert, then: await page.locator("canvas").count() }};
    """
    seen = visit(chromium, address, code)
    assert seen.value["alert"] and seen.value["canvases"] < 40 and seen.value["then"] == 1
    assert seen.console == []


def test_a_signal_at_step_five_stops_at_step_five(chromium: Chromium, address: str) -> None:
    code = """
    return await page.evaluate(async () => {
      const { open } = await import("./dashdeploy.js");
      const model = await open("artifact", { threads: 1 });
      const stop = new AbortController();
      let steps = 0;
      const onStep = (done) => { steps = done; if (done === 5) setTimeout(() => stop.abort(), 0); };
      const request = { labels: [1], steps: 50, onStep, signal: stop.signal };
      return await model.sample(request).catch((error) => ({ steps, status: error.status, name: error.name }));
    });
    """
    value = visit(chromium, address, code).value
    assert value["status"] == "cancelled" and value["name"] == "DashdeployError" and value["steps"] in (5, 6)


def test_what_a_user_may_mistype_is_told_and_nothing_is_drawn(chromium: Chromium, address: str) -> None:
    code = """
    const said = [];
    const mistakes = [["#w", "-2"], ["#w", "1e300"], ["#seed", "99999999999999999999"], ["#count", "5000"]];
    for (const [field, value] of mistakes) {
      const before = await page.inputValue(field);
      await page.evaluate(() => document.getElementById("form").noValidate = true);
      await page.fill(field, value);
      await page.click("#draw");
      await page.waitForFunction(() => !document.getElementById("alert").hidden);
      const [alert, status] = [await page.textContent("#alert"), await page.textContent("#status")];
      said.push([alert, status, await page.locator("canvas").count()]);
      await page.fill(field, before);
    }
    return said;
    """
    seen = visit(chromium, address, code)
    told = [text for text, _, _ in seen.value]
    assert told[0] == "guidance: w is -2; expected a number >= 0 (1 = off)."
    assert told[1] == "guidance: the scale of step 0 is inf; expected a number >= 0."
    assert told[2].startswith("seed is 99999999999999999999; expected a whole number in 0 ...")
    assert told[3] == "count is 5000; expected 1 ... 1000."
    assert all(status == "Not drawn. There are no images." and count == 0 for _, status, count in seen.value)
    assert seen.console == []


def test_it_says_to_those_who_do_not_see_it_what_it_shows(chromium: Chromium, address: str) -> None:
    code = """
    await page.fill("#count", "2");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("canvas").length === 2);
    return await page.evaluate(() => ({
      lang: document.documentElement.lang,
      unnamed: [...document.querySelectorAll("input, select, button, progress, canvas")].filter((part) =>
        !(part.labels?.length || part.textContent.trim() || part.getAttribute("aria-label"))).map((part) => part.id),
      roles: ["status", "alert"].map((id) => document.getElementById(id).getAttribute("role")),
      images: [...document.querySelectorAll("canvas")].map((part) => part.getAttribute("aria-label")),
      headings: document.querySelectorAll("h1").length,
      wide: document.documentElement.scrollWidth > innerWidth,
    }));
    """
    value = visit(chromium, address, code, viewport={"width": 390, "height": 844}).value
    assert value["lang"] == "en" and value["unnamed"] == [] and value["roles"] == ["status", "alert"]
    assert value["images"] == ["Image of the class 0", "Image of the class 1"]
    assert value["headings"] == 1 and not value["wide"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(chromium: Chromium, address: str, scheme: str) -> None:
    code = """
    const names = ["body", "header p", "#draw", "#another", "label", "#about"];
    return await page.evaluate((names) => names.map((name) => {
      const ground = (part) => part === null ? "rgb(255, 255, 255)" :
        /, 0\\)$/.test(getComputedStyle(part).backgroundColor) ? ground(part.parentElement) :
        getComputedStyle(part).backgroundColor;
      const part = document.querySelector(name);
      return [getComputedStyle(part).color, ground(part)];
    }), names);
    """

    def brightness(colour: str) -> float:
        channels = [int(c) / 255 for c in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink, ground in visit(chromium, address, code, colorScheme=scheme).value:
        low, high = sorted((brightness(ink), brightness(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)  # WCAG 2.2, level AA


def test_it_works_offline_after_the_first_visit(chromium: Chromium, package: Path) -> None:
    code = """
    await page.waitForFunction(() => document.getElementById("offline").textContent === "Kept for offline use.");
    await context.setOffline(true);
    await page.goto("about:blank");
    await page.goto(args.url);
    await page.waitForFunction(told);
    await page.fill("#count", "1");
    await page.click("#draw");
    await page.waitForFunction(() => document.querySelectorAll("canvas").length === 1);
    return await page.evaluate(() => crossOriginIsolated);
    """
    with Server(package, {}) as server:
        seen = visit(chromium, f"{server.address}/", code)
    assert seen.value is True  # by the service worker's headers: this server sends none


@pytest.fixture(scope="module")
def large(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The package with a manifest that calls its network not small, which takes threads; without headers."""
    folder = tmp_path_factory.mktemp("large") / "web"
    shutil.copytree(package, folder)
    path = folder / "artifact" / stages.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["artifact"]["host"]["small"] = False
    path.write_text(json.dumps(manifest))
    (path.parent / stages.SIDECAR).write_bytes(stages.sidecar_text(path))
    with Server(folder, {}) as server:
        yield server


def test_without_isolation_it_runs_on_one_thread_and_says_so(chromium: Chromium, large: Server) -> None:
    code = """
    const text = (id) => page.textContent("#" + id);
    return [await text("notices"), await text("about"), await text("alert")];
    """
    notice, about, alert = visit(chromium, f"{large.address}/", code, serviceWorkers="block").value
    assert "One thread: the page is not cross-origin isolated: its server must send Cross-Origin-Opener" in notice, (
        alert
    )
    assert "WebAssembly, 1 thread" in about
    _, _, alert = visit(chromium, f"{large.address}/?threads=2", code, serviceWorkers="block").value
    assert alert.startswith("threads is 2, and the page is not cross-origin isolated")


def test_two_threads_draw_the_same(chromium: Chromium, address: str, artifact: Path) -> None:
    code = """
    return await page.evaluate(async () => {
      const { open } = await import("./dashdeploy.js");
      const model = await open("artifact", { threads: 2 });
      const { data } = await model.sample({ labels: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], w: 3, seed: 7 });
      const other = await open("artifact", { threads: 1 }).catch((error) => [error.status, error.message]);
      return { data: [...data], threads: model.threads, other };
    });
    """
    value = visit(chromium, address, code).value
    with open_path(artifact, threads=1) as model:
        expected = by_python(model, w=3.0, seed=7, steps=None)
    assert value["threads"] == 2
    assert np.abs(np.float32(value["data"]).reshape(10, 1, 8, 8) - expected).max() < 1e-3
    assert value["other"][0] == "argument" and "cannot start again as wasm with threads: 1" in value["other"][1]


def test_webgpu_is_never_another_back_end(chromium: Chromium, address: str) -> None:
    seen = visit(chromium, f"{address}/?backend=webgpu", 'return await page.textContent("#alert")')
    assert seen.value.startswith("backend webgpu: ")


def test_what_a_page_loads_is_less_than_16_mb(chromium: Chromium, address: str, package: Path) -> None:
    seen = visit(chromium, address, f"return await page.evaluate({STATUS})", serviceWorkers="block")
    assert seen.value == "Ready."
    names = {url.removeprefix(address).split("?")[0].strip("/") or "index.html" for url in seen.requests}
    assert sum((package / name).stat().st_size for name in names) < 16e6


def test_weights_beside_a_graph_are_loaded_from_the_bytes_that_were_checked(
    chromium: Chromium, package: Path, in_node: Callable[..., Answers], tmp_path: Path
) -> None:
    folder = tmp_path / "web"
    shutil.copytree(package, folder)
    path, weights = folder / "artifact" / "step.onnx", "step.onnx.data"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=weights, size_threshold=256)
    manifest = json.loads((folder / "artifact" / stages.MANIFEST).read_text())
    manifest["artifact"]["graphs"]["step"]["files"].append(weights)
    for name in (path.name, weights):
        manifest["files"][name] = stages.file_sha256(path.with_name(name))
    (folder / "artifact" / stages.MANIFEST).write_text(json.dumps(manifest))
    (folder / "artifact" / stages.SIDECAR).write_bytes(stages.sidecar_text(folder / "artifact" / stages.MANIFEST))
    code = """
    return await page.evaluate(async () => {
      const { open } = await import("./dashdeploy.js");
      const model = await open("artifact", { threads: 1 });
      return [...(await model.sample({ labels: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], w: 3, seed: 7 })).data];
    });
    """
    with Server(folder, {}) as server:
        drawn = visit(chromium, f"{server.address}/", code, serviceWorkers="block").value
    with open_path(package / "artifact", threads=1) as model:
        expected = by_python(model, w=3.0, seed=7, steps=None)
    assert np.abs(np.float32(drawn).reshape(10, 1, 8, 8) - expected).max() < 1e-3
    (answer,) = in_node(folder / "artifact")
    assert answer["status"] == "unsupported"
    assert "its weights lie beside it, and onnxruntime-node takes none from memory" in answer["message"]


def test_over_plain_http_it_draws_and_says_that_it_is_not_kept(chromium: Chromium, package: Path) -> None:
    code = """
    await page.fill("#count", "1");
    await page.click("#draw");
    await page.waitForFunction(() => document.querySelectorAll("canvas").length === 1);
    return await page.evaluate(() => [isSecureContext, document.getElementById("offline").textContent]);
    """
    with Server(package, {}) as server:
        seen = visit(chromium, server.address.replace("127.0.0.1", INSECURE) + "/", code)
    assert seen.value == [False, "Not kept for offline use: that takes https, and a browser that keeps pages."]
    assert seen.console == []


def test_a_server_that_fails_is_told_in_words(chromium: Chromium, package: Path) -> None:
    with Server(package, {}) as server:
        handler: Any = server.server.RequestHandlerClass
        plain, failures = handler.func.do_GET, {}

        def do_GET(self: Any) -> None:
            if self.path != "/artifact/step.onnx":
                plain(self)
            elif failures["how"] == "half":
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                self.wfile.write(b"x" * 1000)
                self.close_connection = True
            else:
                self.send_error(500)

        handler.func.do_GET = do_GET
        code = 'return [await page.textContent("#alert"), await page.locator("canvas").count()];'
        for how, text in (("500", "cannot be read (HTTP 500)."), ("half", "cannot be read (")):
            failures["how"] = how
            alert, images = visit(chromium, f"{server.address}/", code, serviceWorkers="block").value
            assert alert.startswith(f"artifact/step.onnx: {text}") and images == 0

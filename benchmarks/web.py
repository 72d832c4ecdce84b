"""The web package in Chromium against the Python runtime, on the same artifact: python benchmarks/web.py RUN

Writes the package of the run, opens it in a headless Chromium on one and on two threads, and draws single images and
batches of ten in the steps of the recipe, in turns with the Python runtime on as many threads. A recipe of 50 steps and
one of few steps are two runs. Beside it the bytes that the page loads and the time until it is ready. Writes
benchmarks/results/web.json, of a few-step student web-few.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import dashdeploy.runtime
from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.diffusion.sampling import Plan, initial_noise, plan
from dashdeploy.packages import schema
from dashdeploy.packages.stage import write_package
from dashdeploy.runtime.model import Model

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import web_browser  # noqa: E402

BATCHES = (1, 10)
THREADS = (1, 2)
SCALE, SEED = 2.0, 7
WARM_UP_MS = 3000
READY = """
const before = performance.now();
await page.goto(args.url);
await page.waitForFunction(() => document.getElementById("status").textContent === "Ready.");
return performance.now() - before;
"""
DRAW = """
await page.goto(args.url + "README.md");  // the same origin, and nothing else at work
return await page.evaluate(async ({ batch, threads, repeats, w, seed, warmUpMs }) => {
  const { open } = await import("./dashdeploy.js");
  const model = await open("artifact", { threads });
  const request = { labels: Array.from({ length: batch }, (_, i) => i % model.classes.length), w, seed };
  const before = performance.now();  // while it warms up, the browser compiles its WebAssembly again, optimised
  while (performance.now() - before < warmUpMs) await model.sample(request);
  const times = [];
  for (let i = 0; i < repeats; i++) times.push((await model.sample(request)).ms);
  return { times, isolated: crossOriginIsolated };
}, args);
"""


def in_python(model: Model, steps: Plan, batch: int, repeats: int) -> list[float]:
    """Milliseconds of each call."""
    interface, times = model.denoiser.interface, []
    labels = torch.arange(batch) % interface.num_classes
    noise = initial_noise(SEED, 0, batch, interface.noise_shape(steps))
    for _ in range(repeats + 1):  # the first is warm-up
        start = time.perf_counter()
        model.sample(noise, labels, steps)
        times.append(1e3 * (time.perf_counter() - start))
    return times[1:]


def measure(
    browser: web_browser.Chromium, url: str, artifact: Path, threads: int, rounds: int, repeats: int
) -> list[dict[str, Any]]:
    """A row for each batch, on so many threads."""
    rows = []
    with dashdeploy.runtime.open(artifact, threads=threads) as model:
        interface = model.denoiser.interface
        steps = plan(model.sampling, interface.schedule.num_train_timesteps, scale=SCALE, grids=interface.grids)
        for batch in BATCHES:
            page: list[float] = []
            python: list[float] = []
            asked = {"batch": batch, "threads": threads, "repeats": repeats, "w": SCALE, "seed": SEED, "url": url}
            asked["warmUpMs"] = WARM_UP_MS
            for _ in range(rounds):
                page += browser.visit(DRAW, asked, serviceWorkers="block").value["times"]
                python += in_python(model, steps, batch, repeats)
            medians = {"page_ms": statistics.median(page), "python_ms": statistics.median(python)}
            row = {"threads": threads, "batch_size": batch, "runs": len(page), **medians}
            rows.append({**row, "page_over_python": medians["page_ms"] / medians["python_ms"]})
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--artifact", default="onnx-cpu", help="the target that the package carries")
    parser.add_argument("--rounds", type=int, default=5, help="turns of page and Python")
    parser.add_argument("--repeats", type=int, default=5, help="calls of one turn")
    parser.add_argument("--print", action="store_true", help="print the result, and keep nothing")
    options = parser.parse_args()
    package = schema.load("web")
    assert isinstance(package, schema.Package)
    written = write_package(options.run, package.model_copy(update={"artifact": options.artifact}))
    artifact = options.run / "artifacts" / options.artifact
    with web_browser.Server(written.folder, web_browser.ISOLATED) as server, web_browser.Chromium() as browser:
        url = f"{server.address}/"
        ready = [browser.visit(READY, {"url": url}, serviceWorkers="block").value for _ in range(options.rounds)]
        rows = [
            row
            for threads in THREADS
            for row in measure(browser, url, artifact, threads, options.rounds, options.repeats)
        ]
    described = stages.read_stage(artifact).manifest["artifact"]
    result = {
        "run": options.run.name,
        "artifact": options.artifact,
        "num_inference_steps": len(described["sampling"]["timesteps"]),
        "guidance": SCALE,
        "seed": SEED,
        "chromium": browser.version,
        "onnxruntime_web": written.figures["onnxruntime_web"],
        "loaded_bytes": written.figures["loaded_bytes"],
        "ready_ms": statistics.median(ready),
        "rows": rows,
        "machine": machine(),
        "versions": stages.versions(),
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.print:
        print(text, end="")
        return
    name = "web-few.json" if described["grids"] else "web.json"
    (Path(__file__).parent / "results" / name).write_text(text)


if __name__ == "__main__":
    main()

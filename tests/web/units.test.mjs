// Unit tests of the runtime's modules, run by node:test; VECTORS is a file of known answers that Python wrote.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { createContext, runInContext } from "node:vm";

const { DIST, VECTORS } = process.env;
const load = (name) => import(pathToFileURL(`${DIST}/${name}.js`));
const vectors = JSON.parse(readFileSync(VECTORS, "utf8"));
const { JsonNumber, parseJson } = await load("json");
const { nearest, shown } = await load("numbers");
const { digest, sha256 } = await load("sha256");
const { noise, philox4x32, words64 } = await load("noise");
const { timesteps } = await load("plan");
const { alphasCumprod, ddimUpdate, renoise } = await load("update");
const { externalFiles } = await load("onnx_files");
const { DashdeployError } = await load("errors");
const { Model } = await load("model");
const { Studio } = await load("studio");
const bytes = (text) => new TextEncoder().encode(text);
const plain = (value) => {
  if (value instanceof JsonNumber) return value.value;
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, inner]) => [key, plain(inner)]));
  return Array.isArray(value) ? value.map(plain) : value;
};

test("JSON is read as JSON.parse reads it", () => {
  for (const text of ['{"a": [1, -2.5e3, true, null], "b": {"c": "\\u00e9\\n\\"\\ud83d\\ude42"}}', " 7 ", "[]", "{}", '""', "-0.0"]) {
    assert.deepEqual(plain(parseJson(bytes(text))), JSON.parse(text));
  }
});

test("a whole number is told from one with a fraction", () => {
  for (const [text, whole] of [["22", true], ["22.0", false], ["2e1", false], ["-0", true], ["18446744073709551616", false]]) {
    assert.equal(parseJson(bytes(text)).whole, whole, text);
  }
});

test("what is no JSON is refused", () => {
  for (const text of [
    "", "{", "[1,]", '{"a" 1}', "{'a': 1}", "01", "+1", ".5", "1.", "NaN", "Infinity", "nul", "[1] 2", '"\n"', '"\\x"',
    '"\\u12"', '"\\ud800"', "1e999", '{"a": 1,}', "[".repeat(5000),
  ]) {
    assert.throws(() => parseJson(bytes(text)), SyntaxError, text.slice(0, 20));
  }
  assert.throws(() => parseJson(new Uint8Array([0x22, 0xff, 0x22])), /not UTF-8/);
});

test("of two equal keys the last one counts, and a key may have any name", () => {
  const read = parseJson(bytes('{"a": 1, "a": 2, "__proto__": 3}'));
  assert.equal(read.get("a").value, 2);
  assert.equal(read.get("__proto__").value, 3);
});

test("numbers are shown as C++ streams show them", () => {
  for (const [value, text] of [
    [1, "1"], [-1.5, "-1.5"], [0.1 + 0.2, "0.3"], [123456, "123456"], [1234567, "1.23457e+06"], [1e6, "1e+06"], [1e-5, "1e-05"],
    [0.0001, "0.0001"], [NaN, "nan"], [-Infinity, "-inf"], [3e38, "3e+38"], [999999.5, "1e+06"], [2 / 3, "0.666667"],
  ]) {
    assert.equal(shown(value), text);
  }
});

test("halves are rounded to the even number", () => {
  assert.deepEqual([0.5, 1.5, 2.5, -0.5, 2.4, 2.6].map(nearest), [0, 2, 2, 0, 2, 3]);
});

test("SHA-256 without the browser's is SHA-256", async () => {
  for (const size of [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1000]) {
    const data = Uint8Array.from({ length: size }, (_, i) => (i * 7 + size) % 256);
    const expected = createHash("sha256").update(data).digest("hex");
    assert.equal(Buffer.from(digest(data)).toString("hex"), expected, String(size));
    assert.equal(await sha256(data), expected);
    assert.equal(Buffer.from(digest(new Uint8Array([9, ...data]).subarray(1))).toString("hex"), expected);
  }
});

test("Philox gives the known answers of Random123", () => {
  for (const [counter, k0, k1, expected] of [
    [[0, 0, 0, 0], 0, 0, ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]],
    [Array(4).fill(0xffffffff), 0xffffffff, 0xffffffff, ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], 0xa4093822, 0x299f31d0, ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]],
  ]) {
    const words = Uint32Array.from(counter);
    philox4x32(words, k0 | 0, k1 | 0);
    assert.deepEqual([...words].map((word) => word.toString(16).padStart(8, "0")), expected);
  }
});

test("noise is the Python package's", () => {
  for (const { seed, first, count, size, steps, values } of vectors.noise) {
    const made = noise(seed, first, count, size, { steps });
    assert.equal(made.length, values.length);
    made.forEach((value, i) => assert.ok(Math.abs(value - values[i]) <= 1e-6 * Math.max(1, Math.abs(values[i])), `${seed} ${i}`));
  }
});

test("an image's noise does not depend on the batch that it is drawn in", () => {
  const whole = noise(3, 0, 4, 10);
  assert.deepEqual(noise(3, 2, 1, 10), whole.slice(20, 30));
  assert.deepEqual(noise("3", 2n ** 32n - 1n, 2, 8).slice(8), noise(3n, 2 ** 32, 1, 8));
});

test("seeds are taken up to 2^64 - 1", () => {
  assert.deepEqual(words64(2n ** 64n - 1n), { high: 0xffffffff, low: 0xffffffff });
  for (const bad of [-1, 1.5, NaN, 2 ** 53, 2n ** 64n, "1e3", "", " 1", undefined, null, {}]) {
    assert.throws(() => words64(bad), (error) => error instanceof DashdeployError && error.status === "argument", String(bad));
  }
  assert.throws(() => noise(0, 2n ** 64n - 1n, 2, 4), /firstImage \+ count is above 2\^64/);
});

test("timesteps are the Python package's", () => {
  for (const { steps, total, spacing, values } of vectors.timesteps) assert.deepEqual(timesteps(steps, total, spacing), values);
});

test("the DDIM update is float32's, operation by operation", () => {
  for (const { x, output, betas, t, tPrev, clip, prediction, expected } of vectors.updates) {
    const alphas = alphasCumprod(betas);
    const moved = Float32Array.from(x);
    ddimUpdate(moved, Float32Array.from(output), alphas[t + 1], alphas[tPrev + 1], clip, prediction);
    assert.deepEqual(moved, Float32Array.from(expected), prediction);
  }
});

test("noise takes a clean image to where the consistency sampler goes on", () => {
  const x = Float32Array.from([1, -1]);
  renoise(x, Float32Array.from([0.5, 0.25]), 0.25);
  assert.deepEqual(x, Float32Array.from([0.5 + 0.5 * Math.sqrt(0.75), -0.5 + 0.25 * Math.sqrt(0.75)]));
});

test("the files that a model's weights lie in are found before ONNX Runtime sees it", () => {
  for (const { model, files } of vectors.models) {
    assert.deepEqual([...externalFiles(Buffer.from(model, "base64"), "m.onnx")].sort(), files);
  }
});

test("half a model and code for one device are refused", () => {
  const { model } = vectors.models[0];
  const whole = Buffer.from(model, "base64");
  assert.throws(() => externalFiles(whole.subarray(0, whole.length - 3), "m.onnx"), /m.onnx: not a whole ONNX model/);
  assert.throws(() => externalFiles(Buffer.from(vectors.device, "base64"), "m.onnx"), /EPContext node, code for one device/);
});

test("an error is one line", () => {
  const error = new DashdeployError("damaged", "two\nlines\u2028of text");
  assert.equal(error.message, "two lines of text");
  assert.equal(error.name, "DashdeployError");
});

/** A model of four steps whose graph gives zeros, and calls `onRun` each time; with a decoder. */
function small(onRun = () => undefined) {
  const manifest = {
    betas: new Float64Array(8).fill(0.1), shape: [1, 2, 2], decoder: { shape: [1, 4, 4], atOnce: 8 }, classes: ["a", "b"],
    numClasses: 2, grids: [], numTrainTimesteps: 8, guidanceRange: null, prediction: "epsilon",
    sampling: { timesteps: [7, 5, 3, 1], scales: [2, 2, 2, 2], spacing: "trailing", clip: true, consistency: false },
  };
  const session = (name) => ({
    run: async (feeds, size) => {
      await onRun(name);
      return new Float32Array(size);
    },
  });
  const sessions = new Map(["guided", "decoder"].map((name) => [name, session(name)]));
  return new Model({ manifest }, { threads: 1, backend: "wasm", notices: [] }, sessions, 4);
}
const isCancelled = (error) => error instanceof DashdeployError && error.status === "cancelled";

test("a signal that comes while images are decoded is not lost", async () => {
  const stop = new AbortController();
  const model = small((name) => name === "decoder" && stop.abort());
  await assert.rejects(model.sample({ labels: [0], signal: stop.signal }), isCancelled);
});

test("a call that waits for another is cancelled at once, and the other goes on", async () => {
  let go;
  const held = new Promise((resolve) => (go = resolve));
  const model = small(() => held);
  const [first, stop] = [model.sample({ labels: [0, 1] }), new AbortController()];
  const second = model.sample({ labels: [0], signal: stop.signal });
  stop.abort();
  await assert.rejects(second, isCancelled);
  await assert.rejects(model.sample({ labels: [0], signal: AbortSignal.abort() }), isCancelled);
  go();
  assert.equal((await first).data.length, 2 * 16);
  assert.equal((await model.sample({ labels: [1], signal: new AbortController().signal })).data.length, 16);
});

/** A Studio on a worker that answers nothing by itself; what was posted to it. */
function idle() {
  const posted = [];
  let worker;
  globalThis.Worker = class {
    constructor() {
      worker = this;
    }
    postMessage(message) {
      posted.push(message);
    }
    terminate() {
      posted.push("terminated");
    }
  };
  const studio = new Studio();
  return { studio, worker, posted };
}

test("a signal that came between two images stops before the next one", async () => {
  const { studio, posted } = idle();
  await assert.rejects(studio.draw({ label: 0 }, AbortSignal.abort(), () => undefined), isCancelled);
  assert.deepEqual(posted, []);
});

test("after the worker has stopped nothing waits for it", async () => {
  const { studio, worker, posted } = idle();
  const drawn = studio.draw({ label: 0 }, new AbortController().signal, () => undefined);
  worker.onerror({ message: "out of memory", preventDefault: () => undefined });
  const says = (error) => /the page's worker stopped: out of memory. Load the page again/.test(error.message);
  await assert.rejects(drawn, says);
  await assert.rejects(studio.draw({ label: 0 }, new AbortController().signal, () => undefined), says);
  assert.equal(posted.at(-1), "terminated");
});

/** sw.js on a server of these files; its listeners, and what it keeps. */
function serviceWorker(served, { version }) {
  const [listeners, kept] = [{}, new Map()];
  const scope = {
    DASHDEPLOY: { version, files: { "index.html": "", "files.js": "" } },
    registration: { scope: "https://host/page/" },
    importScripts: () => undefined,
    addEventListener: (name, listener) => (listeners[name] = listener),
    fetch: async (url) => {
      const text = served[url.replace("https://host/page/", "")];
      return new Response(text ?? "", { status: text === undefined ? 404 : 200 });
    },
    caches: { open: async () => ({ put: async (url, response) => kept.set(url, await response.text()) }) },
    crypto: globalThis.crypto, Headers, Response, TextDecoder, Uint8Array, btoa,
  };
  runInContext(readFileSync(`${DIST}/sw.js`, "utf8"), createContext(scope));
  const install = () => new Promise((resolve) => listeners.install({ waitUntil: (work) => resolve(work) }));
  return { install, kept };
}
const pageOf = (list) => `<script src="files.js" integrity="sha256-${createHash("sha256").update(list).digest("base64")}">`;

test("a page and its list of files are kept together, or neither is", async () => {
  const [old, list] = ['self.DASHDEPLOY = {"version": "1"};', 'self.DASHDEPLOY = {"version": "2"};'];
  const good = serviceWorker({ "files.js": list, "index.html": pageOf(list) }, { version: "2" });
  await good.install();
  assert.deepEqual([...good.kept.keys()].sort(), ["https://host/page/files.js", "https://host/page/index.html"]);
  assert.equal(good.kept.get("https://host/page/index.html"), pageOf(list));
  for (const served of [
    { "files.js": list, "index.html": pageOf(old) }, { "files.js": old, "index.html": pageOf(old) },
    { "files.js": list }, { "index.html": pageOf(list) },
  ]) {
    const mixed = serviceWorker(served, { version: "2" });
    await assert.rejects(mixed.install());
    assert.equal(mixed.kept.size, 0);
  }
});

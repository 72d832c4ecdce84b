// Runs the library in Node for the tests: a JSON request in, and the answer out, images as base64 of float32.
//
// node sampling.mjs PACKAGE MODULES < {"folder": …, "options": …, "calls": [{"sample": …, "stopAt": n} | {"plan": …}]}
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const [, , folder, modules] = process.argv;
const { open } = await import(pathToFileURL(`${folder}/dashdeploy.js`));
const runtime = createRequire(`${modules}/`)("onnxruntime-node");
const { artifact, options, calls } = JSON.parse(await text(process.stdin));
const special = (value) => ({ NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity, undefined })[value] ?? value;
const revive = (_, value) => (typeof value === "string" && /^(NaN|-?Infinity)$/.test(value) ? special(value) : value);
const failed = (error) => ({ status: error.status ?? "uncaught", message: error.message });

const answers = [];
const model = await open(artifact, { runtime, ...options }).catch((error) => answers.push(failed(error)) && null);
for (const call of model === null ? [] : JSON.parse(JSON.stringify(calls), revive)) {
  const steps = [];
  try {
    if (call.plan) {
      answers.push(model.plan(call.plan));
      continue;
    }
    const stop = new AbortController();
    const onStep = (done, total) => {
      steps.push([done, total]);
      if (done === call.stopAt) stop.abort();
    };
    if (call.stopAt === 0) stop.abort();
    const noise = call.noise === undefined ? undefined : new Float32Array(Uint8Array.from(Buffer.from(call.noise, "base64")).buffer);
    const { data, shape } = await model.sample({ ...call.sample, noise, onStep, signal: stop.signal });
    answers.push({ data: Buffer.from(data.buffer).toString("base64"), shape, steps });
  } catch (error) {
    answers.push({ ...failed(error), steps });
  }
}
await model?.close();
console.log(JSON.stringify(answers));

// An opened artifact: draws images, by DDIM or by the consistency sampler (arXiv:2303.01469, Algorithm 1).
import {} from "./artifact.js";
import { cancelled, fail, stopIfAsked } from "./errors.js";
import {} from "./graphs.js";
import { noisesOf, sizeOf } from "./manifest.js";
import { noise, words64 } from "./noise.js";
import { shown } from "./numbers.js";
import {} from "./ort.js";
import { planOf } from "./plan.js";
import { alphasCumprod, ddimUpdate, firstNotFinite, renoise } from "./update.js";
const GAVE = "gave a value that is not finite: noise must be standard normal, guidance not too large, and the weights finite";
const MOST_VALUES = 2 ** 31;
export class Model {
    artifact;
    runtime;
    sessions;
    maxBatch;
    alphas;
    last = Promise.resolve();
    closed = false;
    /** Use `open`. */
    constructor(artifact, runtime, sessions, maxBatch) {
        this.artifact = artifact;
        this.runtime = runtime;
        this.sessions = sessions;
        this.maxBatch = maxBatch;
        this.alphas = alphasCumprod(artifact.manifest.betas);
    }
    get manifest() {
        return this.artifact.manifest;
    }
    /** (C, H, W) of what `sample` gives: images, or latents where nothing decodes them. */
    get imageShape() {
        return this.manifest.decoder?.shape ?? this.manifest.shape;
    }
    /** Names of the classes. */
    get classes() {
        return this.manifest.classes;
    }
    /** Of ONNX Runtime. */
    get threads() {
        return this.runtime.threads;
    }
    get backend() {
        return this.runtime.backend;
    }
    /** What a user should know: that there is one thread, and why. */
    get notices() {
        return this.runtime.notices;
    }
    /** What `sample` would do at each step. @throws DashdeployError: `argument`, see `sample`. */
    plan(request = {}) {
        return planOf(this.manifest, request.steps, request);
    }
    /**
     * Draw images by the artifact's solver. Noise and guidance determine them. Requests wait for each other.
     *
     * @throws DashdeployError: `argument` for a value that makes no sense or that the student was not trained for,
     *   `cancelled`, `not finite` with the number of the step, or `backend`.
     */
    async sample(request) {
        let begun = false;
        const mine = this.last.then(() => {
            begun = true;
            return this.draw(request);
        });
        this.last = mine.catch(() => undefined);
        const { signal } = request;
        if (signal === undefined)
            return mine;
        return new Promise((resolve, reject) => {
            const stop = () => {
                if (!begun)
                    reject(cancelled());
            };
            if (signal.aborted)
                stop();
            signal.addEventListener("abort", stop, { once: true });
            mine.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
        });
    }
    /** Release the sessions, after the requests under way; the model cannot be used again. */
    async close() {
        this.closed = true;
        await this.last;
        for (const session of this.sessions.values())
            await session.release();
    }
    async draw(request) {
        if (this.closed)
            fail("argument", "the model is closed");
        const { manifest } = this;
        const labels = this.checkedLabels(request.labels);
        const plan = this.plan(request);
        const decodes = this.sessions.has("decoder") && request.latents !== true;
        const shape = decodes ? this.imageShape : manifest.shape;
        const drawn = sizeOf(manifest.shape) * noisesOf(manifest, plan.t.length);
        const most = Math.floor(MOST_VALUES / Math.max(sizeOf(shape), drawn));
        if (labels.length < 1 || labels.length > most) {
            fail("argument", `count is ${labels.length}; expected 1 ... ${most}`);
        }
        this.checkNoise(request, plan, labels.length);
        const run = new Run(request, plan, labels.length, this.maxBatch);
        run.stopIfAsked();
        const made = new Float32Array(labels.length * sizeOf(shape));
        const before = performance.now();
        for (let first = 0; first < labels.length; first += this.maxBatch) {
            const part = labels.slice(first, first + this.maxBatch);
            const x = await this.chunk(run, part, first);
            made.set(decodes ? await this.decode(run, x, part.length) : x, first * sizeOf(shape));
        }
        return { data: made, shape: [labels.length, ...shape], ms: performance.now() - before };
    }
    checkedLabels(given) {
        if (typeof given !== "object" || given === null || !Number.isSafeInteger(given.length)) {
            fail("argument", "labels must be a list of whole numbers");
        }
        return Array.from(given, (label, i) => {
            const fits = Number.isSafeInteger(label) && label >= 0 && label < this.manifest.numClasses;
            if (fits)
                return label;
            const classes = `the artifact has the classes 0 ... ${this.manifest.numClasses - 1}`;
            return fail("argument", `labels[${i}] is ${String(label).slice(0, 40)}; ${classes}`);
        });
    }
    checkNoise(request, plan, count) {
        words64(request.seed ?? 0);
        words64(request.firstImage ?? 0, "firstImage");
        if (request.noise === undefined)
            return;
        const values = count * sizeOf(this.manifest.shape) * noisesOf(this.manifest, plan.t.length);
        if (!(request.noise instanceof Float32Array) || request.noise.length !== values) {
            fail("argument", `noise must be a Float32Array of ${values} numbers`);
        }
        const bad = firstNotFinite(request.noise);
        if (bad >= 0)
            fail("argument", `noise[${bad}] is not a finite number`);
    }
    /** One batch through all steps; its x. */
    async chunk(run, labels, first) {
        const { manifest } = this;
        const { plan, request } = run;
        const size = sizeOf(manifest.shape);
        const [batch, noises] = [labels.length, noisesOf(manifest, plan.t.length)];
        const drawn = request.noise?.slice(first * noises * size, (first + batch) * noises * size) ??
            noise(request.seed ?? 0, BigInt(request.firstImage ?? 0) + BigInt(first), batch, size, { steps: noises });
        const x = new Float32Array(batch * size);
        for (let i = 0; i < batch; i++)
            x.set(drawn.subarray(i * noises * size, (i * noises + 1) * size), i * size);
        const y = BigInt64Array.from(labels, BigInt);
        for (let i = 0; i < plan.t.length; i++) {
            run.stopIfAsked();
            const output = await this.step(x, y, plan, i);
            if (firstNotFinite(output) >= 0 || firstNotFinite(x) >= 0) {
                const at = `(t = ${plan.t[i]}, w = ${shown(plan.w[i] ?? NaN)})`;
                fail("not finite", `step ${i + 1} of ${plan.t.length} ${at} ${GAVE}`);
            }
            if (noises > 1 && i + 1 < plan.t.length) {
                const alpha = this.alphas[(plan.t[i + 1] ?? 0) + 1] ?? 1;
                for (let k = 0; k < batch; k++) {
                    const start = (k * noises + i + 1) * size;
                    renoise(x.subarray(k * size, (k + 1) * size), drawn.subarray(start, start + size), alpha);
                }
            }
            await run.stepped();
        }
        run.stopIfAsked();
        return x;
    }
    /** x <- x at the previous t, in place; what the graph gave. */
    async step(x, y, plan, i) {
        const { manifest, sessions } = this;
        const [batch, t, tPrev, w] = [y.length, plan.t[i] ?? 0, plan.tPrev[i] ?? -1, plan.w[i] ?? 1];
        const filled = (value) => ({ data: new BigInt64Array(batch).fill(BigInt(value)), dims: [batch] });
        const feeds = {
            x: { data: x, dims: [batch, ...manifest.shape] },
            t: filled(t),
            t_prev: filled(tPrev),
            y: { data: y, dims: [batch] },
            w: { data: new Float32Array(batch).fill(w), dims: [batch] },
        };
        const cond = w === 1 ? sessions.get("cond") : undefined;
        const steps = sessions.get("step");
        const session = cond ?? steps ?? sessions.get("guided");
        if (session === undefined)
            throw new Error("no graph");
        const output = (await session.run(feeds, x.length));
        if (session === steps) {
            x.set(output);
        }
        else {
            const [now, next] = [this.alphas[t + 1] ?? 1, this.alphas[tPrev + 1] ?? 1];
            ddimUpdate(x, output, now, next, manifest.sampling.clip, manifest.prediction);
        }
        return output;
    }
    async decode(run, latents, count) {
        const { decoder, shape } = this.manifest;
        const session = this.sessions.get("decoder");
        if (decoder === null || session === undefined)
            throw new Error("no decoder");
        const [size, pixels] = [sizeOf(shape), sizeOf(decoder.shape)];
        const made = new Float32Array(count * pixels);
        for (let first = 0; first < count; first += decoder.atOnce) {
            const part = Math.min(decoder.atOnce, count - first);
            const data = latents.slice(first * size, (first + part) * size);
            const given = await session.run({ latents: { data, dims: [part, ...shape] } }, part * pixels);
            const images = given instanceof Uint8Array ? Float32Array.from(given, (v) => Math.fround(v / 127.5) - 1) : given;
            if (firstNotFinite(images) >= 0)
                fail("not finite", `the decoder ${GAVE}`);
            made.set(images, first * pixels);
            await pause();
            run.stopIfAsked();
        }
        return made;
    }
}
/** One call of `sample`: its progress, and whether it was cancelled. */
class Run {
    request;
    plan;
    done = 0;
    total;
    constructor(request, plan, count, maxBatch) {
        this.request = request;
        this.plan = plan;
        this.total = Math.ceil(count / maxBatch) * plan.t.length;
    }
    stopIfAsked() {
        stopIfAsked(this.request.signal);
    }
    /** Tell of a step, and let the page see to its events, among which may be the one that cancels. */
    async stepped() {
        this.request.onStep?.(++this.done, this.total);
        this.stopIfAsked();
        await pause();
    }
}
/** One turn of the event loop. A timer would wait four milliseconds. */
function pause() {
    return new Promise((resolve) => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => {
            port1.close();
            resolve();
        };
        port2.postMessage(null);
    });
}
//# sourceMappingURL=model.js.map
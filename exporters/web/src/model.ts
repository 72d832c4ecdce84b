// An opened artifact: draws images, by DDIM or by the consistency sampler (arXiv:2303.01469, Algorithm 1).
import { type Artifact } from "./artifact.js";
import { cancelled, fail, stopIfAsked } from "./errors.js";
import { type Session } from "./graphs.js";
import { type GraphName, type Manifest, noisesOf, type Shape, sizeOf } from "./manifest.js";
import { noise, type Seed, words64 } from "./noise.js";
import { shown } from "./numbers.js";
import { type Runtime } from "./ort.js";
import { type Guided, type Plan, planOf } from "./plan.js";
import { alphasCumprod, ddimUpdate, firstNotFinite, renoise } from "./update.js";

/** What `sample` draws. */
export interface Request extends Guided {
  /** The class of each image, 0 ... numClasses - 1. */
  readonly labels: ArrayLike<number>;
  /** Of the noise, 0 ... 2^64 - 1; 0 if left out. */
  readonly seed?: Seed | undefined;
  /** Number of the first image: its noise follows from this and the seed; 0 if left out. */
  readonly firstImage?: Seed | undefined;
  /** Left out: the artifact's. */
  readonly steps?: number | undefined;
  /** In place of the seed's: (N, C, H, W), with the solver consistency (N, steps, C, H, W). */
  readonly noise?: Float32Array | undefined;
  /** Give the latents of an artifact that has a decoder. */
  readonly latents?: boolean | undefined;
  /** Called after each step; both count the steps of all batches. An error that it throws ends the call. */
  readonly onStep?: ((done: number, total: number) => void) | undefined;
  /** Stops within one step, and at once while the call waits for another. */
  readonly signal?: AbortSignal | undefined;
}

/** Images in [-1, 1], or latents. */
export interface Images {
  /** (N, C, H, W) float32. */
  readonly data: Float32Array<ArrayBuffer>;
  readonly shape: readonly [number, number, number, number];
  /** Milliseconds that they took. */
  readonly ms: number;
}

const GAVE =
  "gave a value that is not finite: noise must be standard normal, guidance not too large, and the weights finite";
const MOST_VALUES = 2 ** 31;

export class Model {
  private readonly alphas: Float32Array;
  private last: Promise<unknown> = Promise.resolve();
  private closed = false;

  /** Use `open`. */
  constructor(
    private readonly artifact: Artifact,
    private readonly runtime: Runtime,
    private readonly sessions: ReadonlyMap<GraphName, Session>,
    private readonly maxBatch: number,
  ) {
    this.alphas = alphasCumprod(artifact.manifest.betas);
  }

  get manifest(): Manifest {
    return this.artifact.manifest;
  }

  /** (C, H, W) of what `sample` gives: images, or latents where nothing decodes them. */
  get imageShape(): Shape {
    return this.manifest.decoder?.shape ?? this.manifest.shape;
  }

  /** Names of the classes. */
  get classes(): readonly string[] {
    return this.manifest.classes;
  }

  /** Of ONNX Runtime. */
  get threads(): number {
    return this.runtime.threads;
  }

  get backend(): string {
    return this.runtime.backend;
  }

  /** What a user should know: that there is one thread, and why. */
  get notices(): readonly string[] {
    return this.runtime.notices;
  }

  /** What `sample` would do at each step. @throws DashdeployError: `argument`, see `sample`. */
  plan(request: Guided & { readonly steps?: number | undefined } = {}): Plan {
    return planOf(this.manifest, request.steps, request);
  }

  /**
   * Draw images by the artifact's solver. Noise and guidance determine them. Requests wait for each other.
   *
   * @throws DashdeployError: `argument` for a value that makes no sense or that the student was not trained for,
   *   `cancelled`, `not finite` with the number of the step, or `backend`.
   */
  async sample(request: Request): Promise<Images> {
    let begun = false;
    const mine = this.last.then(() => {
      begun = true;
      return this.draw(request);
    });
    this.last = mine.catch(() => undefined);
    const { signal } = request;
    if (signal === undefined) return mine;
    return new Promise((resolve, reject) => {
      const stop = () => {
        if (!begun) reject(cancelled());
      };
      if (signal.aborted) stop();
      signal.addEventListener("abort", stop, { once: true });
      mine.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
    });
  }

  /** Release the sessions, after the requests under way; the model cannot be used again. */
  async close(): Promise<void> {
    this.closed = true;
    await this.last;
    for (const session of this.sessions.values()) await session.release();
  }

  private async draw(request: Request): Promise<Images> {
    if (this.closed) fail("argument", "the model is closed");
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

  private checkedLabels(given: ArrayLike<number>): number[] {
    if (typeof given !== "object" || given === null || !Number.isSafeInteger(given.length)) {
      fail("argument", "labels must be a list of whole numbers");
    }
    return Array.from(given, (label, i) => {
      const fits = Number.isSafeInteger(label) && label >= 0 && label < this.manifest.numClasses;
      if (fits) return label;
      const classes = `the artifact has the classes 0 ... ${this.manifest.numClasses - 1}`;
      return fail("argument", `labels[${i}] is ${String(label).slice(0, 40)}; ${classes}`);
    });
  }

  private checkNoise(request: Request, plan: Plan, count: number): void {
    words64(request.seed ?? 0);
    words64(request.firstImage ?? 0, "firstImage");
    if (request.noise === undefined) return;
    const values = count * sizeOf(this.manifest.shape) * noisesOf(this.manifest, plan.t.length);
    if (!(request.noise instanceof Float32Array) || request.noise.length !== values) {
      fail("argument", `noise must be a Float32Array of ${values} numbers`);
    }
    const bad = firstNotFinite(request.noise);
    if (bad >= 0) fail("argument", `noise[${bad}] is not a finite number`);
  }

  /** One batch through all steps; its x. */
  private async chunk(run: Run, labels: readonly number[], first: number): Promise<Float32Array> {
    const { manifest } = this;
    const { plan, request } = run;
    const size = sizeOf(manifest.shape);
    const [batch, noises] = [labels.length, noisesOf(manifest, plan.t.length)];
    const drawn =
      request.noise?.slice(first * noises * size, (first + batch) * noises * size) ??
      noise(request.seed ?? 0, BigInt(request.firstImage ?? 0) + BigInt(first), batch, size, { steps: noises });
    const x = new Float32Array(batch * size);
    for (let i = 0; i < batch; i++) x.set(drawn.subarray(i * noises * size, (i * noises + 1) * size), i * size);
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
  private async step(x: Float32Array, y: BigInt64Array, plan: Plan, i: number): Promise<Float32Array> {
    const { manifest, sessions } = this;
    const [batch, t, tPrev, w] = [y.length, plan.t[i] ?? 0, plan.tPrev[i] ?? -1, plan.w[i] ?? 1];
    const filled = (value: number) => ({ data: new BigInt64Array(batch).fill(BigInt(value)), dims: [batch] });
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
    if (session === undefined) throw new Error("no graph");
    const output = (await session.run(feeds, x.length)) as Float32Array;
    if (session === steps) {
      x.set(output);
    } else {
      const [now, next] = [this.alphas[t + 1] ?? 1, this.alphas[tPrev + 1] ?? 1];
      ddimUpdate(x, output, now, next, manifest.sampling.clip, manifest.prediction);
    }
    return output;
  }

  private async decode(run: Run, latents: Float32Array, count: number): Promise<Float32Array> {
    const { decoder, shape } = this.manifest;
    const session = this.sessions.get("decoder");
    if (decoder === null || session === undefined) throw new Error("no decoder");
    const [size, pixels] = [sizeOf(shape), sizeOf(decoder.shape)];
    const made = new Float32Array(count * pixels);
    for (let first = 0; first < count; first += decoder.atOnce) {
      const part = Math.min(decoder.atOnce, count - first);
      const data = latents.slice(first * size, (first + part) * size);
      const given = await session.run({ latents: { data, dims: [part, ...shape] } }, part * pixels);
      const images = given instanceof Uint8Array ? Float32Array.from(given, (v) => Math.fround(v / 127.5) - 1) : given;
      if (firstNotFinite(images) >= 0) fail("not finite", `the decoder ${GAVE}`);
      made.set(images, first * pixels);
      await pause();
      run.stopIfAsked();
    }
    return made;
  }
}

/** One call of `sample`: its progress, and whether it was cancelled. */
class Run {
  private done = 0;
  private readonly total: number;

  constructor(
    readonly request: Request,
    readonly plan: Plan,
    count: number,
    maxBatch: number,
  ) {
    this.total = Math.ceil(count / maxBatch) * plan.t.length;
  }

  stopIfAsked(): void {
    stopIfAsked(this.request.signal);
  }

  /** Tell of a step, and let the page see to its events, among which may be the one that cancels. */
  async stepped(): Promise<void> {
    this.request.onStep?.(++this.done, this.total);
    this.stopIfAsked();
    await pause();
  }
}

/** One turn of the event loop. A timer would wait four milliseconds. */
function pause(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

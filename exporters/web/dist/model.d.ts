import { type Artifact } from "./artifact.js";
import { type Session } from "./graphs.js";
import { type GraphName, type Manifest, type Shape } from "./manifest.js";
import { type Seed } from "./noise.js";
import { type Runtime } from "./ort.js";
import { type Guided, type Plan } from "./plan.js";
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
export declare class Model {
    private readonly artifact;
    private readonly runtime;
    private readonly sessions;
    private readonly maxBatch;
    private readonly alphas;
    private last;
    private closed;
    /** Use `open`. */
    constructor(artifact: Artifact, runtime: Runtime, sessions: ReadonlyMap<GraphName, Session>, maxBatch: number);
    get manifest(): Manifest;
    /** (C, H, W) of what `sample` gives: images, or latents where nothing decodes them. */
    get imageShape(): Shape;
    /** Names of the classes. */
    get classes(): readonly string[];
    /** Of ONNX Runtime. */
    get threads(): number;
    get backend(): string;
    /** What a user should know: that there is one thread, and why. */
    get notices(): readonly string[];
    /** What `sample` would do at each step. @throws DashdeployError: `argument`, see `sample`. */
    plan(request?: Guided & {
        readonly steps?: number | undefined;
    }): Plan;
    /**
     * Draw images by the artifact's solver. Noise and guidance determine them. Requests wait for each other.
     *
     * @throws DashdeployError: `argument` for a value that makes no sense or that the student was not trained for,
     *   `cancelled`, `not finite` with the number of the step, or `backend`.
     */
    sample(request: Request): Promise<Images>;
    /** Release the sessions, after the requests under way; the model cannot be used again. */
    close(): Promise<void>;
    private draw;
    private checkedLabels;
    private checkNoise;
    /** One batch through all steps; its x. */
    private chunk;
    /** x <- x at the previous t, in place; what the graph gave. */
    private step;
    private decode;
}

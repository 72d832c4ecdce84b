import { Model } from "./model.js";
import { type BackendName, type Ort } from "./ort.js";
export { DashdeployError, type Status } from "./errors.js";
export { type Decoder, type Guidance, type Interval, type Manifest, type Shape, type Tag } from "./manifest.js";
export { type Images, Model, type Request } from "./model.js";
export { noise, type Seed } from "./noise.js";
export { type BackendName, type Ort } from "./ort.js";
export { type Guided, type Plan } from "./plan.js";
export interface OpenOptions {
    /** Left out: `wasm` in a browser, `node` in Node. Another one is never taken silently. */
    readonly backend?: BackendName | undefined;
    /** Left out: up to four where the page is cross-origin isolated and the network is not small, else one. */
    readonly threads?: number | undefined;
    /** Images in one call of the network at most, 1 ... 4096; 64 if left out. */
    readonly maxBatch?: number | undefined;
    /** An onnxruntime-web or onnxruntime-node that you have loaded; left out: the package's, or Node's. */
    readonly runtime?: Ort | undefined;
    /** Called after each file of the artifact that was read and checked. */
    readonly onFile?: ((done: number, total: number) => void) | undefined;
    /** Stops the downloads. */
    readonly signal?: AbortSignal | undefined;
}
/**
 * Open an artifact: check its manifest and every file against their SHA-256, and load what sampling needs.
 *
 * @param folder a URL, relative to the page (in a worker: to the worker); in Node a path or a file URL
 * @throws DashdeployError: `not found`, `damaged`, `unsupported` (of another format, backend, precision or solver, or
 *   something that this browser lacks), `argument`, `backend` or `cancelled`.
 */
export declare function open(folder: string | URL, options?: OpenOptions): Promise<Model>;

/** `wasm` and `webgpu` are of a browser; `node` is onnxruntime-node, on CPUs. */
export type BackendName = "wasm" | "webgpu" | "node";
export interface OrtTensor {
    readonly type: string;
    readonly dims: readonly number[];
    readonly data: unknown;
}
/** An input or output of a session. */
export interface OrtValue {
    readonly name: string;
    readonly isTensor: boolean;
    readonly type?: string;
    readonly shape?: readonly (number | string)[];
}
export interface OrtSession {
    readonly inputMetadata: readonly OrtValue[];
    readonly outputMetadata: readonly OrtValue[];
    run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>;
    release(): Promise<void>;
}
/** A module of ONNX Runtime, as far as it is used. */
export interface Ort {
    readonly env: {
        logLevel?: string | undefined;
        readonly wasm: {
            numThreads?: number | undefined;
            wasmBinary?: unknown;
            proxy?: boolean | undefined;
        };
    };
    readonly InferenceSession: {
        create(model: Uint8Array, options: object): Promise<OrtSession>;
    };
    readonly Tensor: new (type: string, data: unknown, dims: readonly number[]) => OrtTensor;
}
/** A loaded runtime. */
export interface Runtime {
    readonly ort: Ort;
    readonly backend: BackendName;
    readonly threads: number;
    /** What the user should know: that there is one thread, and why. */
    readonly notices: readonly string[];
}
/**
 * The runtime of this page, worker or process. There is one: ONNX Runtime cannot start twice in another way.
 *
 * @param threads undefined: up to four where the page is cross-origin isolated and the network is not small, else one
 * @param small operators are too short to be shared between threads
 * @param module an onnxruntime-web or onnxruntime-node that the caller has loaded; undefined: the package's
 * @throws DashdeployError: `argument`, `unsupported`, `damaged` or `backend`; see `open`.
 */
export declare function loadRuntime(backend: BackendName | undefined, threads: number | undefined, module: Ort | undefined, small: boolean): Promise<Runtime>;
/** What a session of this runtime is made with. */
export declare function sessionOptions(runtime: Runtime, weights: readonly {
    path: string;
    data: Uint8Array;
}[]): object;

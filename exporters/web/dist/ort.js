// ONNX Runtime: what is used of it, and how it is loaded in a browser and in Node. Never another back end than asked.
import { DashdeployError, fail, said } from "./errors.js";
import { Folder, IN_NODE } from "./folder.js";
import { sha256 } from "./sha256.js";
const MOST_THREADS = 64;
const USUAL_THREADS = 4; // at most, where nobody says how many
const NODE_PACKAGE = "onnxruntime-node";
const HEADERS = "the page is not cross-origin isolated: its server must send Cross-Origin-Opener-Policy: same-origin and " +
    "Cross-Origin-Embedder-Policy: require-corp";
let started;
let asked = "";
/**
 * The runtime of this page, worker or process. There is one: ONNX Runtime cannot start twice in another way.
 *
 * @param threads undefined: up to four where the page is cross-origin isolated and the network is not small, else one
 * @param small operators are too short to be shared between threads
 * @param module an onnxruntime-web or onnxruntime-node that the caller has loaded; undefined: the package's
 * @throws DashdeployError: `argument`, `unsupported`, `damaged` or `backend`; see `open`.
 */
export async function loadRuntime(backend, threads, module, small) {
    if (threads !== undefined && !(Number.isSafeInteger(threads) && threads >= 1 && threads <= MOST_THREADS)) {
        fail("argument", `threads is ${threads}; expected 1 ... ${MOST_THREADS}`);
    }
    const name = backend ?? (IN_NODE ? "node" : "wasm");
    if (!["wasm", "webgpu", "node"].includes(name))
        fail("argument", `backend is '${name}'; known: wasm, webgpu, node`);
    if ((name === "node") !== IN_NODE) {
        fail("unsupported", `backend ${name}: ${IN_NODE ? "Node runs node alone" : "a browser runs wasm and webgpu"}`);
    }
    if (name === "node") {
        return { ort: module ?? (await nodeModule()), backend: name, threads: threads ?? 1, notices: [] };
    }
    const isolated = globalThis.crossOriginIsolated === true;
    if (!isolated && (threads ?? 1) > 1)
        fail("unsupported", `threads is ${threads}, and ${HEADERS}`);
    const count = threads ?? (isolated && !small ? Math.min(navigator.hardwareConcurrency || 1, USUAL_THREADS) : 1);
    const wanted = `${name} with threads: ${count}`;
    if (started !== undefined && wanted !== asked) {
        fail("argument", `ONNX Runtime was started as ${asked}, and cannot start again as ${wanted}: take another worker`);
    }
    if (started === undefined) {
        asked = wanted;
        const notices = isolated || small || threads === 1 ? [] : [`One thread: ${HEADERS}.`];
        started = webModule(name, count, module).then((ort) => ({ ort, backend: name, threads: count, notices }));
        started.catch(() => (started = undefined)); // what failed may be tried again
    }
    return started;
}
async function nodeModule() {
    try {
        const loaded = (await import(NODE_PACKAGE));
        return loaded.default ?? loaded;
    }
    catch (error) {
        fail("unsupported", `${NODE_PACKAGE} cannot be loaded (${said(error)}). Install it: npm install ${NODE_PACKAGE}`);
    }
}
async function webModule(name, threads, module) {
    if (name === "webgpu")
        await needWebGpu();
    const ort = module ?? (await packaged(name));
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.proxy = false;
    return ort;
}
/** The package's own onnxruntime-web; its WASM is checked, unpacked and handed over as bytes. */
async function packaged(name) {
    const folder = new Folder(new URL("./ort", import.meta.url));
    const pinned = readPinned(await folder.read("ort.json"), folder.path("ort.json"));
    const files = pinned.backends[name];
    if (files === undefined) {
        fail("unsupported", `backend ${name}: this package was written without it. Set ${name}: true in its YAML file`);
    }
    const packed = await folder.read(files.wasm);
    if ((await sha256(packed)) !== pinned.files[files.wasm]) {
        fail("damaged", `${folder.path(files.wasm)}: damaged (its SHA-256 differs from ort.json's)`);
    }
    try {
        const module = folder.path(files.module);
        const ort = (await import(module));
        ort.env.wasm.wasmBinary = await unpacked(packed);
        return ort;
    }
    catch (error) {
        if (error instanceof DashdeployError)
            throw error;
        fail("backend", `ONNX Runtime cannot be loaded: ${said(error)}`);
    }
}
function readPinned(bytes, source) {
    try {
        const pinned = JSON.parse(new TextDecoder().decode(bytes));
        if (typeof pinned.version === "string" && typeof pinned.backends === "object" && typeof pinned.files === "object") {
            return pinned;
        }
    }
    catch {
        // said below
    }
    fail("damaged", `${source}: damaged (it does not say what ONNX Runtime is made of)`);
}
async function unpacked(packed) {
    if (typeof DecompressionStream === "undefined")
        fail("unsupported", "this browser has no DecompressionStream");
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
async function needWebGpu() {
    const gpu = navigator.gpu;
    if (gpu === undefined)
        fail("unsupported", "backend webgpu: this browser has no WebGPU, or shows it on https alone");
    const adapter = await gpu.requestAdapter().catch(() => null);
    if (adapter === null)
        fail("unsupported", "backend webgpu: this browser found no GPU that it may use");
}
/** What a session of this runtime is made with. */
export function sessionOptions(runtime, weights) {
    const provider = runtime.backend === "node" ? "cpu" : runtime.backend;
    const common = { executionProviders: [provider], graphOptimizationLevel: "all", logSeverityLevel: 3 };
    if (runtime.backend === "node")
        return { ...common, intraOpNumThreads: runtime.threads, interOpNumThreads: 1 };
    return { ...common, ...(weights.length > 0 ? { externalData: weights } : {}) };
}
//# sourceMappingURL=ort.js.map
// The library's door: `import { open } from "./dashdeploy.js"`, in a page, in a worker and in Node.
import { readArtifact } from "./artifact.js";
import { fail, stopIfAsked } from "./errors.js";
import { Session, usedFiles, usedGraphs } from "./graphs.js";
import {} from "./manifest.js";
import { Model } from "./model.js";
import { loadRuntime } from "./ort.js";
export { DashdeployError } from "./errors.js";
export {} from "./manifest.js";
export { Model } from "./model.js";
export { noise } from "./noise.js";
export {} from "./ort.js";
export {} from "./plan.js";
const MOST_BATCH = 4096;
const USUAL_BATCH = 64;
const PRECISIONS = ["fp32", "int8"];
/**
 * Open an artifact: check its manifest and every file against their SHA-256, and load what sampling needs.
 *
 * @param folder a URL, relative to the page (in a worker: to the worker); in Node a path or a file URL
 * @throws DashdeployError: `not found`, `damaged`, `unsupported` (of another format, backend, precision or solver, or
 *   something that this browser lacks), `argument`, `backend` or `cancelled`.
 */
export async function open(folder, options = {}) {
    const { backend, threads, maxBatch = USUAL_BATCH, runtime: module, onFile, signal } = options;
    if (!Number.isSafeInteger(maxBatch) || maxBatch < 1 || maxBatch > MOST_BATCH) {
        fail("argument", `maxBatch is ${maxBatch}; expected 1 ... ${MOST_BATCH}`);
    }
    const artifact = await readArtifact(folder, checkedFiles, { onFile, signal });
    const runtime = await loadRuntime(backend, threads, module, artifact.manifest.small);
    const sessions = new Map();
    for (const name of usedGraphs(artifact.manifest)) {
        stopIfAsked(signal);
        sessions.set(name, await Session.open(artifact, name, runtime));
    }
    return new Model({ ...artifact, bytes: new Map() }, runtime, sessions, maxBatch);
}
/** The files that are loaded; an artifact that does not run here is refused before the others are read. */
function checkedFiles(manifest) {
    const { backend, precision, providers, decoder } = manifest;
    if (backend !== "onnxruntime") {
        fail("unsupported", `the artifact is for the backend '${backend}', and this library runs: onnxruntime`);
    }
    if (providers[0] !== "CPUExecutionProvider") {
        fail("unsupported", `the artifact is for ONNX Runtime's ${providers[0]}; this library knows CPU`);
    }
    for (const each of [precision, decoder?.precision ?? "fp32"]) {
        if (!PRECISIONS.includes(each)) {
            fail("unsupported", `the artifact is of precision ${each}; this library runs: ${PRECISIONS.join(", ")}`);
        }
    }
    return usedFiles(manifest);
}
//# sourceMappingURL=dashdeploy.js.map
// The graphs of an artifact as sessions of ONNX Runtime, made from the bytes that were checked.
import {} from "./artifact.js";
import { fail, said } from "./errors.js";
import {} from "./manifest.js";
import { SIGNATURES, tensorOf } from "./manifest_graphs.js";
import { externalFiles } from "./onnx_files.js";
import { sessionOptions } from "./ort.js";
/** The graphs that are run: step, or else guided; cond for steps without guidance; the decoder. */
export function usedGraphs(manifest) {
    const names = [manifest.graphs.has("step") ? "step" : "guided", "cond", "decoder"];
    return names.filter((name) => manifest.graphs.has(name));
}
/** The files of these. */
export function usedFiles(manifest) {
    return new Set(usedGraphs(manifest).flatMap((name) => manifest.graphs.get(name)?.files ?? []));
}
/** One graph that is ready to run. */
export class Session {
    session;
    runtime;
    graph;
    output;
    constructor(session, runtime, graph, output) {
        this.session = session;
        this.runtime = runtime;
        this.graph = graph;
        this.output = output;
    }
    /** @throws DashdeployError: `damaged` or `backend`, the graph is not what the manifest says, or is not run here. */
    static async open(artifact, name, runtime) {
        const { manifest, bytes } = artifact;
        const graph = manifest.graphs.get(name);
        const model = graph === undefined ? undefined : bytes.get(graph.file);
        if (graph === undefined || model === undefined)
            throw new Error(`no graph ${name}`);
        const path = `${artifact.folder}/${graph.file}`;
        const beside = graph.files.filter((file) => file !== graph.file);
        for (const file of externalFiles(model, path)) {
            if (beside.includes(file))
                continue;
            fail("damaged", `${path}: its weights lie in '${file.slice(0, 100)}', which is none of its files`);
        }
        if (runtime.backend === "node" && beside.length > 0) {
            fail("unsupported", `${path}: its weights lie beside it, and onnxruntime-node takes none from memory`);
        }
        const weights = beside.map((file) => ({ path: file, data: bytes.get(file) ?? new Uint8Array() }));
        let session;
        try {
            session = await runtime.ort.InferenceSession.create(model, sessionOptions(runtime, weights));
        }
        catch (error) {
            fail("backend", `ONNX Runtime, ${path}: ${said(error)}`);
        }
        checkSession(session, name, manifest, path);
        return new Session(session, runtime, graph, session.outputMetadata[0]?.name ?? "");
    }
    /**
     * Run the graph.
     *
     * @param feeds by the input's name; whole numbers as int64
     * @param dims of each
     * @throws DashdeployError: `backend`, or `damaged` where the output has another size than `values`.
     */
    async run(feeds, values) {
        const { Tensor } = this.runtime.ort;
        const tensors = {};
        for (const name of this.graph.inputs) {
            const feed = feeds[name];
            if (feed === undefined)
                throw new Error(`no feed ${name}`);
            tensors[name] = new Tensor(feed.data instanceof Float32Array ? "float32" : "int64", feed.data, feed.dims);
        }
        let given;
        try {
            given = (await this.session.run(tensors))[this.output]?.data;
        }
        catch (error) {
            fail("backend", `ONNX Runtime, inference: ${said(error)}`);
        }
        const fits = (given instanceof Float32Array || given instanceof Uint8Array) && given.length === values;
        if (!fits)
            fail("damaged", `${this.graph.file}: its output is not what the manifest says`);
        return given;
    }
    async release() {
        await this.session.release().catch(() => undefined);
    }
}
/** Types and shapes must be the manifest's. A side without a number fits, as an output's may have none. */
function checkSession(session, name, manifest, path) {
    const expected = SIGNATURES.get(name)?.inputs ?? [];
    const { inputMetadata: inputs, outputMetadata: outputs } = session;
    const known = (input) => expected.includes(input.name) && fits(input, input.name, name, manifest);
    const other = inputs.find((input) => !known(input));
    if (other !== undefined)
        fail("damaged", `${path}: its input ${other.name} is not what the manifest says`);
    if (inputs.length !== expected.length || outputs.length !== 1) {
        fail("damaged", `${path}: its inputs and outputs are not what the manifest says`);
    }
    const [output] = outputs;
    if (output === undefined || !fits(output, name === "decoder" ? "images" : "x", name, manifest)) {
        fail("damaged", `${path}: its output is not what the manifest says`);
    }
}
function fits(tensor, name, graph, manifest) {
    const { dtype, sides } = tensorOf(name, graph, manifest);
    const [, ...given] = tensor.shape ?? [];
    if (!tensor.isTensor || tensor.type !== dtype || tensor.shape?.length !== sides.length + 1)
        return false;
    return given.every((side, i) => typeof side !== "number" || side < 0 || side === sides[i]);
}
//# sourceMappingURL=graphs.js.map
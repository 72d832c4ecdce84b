// What the manifest says of each graph: its tensors are those of its signature, or the graph is another one.
import { MOST_COUNT } from "./json_reader.js";
import {} from "./manifest.js";
const MOST_BATCH = 2 ** 20;
/** Graph -> its inputs, in order, and its output; of guided and cond it is what the student predicts. */
export const SIGNATURES = new Map([
    ["guided", { inputs: ["x", "t", "y", "w"], output: "eps" }],
    ["cond", { inputs: ["x", "t", "y"], output: "eps" }],
    ["step", { inputs: ["x", "t", "t_prev", "y", "w"], output: "x_prev" }],
    ["sampler", { inputs: ["noise", "y", "w"], output: "images" }],
    ["decoder", { inputs: ["latents"], output: "images" }],
]);
const PREDICTED = { epsilon: "eps", v_prediction: "v", sample: "x_0" };
/** Backends whose graphs have an engine. */
export const RUNS_ENGINES = ["tensorrt", "tensorrt_rtx"];
/** Refuse a graph whose inputs or output are not those of its signature. */
export function checkTensors(graph, value, manifest) {
    const signature = SIGNATURES.get(graph);
    if (signature === undefined)
        return;
    const inputs = value.at("inputs").items(1, 16);
    const [output] = value.at("outputs").items(1, 1);
    const expected = signature.inputs;
    if (inputs.length !== expected.length)
        value.refuse(`has ${inputs.length} inputs; expected ${expected.length}`);
    inputs.forEach((input, i) => checkTensor(input, expected[i] ?? "", graph, manifest));
    const name = signature.output === "eps" ? PREDICTED[manifest.prediction] : signature.output;
    if (output !== undefined)
        checkTensor(output, name, graph, manifest);
}
/** What a graph's tensor of this name must be. */
export function tensorOf(name, graph, manifest) {
    const { sampler, decoder } = manifest;
    if (["t", "t_prev", "y"].includes(name))
        return { dtype: "int64", sides: [] };
    if (name === "w") {
        return { dtype: "float32", sides: graph === "sampler" && sampler !== null ? [sampler.timesteps.length] : [] };
    }
    if (name === "images" && graph === "sampler" && sampler !== null) {
        const shape = sampler.decode && decoder !== null ? decoder.shape : manifest.shape;
        return { dtype: sampler.output, sides: shape };
    }
    if (name === "images" && decoder !== null) {
        return { dtype: decoder.bytes ? "uint8" : "float32", sides: decoder.shape };
    }
    const steps = name === "noise" && manifest.sampling.consistency ? [sampler?.timesteps.length ?? 0] : [];
    return { dtype: "float32", sides: [...steps, ...manifest.shape] };
}
function checkTensor(value, name, graph, manifest) {
    const { dtype, sides } = tensorOf(name, graph, manifest);
    if (value.at("name").text() !== name)
        value.at("name").refuse(`must be ${name}`);
    if (value.at("dtype").text() !== dtype)
        value.at("dtype").refuse(`of ${name} must be ${dtype}`);
    const shape = value.at("shape");
    const [batch, ...given] = shape.items(0, 8);
    const dimensions = given.length + (batch === undefined ? 0 : 1);
    if (batch === undefined || dimensions !== sides.length + 1) {
        return shape.refuse(`of ${name} has ${dimensions} dimensions`);
    }
    if (batch.text() !== "batch")
        shape.refuse(`of ${name} must begin with batch`);
    const expected = name === "w" ? "one scale for each of its timesteps" : "that of image_shape";
    given.forEach((side, i) => {
        if (side.integer(1, MOST_COUNT) !== sides[i])
            shape.refuse(`of ${name} is not ${expected}`);
    });
}
/** Refuse an engine that makes no sense. This library runs none. */
export function checkEngine(value, backend) {
    if (value.at("flavour").text() !== backend)
        value.at("flavour").refuse(`must be ${backend}`);
    value.at("tensorrt").text();
    for (const item of value.at("compute_capabilities").items(1, 64))
        item.text();
    value.at("flags").at("version_compatible").boolean();
    value.at("flags").at("hardware_compatibility").oneOf(["none", "ampere_plus", "same_compute_capability"]);
    for (const profile of value.at("profiles").items(1, 64)) {
        const low = profile.at("min").integer(1, MOST_BATCH);
        const usual = profile.at("opt").integer(low, MOST_BATCH);
        profile.at("max").integer(usual, MOST_BATCH);
    }
}
//# sourceMappingURL=manifest_graphs.js.map
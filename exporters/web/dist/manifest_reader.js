// Reading a manifest: nothing in it is trusted, and every message names the key. exporters/cpp/src/manifest.cpp refuses
// the same manifests.
import { fail, said } from "./errors.js";
import { parseJson } from "./json.js";
import { JsonReader, MOST_COUNT } from "./json_reader.js";
import { FORMAT, } from "./manifest.js";
import { checkEngine, checkTensors, RUNS_ENGINES, SIGNATURES } from "./manifest_graphs.js";
const MOST_PIXELS = 2 ** 28; // of one image
const MOST_TIMESTEPS = 2 ** 20;
const MOST_CLASSES = 2 ** 24;
const MOST_SCALE = 1e6;
const MOST_SLOPE = 1e9;
/**
 * Read the bytes of a manifest.json.
 *
 * @param source what messages call it
 * @throws DashdeployError: `damaged` for what is not a manifest or makes no sense, `unsupported` for a format, backend
 *   or solver that this library does not know.
 */
export function parseManifest(bytes, source) {
    let json;
    try {
        json = parseJson(bytes);
    }
    catch (error) {
        fail("damaged", `${source}: not JSON (${said(error).slice(0, 160)})`);
    }
    const top = new JsonReader(json, "", source);
    const format = top.at("format").integer(0, MOST_COUNT);
    if (format !== FORMAT) {
        const advice = "Export the artifact again with the dashdeploy that this library came from";
        top.at("format").refuse(`is ${format}, and this library reads ${FORMAT}. ${advice}`, "unsupported");
    }
    const name = top.at("stage").text();
    const files = new Map(top.at("files").entries().map(([key, value]) => [fileName(value, key), sha256(value)]));
    return artifact(top.at("artifact"), name, files);
}
function artifact(value, name, files) {
    const backends = ["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"];
    const backend = value.at("backend").oneOf(backends, "unsupported");
    const known = student(value, backend);
    const providers = value.has("providers") ? value.at("providers").items(0, 16).map((item) => item.text()) : [];
    if (backend === "onnxruntime" && providers.length === 0)
        value.refuse("has no providers");
    const small = host(value.at("host"));
    const sampling = samplingPlan(value.at("sampling"), known);
    const sampler = value.hasValue("sampler") ? wholeSampler(value.at("sampler"), known) : null;
    const partial = { ...known, name, files, providers, small, sampling, sampler };
    const graphs = new Map();
    for (const [key, entry] of value.at("graphs").entries())
        graphs.set(key, graph(key, entry, partial));
    if (partial.decoder !== null && !graphs.has("decoder")) {
        value.at("graphs").refuse("has no decoder, which artifact.decoder is");
    }
    if (!graphs.has("guided"))
        value.at("graphs").refuse("has no guided graph");
    return { ...partial, graphs };
}
/** A file of the artifact's folder: a name without folders. */
function fileName(value, name) {
    const fits = name.length <= 255 && /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(name);
    if (!fits)
        value.refuse(`names '${name.slice(0, 100)}', which is not a file inside of the artifact's folder`);
    return name;
}
function sha256(value) {
    const text = value.text();
    if (text.length !== 64 || /[^0-9a-f]/.test(text))
        value.refuse("is not a SHA-256");
    return text;
}
function guidance(value) {
    if (value.isNumber())
        return value.number(0, MOST_SCALE);
    if (value.at("kind").oneOf(["tag", "interval"]) === "tag") {
        value.only(["kind", "w_min", "w_max", "beta"]);
        const w_min = value.at("w_min").number(0, MOST_SCALE);
        const w_max = value.at("w_max").number(w_min, MOST_SCALE);
        const beta = value.at("beta").number(0, MOST_SLOPE);
        if (beta === 0)
            value.at("beta").refuse("must be above 0");
        return { kind: "tag", w_min, w_max, beta };
    }
    value.only(["kind", "w", "low", "high"]);
    const w = value.at("w").number(0, MOST_SCALE);
    const low = value.at("low").number(0, 1);
    const high = value.at("high").number(0, 1);
    if (low >= high)
        value.refuse("must have low below high");
    return { kind: "interval", w, low, high };
}
function timesteps(value, total) {
    const read = [];
    for (const item of value.items(1, total)) {
        const t = item.integer(0, total - 1);
        if (read.length > 0 && t >= (read[read.length - 1] ?? 0))
            value.refuse("must descend");
        read.push(t);
    }
    return read;
}
/** A scale for each of so many steps. */
function scales(value, steps) {
    return value.items(steps, steps).map((item) => item.number(0, MOST_SCALE));
}
/** Refuse steps that a few-step student, or scales that one branch was not trained for. */
function trainedFor(value, steps, given, known) {
    const same = (grid) => grid.length === steps.length && grid.every((t, i) => t === steps[i]);
    if (known.grids.length > 0 && !known.grids.some(same))
        value.at("timesteps").refuse("must be one of grids");
    const [low, high] = known.guidanceRange ?? [0, Infinity];
    if (given.some((w) => w < low || w > high))
        value.at("guidance_scales").refuse("must be within guidance_range");
}
function samplingPlan(value, known) {
    const steps = timesteps(value.at("timesteps"), known.numTrainTimesteps);
    const given = scales(value.at("guidance_scales"), steps.length);
    trainedFor(value, steps, given, known);
    const spacing = value.at("timestep_spacing").oneOf(["trailing", "leading", "linspace"]);
    const consistency = value.at("solver").oneOf(["ddim", "consistency"], "unsupported") === "consistency";
    if (consistency && known.grids.length === 0) {
        value.at("solver").refuse("consistency is of a few-step student, and grids is empty");
    }
    const guided = guidance(value.at("guidance"));
    const clip = value.at("clip_sample").boolean();
    return { timesteps: steps, scales: given.map(Math.fround), spacing, guidance: guided, consistency, clip };
}
function wholeSampler(value, known) {
    const steps = timesteps(value.at("timesteps"), known.numTrainTimesteps);
    trainedFor(value, steps, scales(value.at("guidance_scales"), steps.length), known);
    const output = value.at("output").oneOf(["float32", "uint8"]);
    const decode = value.at("decode").boolean();
    if (decode && known.decoder === null)
        value.at("decode").refuse("is true, and there is no decoder");
    return { timesteps: steps, output, decode };
}
function imageShape(value) {
    const sides = value.items(0, 8);
    if (sides.length !== 3)
        value.refuse("must be (channels, height, width)");
    const read = sides.map((side) => side.integer(1, 2 ** 16));
    if (read.reduce((a, b) => a * b, 1) > MOST_PIXELS)
        value.refuse(`has more than ${MOST_PIXELS} values`);
    return read;
}
function decoder(value) {
    const shape = imageShape(value.at("image_shape"));
    if (shape[0] !== 1 && shape[0] !== 3)
        value.at("image_shape").refuse("must have 1 or 3 channels");
    const bytes = value.at("output").oneOf(["float32", "uint8"]) === "uint8";
    const atOnce = value.at("at_once").integer(1, 4096);
    const precision = value.at("precision").oneOf(["fp32", "fp16", "bf16", "int8"]);
    sha256(value.at("sha256"));
    return { shape, bytes, atOnce, precision };
}
/** How a batch is cut over the threads of a CPU: whether operators are too short to be shared. The rest is checked. */
function host(value) {
    const small = value.at("small").boolean();
    value.at("cond_gain").number(0, 1);
    value.at("cond_gain_few").number(0, 1);
    return small;
}
function graph(name, value, known) {
    const signature = SIGNATURES.get(name);
    if (signature === undefined)
        value.refuse("is not a graph; known: guided, cond, step, sampler, decoder");
    if (name === "cond" && known.branches === 1)
        value.refuse("is there, and a student of one branch has none");
    if (name === "sampler" && known.sampler === null) {
        value.refuse("is there, and artifact.sampler does not say its timesteps");
    }
    if (name === "decoder" && known.decoder === null) {
        value.refuse("is there, and artifact.decoder does not say its images");
    }
    const file = fileName(value.at("file"), value.at("file").text());
    const files = value.at("files").items(1, 1024).map((item) => {
        const listed = fileName(item, item.text());
        if (known.files.has(listed))
            return listed;
        return value.at("files").refuse(`names '${listed}', which the manifest's files does not list`);
    });
    if (!files.includes(file))
        value.at("file").refuse(`is '${file}', which the graph's files does not list`);
    checkTensors(name, value, known);
    if (RUNS_ENGINES.includes(known.backend))
        checkEngine(value.at("engine"), known.backend);
    else if (value.hasValue("engine"))
        value.at("engine").refuse(`is there, and backend is ${known.backend}`);
    return { file, files, inputs: signature.inputs };
}
function student(value, backend) {
    const precision = value.at("precision").oneOf(["fp32", "fp16", "bf16", "int8"]);
    const prediction = value.at("prediction_type").oneOf(["epsilon", "v_prediction", "sample"]);
    const shape = imageShape(value.at("image_shape"));
    const latents = value.at("latents").boolean();
    const decodes = value.at("decoder").isNull() ? null : decoder(value.at("decoder"));
    if (decodes !== null && !latents)
        value.at("decoder").refuse("is of latents, and latents is false");
    const numClasses = value.at("num_classes").integer(1, MOST_CLASSES);
    const classes = value.at("classes").items(0, MOST_CLASSES).map((item) => item.text());
    if (classes.length !== numClasses) {
        value.at("classes").refuse(`has ${classes.length} names for ${numClasses} classes`);
    }
    if (value.at("null_class").integer(0, MOST_COUNT) !== numClasses) {
        value.at("null_class").refuse(`must be num_classes, ${numClasses}`);
    }
    const total = value.at("num_train_timesteps").integer(1, MOST_TIMESTEPS);
    const items = value.at("betas").items(0, MOST_TIMESTEPS);
    const betas = items.map((item, i) => {
        const beta = item.number(0, 1);
        const ends = i === items.length - 1 && prediction !== "epsilon";
        if (beta <= 0 || (beta >= 1 && !ends))
            item.refuse("must be between 0 and 1");
        return beta;
    });
    if (betas.length !== total)
        value.at("betas").refuse(`has ${betas.length} values for ${total} timesteps`);
    const branches = value.at("branches").integer(1, 2);
    const guidanceRange = rangeOf(value.at("guidance_range"), branches);
    const grids = value.at("grids").items(0, 64).map((item) => timesteps(item, total));
    const parameters = value.at("parameters").integer(0, MOST_COUNT);
    return {
        backend, precision, prediction, shape, latents, decoder: decodes, numClasses, classes, numTrainTimesteps: total,
        betas, branches, guidanceRange, grids, parameters,
    };
}
function rangeOf(value, branches) {
    if (value.isNull() !== (branches === 2))
        value.refuse("is of a student of one branch, and null of one of two");
    if (branches === 2)
        return null;
    const [low = 0, high = 0] = value.items(2, 2).map((item) => item.number(0, MOST_SCALE));
    if (low >= high)
        value.refuse("must be two scales, the lower one first");
    return [low, high];
}
//# sourceMappingURL=manifest_reader.js.map
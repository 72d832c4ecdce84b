// The page's worker: it opens the artifact and draws, so that the page never waits for either.
import { DashdeployError, said } from "./errors.js";
import { open } from "./dashdeploy.js";
import {} from "./messages.js";
const scope = globalThis;
const running = new Map();
let model;
scope.onmessage = ({ data: asked }) => {
    if (asked.kind === "cancel") {
        running.get(asked.id)?.abort();
        return;
    }
    const id = asked.kind === "sample" ? asked.id : 0;
    const work = asked.kind === "sample" ? draw(asked.id, asked.request) : opened(asked);
    work.catch((error) => {
        const status = error instanceof DashdeployError ? error.status : "unknown";
        scope.postMessage({ kind: "failed", id, status, message: said(error) });
    });
};
async function opened({ folder, backend, threads }) {
    const onFile = (done, total) => scope.postMessage({ kind: "file", done, total });
    model = await open(folder, { backend, threads, onFile });
    await warmUp(model);
    scope.postMessage({ kind: "opened", info: describe(model) });
}
/** One step, whose time is not shown: a graph that opens and does not run is told of now. */
async function warmUp(model) {
    const stop = new AbortController();
    const first = model.sample({ labels: [0], onStep: () => stop.abort(), signal: stop.signal });
    await first.catch((error) => {
        if (error.status !== "cancelled")
            throw error;
    });
}
function describe(model) {
    const { manifest } = model;
    const { guidance, timesteps } = manifest.sampling;
    return {
        classes: manifest.classes,
        shape: model.imageShape,
        pictures: (!manifest.latents || manifest.decoder !== null) && [1, 3].includes(model.imageShape[0]),
        steps: timesteps.length,
        counts: manifest.grids.map((grid) => grid.length),
        numTrainTimesteps: manifest.numTrainTimesteps,
        range: manifest.guidanceRange,
        w: typeof guidance === "number" ? guidance : null,
        name: manifest.name,
        precision: manifest.precision,
        parameters: manifest.parameters,
        backend: model.backend,
        threads: model.threads,
        notices: model.notices,
    };
}
async function draw(id, { label, seed, image, w, steps }) {
    const stop = new AbortController();
    running.set(id, stop);
    try {
        const onStep = (done, total) => scope.postMessage({ kind: "step", id, done, total });
        const request = { labels: [label], seed, firstImage: image, w, steps, onStep, signal: stop.signal };
        if (model === undefined)
            throw new Error("no artifact is open");
        const { data, shape, ms } = await model.sample(request);
        const [, ...sides] = shape;
        scope.postMessage({ kind: "image", id, data, shape: sides, ms }, [data.buffer]);
    }
    finally {
        running.delete(id);
    }
}
//# sourceMappingURL=worker.js.map
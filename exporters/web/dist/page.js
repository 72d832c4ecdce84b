// The page: class, guidance, seed and count; progress; images as they come, each with the time that it took.
import { DashdeployError, said } from "./errors.js";
import {} from "./messages.js";
import { figure } from "./pictures.js";
import { Studio } from "./studio.js";
import {} from "./ort.js";
const EACH = "each";
const MOST_IMAGES = 1000;
function part(id) {
    const found = document.getElementById(id);
    if (found === null)
        throw new DashdeployError("damaged", `index.html has no part ${id}`);
    return found;
}
/** Open the artifact and make the page ready. @throws DashdeployError: the artifact cannot be opened. */
export async function main() {
    const asked = new URLSearchParams(location.search);
    const threads = asked.has("threads") ? Number(asked.get("threads")) : undefined;
    const backend = (asked.get("backend") ?? undefined);
    const bar = part("progress");
    tell("Loading and checking the model …");
    const studio = new Studio();
    const info = await studio.open("artifact", backend, threads, (done, total) => {
        bar.max = total;
        bar.value = done;
    });
    if (!info.pictures) {
        const [channels] = info.shape;
        const what = `${channels} channels, which are no picture. Use the library, as README.md shows`;
        throw new DashdeployError("unsupported", `the artifact draws latents or images of ${what}`);
    }
    fill(info);
    describe(info);
    bar.hidden = true;
    tell("Ready.");
    new Desk(studio, info);
}
/** One line for all, read out when there is time. */
export function tell(text) {
    part("status").textContent = text;
}
/** One line that is read out at once. */
export function complain(text) {
    const alert = part("alert");
    alert.textContent = text;
    alert.hidden = text === "";
}
/** The form's choices, by what the artifact was made for. */
function fill(info) {
    const label = part("label");
    label.replaceChildren(new Option("each class in turn", EACH));
    info.classes.forEach((name, i) => label.add(new Option(name, String(i))));
    part("count").value = String(Math.min(info.classes.length, 10));
    const w = part("w");
    [w.min, w.max] = info.range === null ? ["0", "1000000"] : info.range.map(String);
    w.value = info.w === null ? "" : String(info.w);
    if (info.range !== null)
        part("w-note").textContent = `${w.min} to ${w.max}`;
    if (info.w === null)
        part("w-note").textContent = "empty: over time, as trained";
    const steps = part("steps");
    const usual = [10, 20, 25, 50, 100, 250, info.steps].filter((n) => n <= info.numTrainTimesteps);
    const counts = info.counts.length > 0 ? info.counts : usual;
    for (const n of [...new Set(counts)].sort((a, b) => a - b)) {
        steps.add(new Option(String(n), String(n), n === info.steps, n === info.steps));
    }
}
function describe(info) {
    const [channels, height, width] = info.shape;
    const size = `${width} × ${height} ${channels === 1 ? "grey" : "colour"}`;
    const threads = `${info.threads} thread${info.threads === 1 ? "" : "s"}`;
    const where = info.backend === "webgpu" ? "GPU by WebGPU" : `WebAssembly, ${threads}`;
    const millions = `${(info.parameters / 1e6).toFixed(2)} M parameters`;
    part("about").textContent = [info.name, info.precision, millions, size, where].join(" · ");
    const notices = part("notices");
    const lines = info.notices.map((notice) => Object.assign(document.createElement("p"), { textContent: notice }));
    notices.replaceChildren(...lines);
    notices.hidden = info.notices.length === 0;
}
/** The form at work: one request at a time. */
class Desk {
    studio;
    info;
    form = part("form");
    bar = part("progress");
    stop;
    constructor(studio, info) {
        this.studio = studio;
        this.info = info;
        this.form.addEventListener("submit", (event) => {
            event.preventDefault();
            if (this.stop === undefined)
                void this.draw();
        });
        part("stop").addEventListener("click", () => this.stop?.abort());
        part("another").addEventListener("click", () => {
            part("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
        });
        document.addEventListener("keydown", (event) => {
            if (event.key === "Escape")
                this.stop?.abort();
        });
        part("fields").disabled = false;
        part("draw").disabled = false;
    }
    async draw() {
        const stop = (this.stop = new AbortController());
        this.busy(true);
        complain("");
        const images = part("images");
        images.replaceChildren();
        const times = [];
        try {
            const requests = this.requests();
            for (const [i, request] of requests.entries()) {
                tell(`Drawing image ${i + 1} of ${requests.length} …`);
                const picture = await this.studio.draw(request, stop.signal, (done, total) => {
                    this.bar.max = requests.length;
                    this.bar.value = i + done / total;
                });
                times.push(picture.ms);
                images.append(figure(picture, this.info.classes[request.label] ?? "", milliseconds(picture.ms)));
            }
            tell(this.summary(times, "."));
        }
        catch (error) {
            if (error.status !== "cancelled")
                complain(`${said(error)}.`);
            const stopped = stop.signal.aborted ? "Stopped" : "Not drawn";
            tell(`${stopped}. ${times.length === 0 ? "There are no images." : this.summary(times, " are there.")}`);
        }
        this.stop = undefined;
        this.busy(false);
    }
    requests() {
        const value = (id) => part(id).value.trim();
        const [label, count] = [value("label"), Number(value("count"))];
        if (!Number.isSafeInteger(count) || count < 1 || count > MOST_IMAGES) {
            throw new DashdeployError("argument", `count is ${value("count")}; expected 1 ... ${MOST_IMAGES}`);
        }
        const w = value("w") === "" ? undefined : Number(value("w"));
        const seed = value("seed") === "" ? "0" : value("seed");
        return Array.from({ length: count }, (_, i) => ({
            label: label === EACH ? i % this.info.classes.length : Number(label),
            seed,
            image: i,
            w,
            steps: Number(value("steps")),
        }));
    }
    summary(times, end) {
        const sorted = [...times].sort((a, b) => a - b);
        const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
        const images = `${times.length} image${times.length === 1 ? "" : "s"}`;
        if (end === ".")
            return `${images}, ${milliseconds(median)} each.`;
        return `${images}${times.length === 1 ? " is there." : end}`;
    }
    busy(now) {
        part("fields").disabled = now;
        part("draw").disabled = now;
        part("stop").hidden = !now;
        this.bar.hidden = !now;
        this.bar.value = 0;
        part("images").setAttribute("aria-busy", String(now));
        (now ? part("stop") : part("draw")).focus({ preventScroll: true });
    }
}
function milliseconds(ms) {
    return ms >= 10_000 ? `${(ms / 1000).toFixed(1)} s` : ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}
//# sourceMappingURL=page.js.map
// The worker as the page sees it: promises of an opened artifact and of images.
import {} from "./messages.js";
import { DashdeployError, fail, stopIfAsked } from "./errors.js";
import {} from "./ort.js";
const OPENING = 0;
export class Studio {
    worker;
    waiting = new Map();
    next = 1;
    ended;
    constructor() {
        this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
        this.worker.onmessage = ({ data }) => this.take(data);
        this.worker.onerror = (event) => {
            event.preventDefault(); // it is told here, and not in the console
            const what = event.message ? `: ${event.message}` : ": a file of this page is missing or damaged";
            this.end(new DashdeployError("backend", `the page's worker stopped${what}. Load the page again`));
        };
    }
    /** @param onFile called after each checked file. @throws DashdeployError: see `open`. */
    async open(folder, backend, threads, onFile) {
        const answer = await this.ask({ kind: "open", folder, backend, threads }, OPENING, onFile);
        return answer.kind === "opened" ? answer.info : fail("backend", "the worker gave another answer");
    }
    /** @throws DashdeployError: see `Model.sample`. */
    async draw(request, signal, onStep) {
        stopIfAsked(signal);
        const id = this.next++;
        const cancel = () => this.post({ kind: "cancel", id });
        signal.addEventListener("abort", cancel);
        try {
            const answer = await this.ask({ kind: "sample", id, request }, id, onStep);
            return answer.kind === "image" ? answer : fail("backend", "the worker gave another answer");
        }
        finally {
            signal.removeEventListener("abort", cancel);
        }
    }
    ask(asked, id, progress) {
        if (this.ended !== undefined)
            return Promise.reject(this.ended);
        return new Promise((resolve, reject) => {
            this.waiting.set(id, { resolve, reject, progress });
            this.post(asked);
        });
    }
    post(asked) {
        this.worker.postMessage(asked);
    }
    take(answer) {
        const id = "id" in answer ? answer.id : OPENING;
        const waiting = this.waiting.get(id);
        if (answer.kind === "file" || answer.kind === "step") {
            waiting?.progress(answer.done, answer.total);
            return;
        }
        this.waiting.delete(id);
        if (answer.kind === "failed")
            waiting?.reject(new DashdeployError(answer.status, answer.message));
        else
            waiting?.resolve(answer);
    }
    /** A worker that has stopped answers nothing more: what waits and what comes fails. */
    end(error) {
        this.ended = error;
        this.worker.terminate();
        for (const waiting of this.waiting.values())
            waiting.reject(error);
        this.waiting.clear();
    }
}
//# sourceMappingURL=studio.js.map
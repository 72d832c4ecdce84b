// The worker as the page sees it: promises of an opened artifact and of images.
import { type Answer, type Asked, type Drawn, type Info } from "./messages.js";
import { DashdeployError, fail, type Status, stopIfAsked } from "./errors.js";
import { type BackendName } from "./ort.js";

export interface Picture {
  /** (C, H, W) float32 in [-1, 1]. */
  readonly data: Float32Array;
  readonly shape: readonly [number, number, number];
  readonly ms: number;
}

interface Waiting {
  resolve(answer: Answer): void;
  reject(error: Error): void;
  progress(done: number, total: number): void;
}

const OPENING = 0;

export class Studio {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private next = 1;
  private ended: Error | undefined;

  constructor() {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }: MessageEvent<Answer>) => this.take(data);
    this.worker.onerror = (event) => {
      event.preventDefault(); // it is told here, and not in the console
      const what = event.message ? `: ${event.message}` : ": a file of this page is missing or damaged";
      this.end(new DashdeployError("backend", `the page's worker stopped${what}. Load the page again`));
    };
  }

  /** @param onFile called after each checked file. @throws DashdeployError: see `open`. */
  async open(
    folder: string, backend: BackendName | undefined, threads: number | undefined,
    onFile: (done: number, total: number) => void,
  ): Promise<Info> {
    const answer = await this.ask({ kind: "open", folder, backend, threads }, OPENING, onFile);
    return answer.kind === "opened" ? answer.info : fail("backend", "the worker gave another answer");
  }

  /** @throws DashdeployError: see `Model.sample`. */
  async draw(
    request: Drawn, signal: AbortSignal, onStep: (done: number, total: number) => void,
  ): Promise<Picture> {
    stopIfAsked(signal);
    const id = this.next++;
    const cancel = () => this.post({ kind: "cancel", id });
    signal.addEventListener("abort", cancel);
    try {
      const answer = await this.ask({ kind: "sample", id, request }, id, onStep);
      return answer.kind === "image" ? answer : fail("backend", "the worker gave another answer");
    } finally {
      signal.removeEventListener("abort", cancel);
    }
  }

  private ask(asked: Asked, id: number, progress: Waiting["progress"]): Promise<Answer> {
    if (this.ended !== undefined) return Promise.reject(this.ended);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, progress });
      this.post(asked);
    });
  }

  private post(asked: Asked): void {
    this.worker.postMessage(asked);
  }

  private take(answer: Answer): void {
    const id = "id" in answer ? answer.id : OPENING;
    const waiting = this.waiting.get(id);
    if (answer.kind === "file" || answer.kind === "step") {
      waiting?.progress(answer.done, answer.total);
      return;
    }
    this.waiting.delete(id);
    if (answer.kind === "failed") waiting?.reject(new DashdeployError(answer.status as Status, answer.message));
    else waiting?.resolve(answer);
  }

  /** A worker that has stopped answers nothing more: what waits and what comes fails. */
  private end(error: Error): void {
    this.ended = error;
    this.worker.terminate();
    for (const waiting of this.waiting.values()) waiting.reject(error);
    this.waiting.clear();
  }
}

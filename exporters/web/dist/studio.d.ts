import { type Drawn, type Info } from "./messages.js";
import { type BackendName } from "./ort.js";
export interface Picture {
    /** (C, H, W) float32 in [-1, 1]. */
    readonly data: Float32Array;
    readonly shape: readonly [number, number, number];
    readonly ms: number;
}
export declare class Studio {
    private readonly worker;
    private readonly waiting;
    private next;
    private ended;
    constructor();
    /** @param onFile called after each checked file. @throws DashdeployError: see `open`. */
    open(folder: string, backend: BackendName | undefined, threads: number | undefined, onFile: (done: number, total: number) => void): Promise<Info>;
    /** @throws DashdeployError: see `Model.sample`. */
    draw(request: Drawn, signal: AbortSignal, onStep: (done: number, total: number) => void): Promise<Picture>;
    private ask;
    private post;
    private take;
    /** A worker that has stopped answers nothing more: what waits and what comes fails. */
    private end;
}

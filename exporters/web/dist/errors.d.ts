/**
 * What kind of error it is, as the C++ runtime names them.
 *
 * - `argument`: a value that this call cannot use
 * - `not found`: a folder or a file is missing or cannot be read
 * - `damaged`: a file is not what the manifest vouches for, or the manifest makes no sense
 * - `unsupported`: another format, backend or solver, or something that this browser lacks
 * - `backend`: ONNX Runtime failed
 * - `cancelled`: the request's `AbortSignal` asked for it
 * - `not finite`: a step gave a value that is not a finite number
 */
export type Status = "argument" | "not found" | "damaged" | "unsupported" | "backend" | "cancelled" | "not finite";
/** An error of this library; `message` is one line of text. */
export declare class DashdeployError extends Error {
    readonly status: Status;
    constructor(status: Status, message: string);
}
/** Throw a DashdeployError. */
export declare function fail(status: Status, message: string): never;
/** What a call ends with whose signal asked it to. */
export declare function cancelled(): DashdeployError;
/** @throws DashdeployError: `cancelled`, the signal asked for it. */
export declare function stopIfAsked(signal: AbortSignal | undefined): void;
/** What another library said, as one line of at most 600 characters. */
export declare function said(error: unknown): string;

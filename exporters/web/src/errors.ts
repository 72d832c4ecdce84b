// The one error that this library throws: what kind it is, and a line of text that says what to do.

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
export class DashdeployError extends Error {
  readonly status: Status;

  constructor(status: Status, message: string) {
    super(oneLine(message));
    this.name = "DashdeployError";
    this.status = status;
  }
}

/** Throw a DashdeployError. */
export function fail(status: Status, message: string): never {
  throw new DashdeployError(status, message);
}

/** What a call ends with whose signal asked it to. */
export function cancelled(): DashdeployError {
  return new DashdeployError("cancelled", "cancelled by the signal");
}

/** @throws DashdeployError: `cancelled`, the signal asked for it. */
export function stopIfAsked(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw cancelled();
}

/** What another library said, as one line of at most 600 characters. */
export function said(error: unknown): string {
  return oneLine(error instanceof Error ? error.message : String(error)).slice(0, 600);
}

function oneLine(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f\u2028\u2029]+/g, " ");
}

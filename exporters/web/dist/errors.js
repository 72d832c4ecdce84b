// The one error that this library throws: what kind it is, and a line of text that says what to do.
/** An error of this library; `message` is one line of text. */
export class DashdeployError extends Error {
    status;
    constructor(status, message) {
        super(oneLine(message));
        this.name = "DashdeployError";
        this.status = status;
    }
}
/** Throw a DashdeployError. */
export function fail(status, message) {
    throw new DashdeployError(status, message);
}
/** What a call ends with whose signal asked it to. */
export function cancelled() {
    return new DashdeployError("cancelled", "cancelled by the signal");
}
/** @throws DashdeployError: `cancelled`, the signal asked for it. */
export function stopIfAsked(signal) {
    if (signal?.aborted === true)
        throw cancelled();
}
/** What another library said, as one line of at most 600 characters. */
export function said(error) {
    return oneLine(error instanceof Error ? error.message : String(error)).slice(0, 600);
}
function oneLine(text) {
    return text.replace(/[\u0000-\u001f\u007f\u2028\u2029]+/g, " ");
}
//# sourceMappingURL=errors.js.map
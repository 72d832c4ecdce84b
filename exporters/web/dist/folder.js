// The files of a folder, over HTTP in a browser or from the disk in Node: whole, and as bytes.
import { fail, said, stopIfAsked } from "./errors.js";
/** Whether this is Node. Bundlers must not follow the imports of its modules. */
export const IN_NODE = typeof globalThis.process?.versions?.node === "string";
export class Folder {
    /** What messages call it, and what names are put behind. */
    name;
    /** @param folder a URL, relative to the page, or in Node a path or a file URL; with or without a slash at its end */
    constructor(folder) {
        if (typeof folder !== "string" && !(folder instanceof URL))
            fail("argument", "folder must be a string or a URL");
        this.name = String(folder).replace(/\/+$/, "") || (String(folder) === "" ? "." : "");
    }
    /** What messages call a file. */
    path(file) {
        return `${this.name}/${file}`;
    }
    /**
     * The bytes of a file.
     *
     * @param most of bytes
     * @param missing what the message says of a file that is not there
     * @param signal stops the download
     * @throws DashdeployError: `not found`, `damaged` where there are more bytes than `most`, or `cancelled`.
     */
    async read(file, { most = Infinity, missing, signal } = {}) {
        const path = this.path(file);
        const tooLarge = (size) => fail("damaged", `${path}: ${size} bytes; expected at most ${most}`);
        if (!/^[a-z][a-z0-9+.-]+:/i.test(path) ? IN_NODE : path.startsWith("file:")) {
            return fromDisk(path, missing ?? `${path}: no such file`, most, tooLarge);
        }
        try {
            return await overHttp(path, missing ?? `${path}: no such file`, most, tooLarge, signal);
        }
        catch (error) {
            stopIfAsked(signal);
            throw error;
        }
    }
}
async function fromDisk(path, missing, most, tooLarge) {
    const node = "node:fs/promises";
    const disk = (await import(node));
    const place = path.startsWith("file:") ? new URL(path) : path;
    const found = await disk.stat(place).catch(() => null);
    if (found === null || !found.isFile())
        fail("not found", missing);
    if (found.size > most)
        tooLarge(found.size);
    try {
        return Uint8Array.from(await disk.readFile(place));
    }
    catch (error) {
        fail("not found", `${path}: cannot be read (${said(error)})`);
    }
}
async function overHttp(path, missing, most, tooLarge, signal) {
    let response;
    try {
        response = await fetch(path, { cache: "no-cache", signal: signal ?? null });
    }
    catch (error) {
        fail("not found", `${path}: cannot be read (${said(error)})`);
    }
    if (response.status === 404 || response.status === 410)
        fail("not found", missing);
    if (!response.ok)
        fail("not found", `${path}: cannot be read (HTTP ${response.status})`);
    const parts = [];
    let size = 0;
    const body = response.body?.getReader();
    try {
        for (let part = await body?.read(); part?.value !== undefined; part = await body?.read()) {
            parts.push(part.value);
            size += part.value.length;
            if (size > most)
                break;
        }
    }
    catch (error) {
        fail("not found", `${path}: cannot be read (${said(error)})`);
    }
    if (size > most) {
        await body?.cancel();
        tooLarge(size);
    }
    const whole = new Uint8Array(size);
    let at = 0;
    for (const part of parts) {
        whole.set(part, at);
        at += part.length;
    }
    return whole;
}
//# sourceMappingURL=folder.js.map
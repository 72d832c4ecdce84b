// The files of a folder, over HTTP in a browser or from the disk in Node: whole, and as bytes.
import { fail, said, stopIfAsked } from "./errors.js";

/** Node's two functions that are used, so that this library is checked without Node's types. */
interface Disk {
  readFile(path: string | URL): Promise<Uint8Array<ArrayBuffer>>;
  stat(path: string | URL): Promise<{ size: number; isFile(): boolean; isDirectory(): boolean }>;
}

/** Whether this is Node. Bundlers must not follow the imports of its modules. */
export const IN_NODE: boolean =
  typeof (globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node === "string";

export class Folder {
  /** What messages call it, and what names are put behind. */
  readonly name: string;

  /** @param folder a URL, relative to the page, or in Node a path or a file URL; with or without a slash at its end */
  constructor(folder: string | URL) {
    if (typeof folder !== "string" && !(folder instanceof URL)) fail("argument", "folder must be a string or a URL");
    this.name = String(folder).replace(/\/+$/, "") || (String(folder) === "" ? "." : "");
  }

  /** What messages call a file. */
  path(file: string): string {
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
  async read(
    file: string,
    { most = Infinity, missing, signal }: { most?: number; missing?: string; signal?: AbortSignal | undefined } = {},
  ): Promise<Uint8Array<ArrayBuffer>> {
    const path = this.path(file);
    const tooLarge = (size: number): never => fail("damaged", `${path}: ${size} bytes; expected at most ${most}`);
    if (!/^[a-z][a-z0-9+.-]+:/i.test(path) ? IN_NODE : path.startsWith("file:")) {
      return fromDisk(path, missing ?? `${path}: no such file`, most, tooLarge);
    }
    try {
      return await overHttp(path, missing ?? `${path}: no such file`, most, tooLarge, signal);
    } catch (error) {
      stopIfAsked(signal);
      throw error;
    }
  }
}

async function fromDisk(
  path: string, missing: string, most: number, tooLarge: (size: number) => never,
): Promise<Uint8Array<ArrayBuffer>> {
  const node = "node:fs/promises";
  const disk = (await import(node)) as Disk;
  const place = path.startsWith("file:") ? new URL(path) : path;
  const found = await disk.stat(place).catch(() => null);
  if (found === null || !found.isFile()) fail("not found", missing);
  if (found.size > most) tooLarge(found.size);
  try {
    return Uint8Array.from(await disk.readFile(place));
  } catch (error) {
    fail("not found", `${path}: cannot be read (${said(error)})`);
  }
}

async function overHttp(
  path: string, missing: string, most: number, tooLarge: (size: number) => never, signal: AbortSignal | undefined,
): Promise<Uint8Array<ArrayBuffer>> {
  let response: Response;
  try {
    response = await fetch(path, { cache: "no-cache", signal: signal ?? null });
  } catch (error) {
    fail("not found", `${path}: cannot be read (${said(error)})`);
  }
  if (response.status === 404 || response.status === 410) fail("not found", missing);
  if (!response.ok) fail("not found", `${path}: cannot be read (HTTP ${response.status})`);
  const parts: Uint8Array[] = [];
  let size = 0;
  const body = response.body?.getReader();
  try {
    for (let part = await body?.read(); part?.value !== undefined; part = await body?.read()) {
      parts.push(part.value);
      size += part.value.length;
      if (size > most) break;
    }
  } catch (error) {
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

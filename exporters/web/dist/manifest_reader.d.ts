import { type Manifest } from "./manifest.js";
/** What is known of a student before its sampling and its graphs are read. */
export type Student = Omit<Manifest, "name" | "files" | "graphs" | "providers" | "small" | "sampling" | "sampler">;
/**
 * Read the bytes of a manifest.json.
 *
 * @param source what messages call it
 * @throws DashdeployError: `damaged` for what is not a manifest or makes no sense, `unsupported` for a format, backend
 *   or solver that this library does not know.
 */
export declare function parseManifest(bytes: Uint8Array, source: string): Manifest;

import { type Manifest } from "./manifest.js";
/** A manifest, and the bytes that it vouches for. */
export interface Artifact {
    readonly folder: string;
    readonly manifest: Manifest;
    /** The files that were asked for; the others were checked and let go. */
    readonly bytes: ReadonlyMap<string, Uint8Array>;
}
/**
 * Read manifest.json, manifest.json.sha256 and every listed file.
 *
 * @param wanted the files whose bytes are kept, by the manifest
 * @param onFile called after each file: how many of them were checked, and how many there are
 * @throws DashdeployError: a file is missing, or is not what the manifest vouches for.
 */
export declare function readArtifact(place: string | URL, wanted: (manifest: Manifest) => ReadonlySet<string>, how: {
    onFile?: ((done: number, total: number) => void) | undefined;
    signal?: AbortSignal | undefined;
}): Promise<Artifact>;

// An artifact's folder: its manifest and its files, checked against their SHA-256 before anything is loaded.
import { fail } from "./errors.js";
import { Folder } from "./folder.js";
import { type Manifest } from "./manifest.js";
import { parseManifest } from "./manifest_reader.js";
import { sha256 } from "./sha256.js";

const LARGEST_MANIFEST = 64 * 2 ** 20; // bytes
const CHANGED = "damaged or changed since it was made";

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
export async function readArtifact(
  place: string | URL,
  wanted: (manifest: Manifest) => ReadonlySet<string>,
  how: { onFile?: ((done: number, total: number) => void) | undefined; signal?: AbortSignal | undefined },
): Promise<Artifact> {
  const { onFile, signal } = how;
  const folder = new Folder(place);
  const path = folder.path("manifest.json");
  const sidecar = folder.path("manifest.json.sha256");
  const text = await folder.read("manifest.json", {
    most: LARGEST_MANIFEST, missing: `${folder.name}: not an artifact (it has no manifest.json)`, signal,
  });
  // The format comes first: a manifest of another format is not damaged.
  const manifest = parseManifest(text, path);
  const vouched = await folder.read("manifest.json.sha256", { most: 4096, signal }).catch((error: unknown) => {
    if ((error as { status?: string }).status !== "not found") throw error;
    return fail("damaged", `${sidecar}: missing; it holds the SHA-256 of manifest.json`);
  });
  if (new TextDecoder("utf-8", { ignoreBOM: true }).decode(vouched) !== `${await sha256(text)}  manifest.json\n`) {
    fail("damaged", `${path}: ${CHANGED} (its SHA-256 differs from manifest.json.sha256's)`);
  }
  const keep = wanted(manifest);
  const bytes = new Map<string, Uint8Array>();
  let done = 0;
  for (const [name, expected] of manifest.files) {
    const read = await folder.read(name, { signal });
    if ((await sha256(read)) !== expected) {
      fail("damaged", `${folder.path(name)}: ${CHANGED} (its SHA-256 differs from the manifest's)`);
    }
    if (keep.has(name)) bytes.set(name, read);
    onFile?.(++done, manifest.files.size);
  }
  return { folder: folder.name, manifest, bytes };
}

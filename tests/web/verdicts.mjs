// The manifest reader's verdicts: a list of base64 manifests in, of [status, message] out; null: taken.
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const { parseManifest } = await import(pathToFileURL(`${process.argv[2]}/manifest_reader.js`));
const verdict = (given) => {
  try {
    parseManifest(new Uint8Array(Buffer.from(given, "base64")), "manifest.json");
    return null;
  } catch (error) {
    return [error.status ?? "uncaught", error.message];
  }
};
console.log(JSON.stringify(JSON.parse(await text(process.stdin)).map(verdict)));

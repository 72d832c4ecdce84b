// A walk through protobuf's wire format, down the fields of onnx.proto that lead to TensorProto.external_data: what
// files a graph would open, before ONNX Runtime sees it. exporters/cpp/src/onnx_files.cpp is the same walk.
import { fail } from "./errors.js";

type Kind =
  | "model" | "graph" | "node" | "attribute" | "function" | "training" | "sparse" | "tensor" | "external";

/** Message -> field -> the message that the field holds. */
const HELD: Record<Kind, Record<number, Kind>> = {
  model: { 7: "graph", 20: "training", 25: "function" },
  graph: { 1: "node", 5: "tensor", 15: "sparse" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse" },
  function: { 7: "node", 11: "attribute" },
  training: { 1: "graph", 2: "graph" },
  sparse: { 1: "tensor", 2: "tensor" },
  tensor: { 13: "external" },
  external: {},
};

const OP_TYPE = 4; // of a node
const KEY = 1; // of an entry of external_data
const VALUE = 2;
const DEEPEST = 64;

/**
 * The files beside a model that its weights lie in.
 *
 * @param source what messages call the model
 * @throws DashdeployError: `damaged`, it is not a whole ONNX model, or holds code for one device.
 */
export function externalFiles(model: Uint8Array, source: string): Set<string> {
  const walk = new Walk(model, source);
  walk.message(0, model.length, "model", 0);
  return walk.found;
}

class Walk {
  readonly found = new Set<string>();
  private at = 0;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly source: string,
  ) {}

  message(begin: number, end: number, kind: Kind, depth: number): void {
    if (depth > DEEPEST) this.refuse("it is nested too deeply");
    const inner = HELD[kind];
    let [key, value] = ["", ""];
    this.at = begin;
    while (this.at < end) {
      const tag = this.number(end);
      const [field, wire] = [Math.floor(tag / 8), tag % 8];
      if (wire === 0) {
        this.number(end);
      } else if (wire === 1 || wire === 5) {
        this.skip(wire === 1 ? 8 : 4, end);
      } else if (wire === 2) {
        const size = this.number(end);
        const [from, to] = [this.at, this.skip(size, end)];
        const held = inner[field];
        if (held !== undefined) this.message(from, to, held, depth + 1);
        this.at = to;
        if (kind === "node" && field === OP_TYPE && this.text(from, to) === "EPContext") {
          this.refuse("it holds an EPContext node, code for one device");
        }
        if (kind === "external" && field === KEY) key = this.text(from, to);
        if (kind === "external" && field === VALUE) value = this.text(from, to);
      } else {
        this.refuse("its encoding is unknown");
      }
    }
    if (kind === "external" && key === "location") this.found.add(value);
  }

  private refuse(why: string): never {
    fail("damaged", `${this.source}: not a whole ONNX model (${why})`);
  }

  private skip(size: number, end: number): number {
    if (size > end - this.at) this.refuse("it ends too early");
    this.at += size;
    return this.at;
  }

  private number(end: number): number {
    let value = 0;
    for (let i = 0; i < 10; i++) {
      this.skip(1, end);
      const byte = this.bytes[this.at - 1] ?? 0;
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) return value;
    }
    return this.refuse("a number is too long");
  }

  private text(from: number, to: number): string {
    return new TextDecoder().decode(this.bytes.subarray(from, to));
  }
}

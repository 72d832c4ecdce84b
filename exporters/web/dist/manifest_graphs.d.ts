import { type JsonReader } from "./json_reader.js";
import { type Manifest } from "./manifest.js";
/** Graph -> its inputs, in order, and its output; of guided and cond it is what the student predicts. */
export declare const SIGNATURES: ReadonlyMap<string, {
    inputs: readonly string[];
    output: string;
}>;
/** Backends whose graphs have an engine. */
export declare const RUNS_ENGINES: readonly string[];
type Known = Omit<Manifest, "graphs">;
/** A tensor's type, and its sides after the batch. */
interface Tensor {
    readonly dtype: "float32" | "int64" | "uint8";
    readonly sides: readonly number[];
}
/** Refuse a graph whose inputs or output are not those of its signature. */
export declare function checkTensors(graph: string, value: JsonReader, manifest: Known): void;
/** What a graph's tensor of this name must be. */
export declare function tensorOf(name: string, graph: string, manifest: Known): Tensor;
/** Refuse an engine that makes no sense. This library runs none. */
export declare function checkEngine(value: JsonReader, backend: string): void;
export {};

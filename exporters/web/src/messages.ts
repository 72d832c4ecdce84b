// What the page and its worker say to each other.
import { type Status } from "./errors.js";
import { type BackendName } from "./ort.js";

export type Asked =
  | { kind: "open"; folder: string; backend: BackendName | undefined; threads: number | undefined }
  | { kind: "sample"; id: number; request: Drawn }
  | { kind: "cancel"; id: number };

/** One image. */
export interface Drawn {
  label: number;
  seed: string;
  image: number;
  w: number | undefined;
  steps: number | undefined;
}

/** What the page shows of an artifact. */
export interface Info {
  classes: readonly string[];
  shape: readonly [number, number, number];
  /** What is drawn is a picture, and not latents. */
  pictures: boolean;
  steps: number;
  /** Numbers of steps that it was trained for; empty: any. */
  counts: readonly number[];
  numTrainTimesteps: number;
  range: readonly [number, number] | null;
  /** The recipe's guidance scale; null: it changes over time. */
  w: number | null;
  name: string;
  precision: string;
  parameters: number;
  backend: string;
  threads: number;
  notices: readonly string[];
}

export type Answer =
  | { kind: "file"; done: number; total: number }
  | { kind: "opened"; info: Info }
  | { kind: "step"; id: number; done: number; total: number }
  | { kind: "image"; id: number; data: Float32Array; shape: readonly [number, number, number]; ms: number }
  | { kind: "failed"; id: number; status: Status | "unknown"; message: string };

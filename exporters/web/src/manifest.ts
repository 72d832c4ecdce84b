// What an artifact's manifest says, as far as this library relies on it.
//
// Names and meanings are those of dashdeploy/artifact/__init__.py; `dashdeploy exporters schema --artifact` prints them
// as JSON Schema.

/** Of the manifests that this library reads. */
export const FORMAT = 5;

export type GraphName = "guided" | "cond" | "step" | "sampler" | "decoder";
export type Prediction = "epsilon" | "v_prediction" | "sample";
export type Spacing = "trailing" | "leading" | "linspace";

/** (C, H, W). */
export type Shape = readonly [number, number, number];

/** One graph of the network. */
export interface Graph {
  /** What ONNX Runtime opens. */
  readonly file: string;
  /** All files that belong to it. */
  readonly files: readonly string[];
  readonly inputs: readonly string[];
}

/** From w_min at t = T to w_max at t = 0 by a sigmoid of slope beta (arXiv:2606.00798, Eq. 3). */
export interface Tag {
  readonly kind: "tag";
  readonly w_min: number;
  readonly w_max: number;
  readonly beta: number;
}

/** w where low <= t/T < high, off elsewhere (arXiv:2404.07724). */
export interface Interval {
  readonly kind: "interval";
  readonly w: number;
  readonly low: number;
  readonly high: number;
}

/** Guidance over time: a number is one scale for all steps, 1 = off. */
export type Guidance = number | Tag | Interval;

/** The recipe's sampling, worked out: what runs where a request says nothing else. */
export interface SamplingPlan {
  /** Descending; after the last comes the clean image. */
  readonly timesteps: readonly number[];
  /** w at each of them, float32. */
  readonly scales: readonly number[];
  /** Of the timesteps for another number of steps. */
  readonly spacing: Spacing;
  /** Of the scales for those. */
  readonly guidance: Guidance;
  /** The solver: consistency, or ddim. */
  readonly consistency: boolean;
  readonly clip: boolean;
}

/** The graph of all steps. This library goes step by step, and only checks what the manifest says of it. */
export interface WholeSampler {
  readonly timesteps: readonly number[];
  readonly output: "float32" | "uint8";
  /** It ends in the decoder. */
  readonly decode: boolean;
}

/** The graph that makes images of latents. */
export interface Decoder {
  /** Of an image. */
  readonly shape: Shape;
  /** Its images are uint8, not float32 in [-1, 1]. */
  readonly bytes: boolean;
  /** Most images in one call. */
  readonly atOnce: number;
  readonly precision: string;
}

export interface Manifest {
  /** The deployment target. */
  readonly name: string;
  readonly backend: string;
  readonly precision: string;
  readonly prediction: Prediction;
  /** Name -> SHA-256. */
  readonly files: ReadonlyMap<string, string>;
  readonly graphs: ReadonlyMap<GraphName, Graph>;
  readonly classes: readonly string[];
  readonly providers: readonly string[];
  /** Of the noise schedule, one for each timestep. */
  readonly betas: readonly number[];
  /** Of x: of latents, where `latents` is true. */
  readonly shape: Shape;
  readonly numClasses: number;
  readonly numTrainTimesteps: number;
  readonly parameters: number;
  /** 1: w is an input of the network. */
  readonly branches: 1 | 2;
  /** The scales that one branch was trained for; null of two branches. */
  readonly guidanceRange: readonly [number, number] | null;
  /** Lists of timesteps that a few-step student was trained for; empty: any timesteps. */
  readonly grids: readonly (readonly number[])[];
  readonly sampling: SamplingPlan;
  readonly sampler: WholeSampler | null;
  /** x is an autoencoder's latents. */
  readonly latents: boolean;
  readonly decoder: Decoder | null;
  /** Its operators are too short to be shared between threads. */
  readonly small: boolean;
}

/** Values of an image of this shape. */
export function sizeOf(shape: Shape): number {
  return shape[0] * shape[1] * shape[2];
}

/** Noises that an image of so many steps takes: the start, or with the solver consistency one for each step. */
export function noisesOf(manifest: Manifest, steps: number): number {
  return manifest.sampling.consistency ? steps : 1;
}

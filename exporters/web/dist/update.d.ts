import { type Prediction } from "./manifest.js";
/** Cumulative products of 1 - beta, in float64, rounded to float32; index 0 holds 1 (clean), index t + 1 that of t. */
export declare function alphasCumprod(betas: readonly number[]): Float32Array;
/**
 * x at t -> x at the previous t, in place, with eta = 0 (arXiv:2010.02502, Eq. 12), from what the network predicted.
 *
 * With clip, x_0 is clipped to [-1, 1] and eps follows it. Only of a predicted eps is anything divided by sqrt(alpha).
 */
export declare function ddimUpdate(x: Float32Array, output: Float32Array, alpha: number, alphaPrev: number, clip: boolean, prediction: Prediction): void;
/** x <- sqrt(alpha) x + sqrt(1 - alpha) noise: a clean image with noise again, where the solver consistency goes on. */
export declare function renoise(x: Float32Array, noise: Float32Array, alpha: number): void;
/** The index of the first value that is NaN or infinite; -1: there is none. */
export declare function firstNotFinite(values: ArrayLike<number>): number;

/** A seed or an image's number, 0 ... 2^64 - 1. A number must be a safe integer; others are bigint or decimal text. */
export type Seed = number | bigint | string;
/** The upper and the lower 32 bits. */
export interface Words64 {
    readonly high: number;
    readonly low: number;
}
/**
 * The two words of a seed.
 *
 * @throws DashdeployError: `argument`, it is no whole number in 0 ... 2^64 - 1.
 */
export declare function words64(value: Seed, name?: string): Words64;
/** Philox4x32-10 of a counter and a key, in place. */
export declare function philox4x32(counter: Int32Array | Uint32Array, k0: number, k1: number): void;
/**
 * Standard normal noise of the images first ... first + count - 1 at the steps 0 ... steps - 1, 0 being the start.
 *
 * An image's noise depends only on the seed, its number and the step, and equals the Python package's. Block b of four
 * numbers has the counter (b, step, image mod 2^32, image div 2^32).
 *
 * @param size numbers of one image at one step
 * @returns (count, steps, size) float32
 * @throws DashdeployError: `argument`, a value is out of range.
 */
export declare function noise(seed: Seed, first: Seed, count: number, size: number, { steps }?: {
    steps?: number;
}): Float32Array<ArrayBuffer>;

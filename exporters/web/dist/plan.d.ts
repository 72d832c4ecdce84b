import { type Guidance, type Manifest, type Spacing } from "./manifest.js";
/** How a request is guided; all left out: as the artifact's recipe says. */
export interface Guided {
    /** One guidance scale for all steps; 1 = off. */
    readonly w?: number | undefined;
    /** A scale for each step, (steps,). */
    readonly schedule?: ArrayLike<number> | undefined;
    /** Guidance over time. */
    readonly guidance?: Guidance | undefined;
}
/** One run of the sampler: for each step its t, the t that it goes to (-1: clean) and its guidance scale (float32). */
export interface Plan {
    readonly t: readonly number[];
    readonly tPrev: readonly number[];
    readonly w: readonly number[];
}
/** Descending timesteps; trailing, leading and linspace as in arXiv:2305.08891, Table 2. */
export declare function timesteps(steps: number, total: number, spacing: Spacing): number[];
/**
 * The plan of a request.
 *
 * @param steps undefined: the artifact's
 * @throws DashdeployError: `argument`, so many steps or this guidance make no sense, or the student was not trained for
 *   them.
 */
export declare function planOf(manifest: Manifest, steps: number | undefined, asked: Guided): Plan;
/** Refuse a guidance scale that one branch was not trained for. */
export declare function checkScale(manifest: Manifest, w: number): void;

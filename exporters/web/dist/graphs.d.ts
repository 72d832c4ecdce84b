import { type Artifact } from "./artifact.js";
import { type GraphName, type Manifest } from "./manifest.js";
import { type Runtime } from "./ort.js";
export type Feed = Float32Array | BigInt64Array;
/** The graphs that are run: step, or else guided; cond for steps without guidance; the decoder. */
export declare function usedGraphs(manifest: Manifest): GraphName[];
/** The files of these. */
export declare function usedFiles(manifest: Manifest): Set<string>;
/** One graph that is ready to run. */
export declare class Session {
    private readonly session;
    private readonly runtime;
    private readonly graph;
    private readonly output;
    private constructor();
    /** @throws DashdeployError: `damaged` or `backend`, the graph is not what the manifest says, or is not run here. */
    static open(artifact: Artifact, name: GraphName, runtime: Runtime): Promise<Session>;
    /**
     * Run the graph.
     *
     * @param feeds by the input's name; whole numbers as int64
     * @param dims of each
     * @throws DashdeployError: `backend`, or `damaged` where the output has another size than `values`.
     */
    run(feeds: Record<string, {
        data: Feed;
        dims: readonly number[];
    }>, values: number): Promise<Float32Array | Uint8Array>;
    release(): Promise<void>;
}

/** A number as it was written. */
export declare class JsonNumber {
    readonly value: number;
    readonly whole: boolean;
    /**
     * @param value the nearest float64
     * @param whole written without a fraction or an exponent, and below 2^64
     */
    constructor(value: number, whole: boolean);
}
export type Json = null | boolean | string | JsonNumber | Json[] | Map<string, Json>;
/**
 * Parse UTF-8 bytes of JSON; of two equal keys the last one counts.
 *
 * @throws SyntaxError: not JSON, not UTF-8, half a surrogate pair, a number past float64, or nested too deeply.
 */
export declare function parseJson(bytes: Uint8Array): Json;

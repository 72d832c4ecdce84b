import { type Status } from "./errors.js";
import { type Json } from "./json.js";
/** Most of anything that is counted. */
export declare const MOST_COUNT: number;
export declare class JsonReader {
    private readonly value;
    private readonly path;
    private readonly source;
    /**
     * @param path the value's keys with dots between; empty for the whole document
     * @param source what messages call the document
     */
    constructor(value: Json, path: string, source: string);
    /** Throw a DashdeployError that begins with the value's place. */
    refuse(reason: string, status?: Status): never;
    /** Whether the key is there, with null or any other value. */
    has(key: string): boolean;
    /** The same for a key whose value may be null. */
    hasValue(key: string): boolean;
    at(key: string): JsonReader;
    /** Refuse a key that is not among these. */
    only(known: readonly string[]): void;
    /** Keys and values, sorted by key. */
    entries(): [string, JsonReader][];
    items(least?: number, most?: number): JsonReader[];
    integer(low: number, high: number): number;
    number(low: number, high: number): number;
    boolean(): boolean;
    text(): string;
    oneOf<Name extends string>(known: readonly Name[], status?: Status): Name;
    isNull(): boolean;
    isNumber(): boolean;
    private below;
    private object;
}

// A JSON value with its place in the document: each getter checks type and range, and an error names the key.
import { fail, type Status } from "./errors.js";
import { type Json, JsonNumber } from "./json.js";
import { shown } from "./numbers.js";

/** Most of anything that is counted. */
export const MOST_COUNT = 2 ** 31;

const LONGEST_TEXT = 4096; // bytes of UTF-8

export class JsonReader {
  /**
   * @param path the value's keys with dots between; empty for the whole document
   * @param source what messages call the document
   */
  constructor(
    private readonly value: Json,
    private readonly path: string,
    private readonly source: string,
  ) {}

  /** Throw a DashdeployError that begins with the value's place. */
  refuse(reason: string, status: Status = "damaged"): never {
    fail(status, `${this.source}: ${this.path === "" ? "the manifest" : this.path} ${reason}`);
  }

  /** Whether the key is there, with null or any other value. */
  has(key: string): boolean {
    return this.object().has(key);
  }

  /** The same for a key whose value may be null. */
  hasValue(key: string): boolean {
    return (this.object().get(key) ?? null) !== null;
  }

  at(key: string): JsonReader {
    const value = this.object().get(key);
    if (value === undefined) this.refuse(`has no ${key}`);
    return new JsonReader(value, this.below(key), this.source);
  }

  /** Refuse a key that is not among these. */
  only(known: readonly string[]): void {
    for (const [key, value] of this.entries()) if (!known.includes(key)) value.refuse("is not known");
  }

  /** Keys and values, sorted by key. */
  entries(): [string, JsonReader][] {
    const sorted = [...this.object()].sort(([a], [b]) => (a < b ? -1 : 1));
    return sorted.map(([key, value]) => [key, new JsonReader(value, this.below(key), this.source)]);
  }

  items(least = 0, most = MOST_COUNT): JsonReader[] {
    if (!Array.isArray(this.value)) this.refuse("must be a list");
    const count = this.value.length;
    if (count < least || count > most) this.refuse(`has ${count} values; expected ${least} ... ${most}`);
    return this.value.map((item, i) => new JsonReader(item, this.below(String(i)), this.source));
  }

  integer(low: number, high: number): number {
    if (!(this.value instanceof JsonNumber) || !this.value.whole) this.refuse("must be a whole number");
    const number = this.value.value;
    if (!(number >= low && number <= high)) this.refuse(`must be in ${low} ... ${high}`);
    return number + 0; // -0 is 0
  }

  number(low: number, high: number): number {
    if (!(this.value instanceof JsonNumber)) this.refuse("must be a number");
    const number = this.value.value;
    if (!(number >= low && number <= high)) this.refuse(`must be in ${shown(low)} ... ${shown(high)}`);
    return number;
  }

  boolean(): boolean {
    if (typeof this.value !== "boolean") this.refuse("must be true or false");
    return this.value;
  }

  text(): string {
    if (typeof this.value !== "string") this.refuse("must be text");
    const long = this.value.length > LONGEST_TEXT || new TextEncoder().encode(this.value).length > LONGEST_TEXT;
    if (long || this.value.includes("\0")) this.refuse("is not a line of text");
    return this.value;
  }

  oneOf<Name extends string>(known: readonly Name[], status: Status = "damaged"): Name {
    const name = this.text();
    const found = known.find((other) => other === name);
    if (found === undefined) this.refuse(`is '${name.slice(0, 60)}'; known: ${known.join(", ")}`, status);
    return found;
  }

  isNull(): boolean {
    return this.value === null;
  }

  isNumber(): boolean {
    return this.value instanceof JsonNumber;
  }

  private below(key: string): string {
    return this.path === "" ? key : `${this.path}.${key}`;
  }

  private object(): Map<string, Json> {
    if (!(this.value instanceof Map)) this.refuse("must be an object");
    return this.value;
  }
}

// JSON as the manifest's readers take it: a whole number is told from one with a fraction, and nothing is lost.
//
// JSON.parse makes the same number of 22 and 22.0, and rounds whole numbers past 2^53; the contract tells them apart.

/** A number as it was written. */
export class JsonNumber {
  /**
   * @param value the nearest float64
   * @param whole written without a fraction or an exponent, and below 2^64
   */
  constructor(
    readonly value: number,
    readonly whole: boolean,
  ) {}
}

export type Json = null | boolean | string | JsonNumber | Json[] | Map<string, Json>;

const DEEPEST = 500;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const ESCAPES: Record<string, string> = {
  '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t",
};

/**
 * Parse UTF-8 bytes of JSON; of two equal keys the last one counts.
 *
 * @throws SyntaxError: not JSON, not UTF-8, half a surrogate pair, a number past float64, or nested too deeply.
 */
export function parseJson(bytes: Uint8Array): Json {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new SyntaxError("it is not UTF-8");
  }
  return new Parser(text).whole();
}

class Parser {
  private at = 0;

  constructor(private readonly text: string) {}

  whole(): Json {
    const value = this.value(0);
    this.blanks();
    if (this.at < this.text.length) this.refuse();
    return value;
  }

  private value(depth: number): Json {
    if (depth > DEEPEST) throw new SyntaxError("it is nested too deeply");
    this.blanks();
    const first = this.text[this.at];
    if (first === "{") return this.object(depth);
    if (first === "[") return this.list(depth);
    if (first === '"') return this.string();
    for (const [word, value] of [["true", true], ["false", false], ["null", null]] as const) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  private object(depth: number): Map<string, Json> {
    const made = new Map<string, Json>();
    this.at += 1;
    if (this.takes("}")) return made;
    do {
      this.blanks();
      if (this.text[this.at] !== '"') this.refuse();
      const key = this.string();
      if (!this.takes(":")) this.refuse();
      made.set(key, this.value(depth + 1));
    } while (this.takes(","));
    if (!this.takes("}")) this.refuse();
    return made;
  }

  private list(depth: number): Json[] {
    const made: Json[] = [];
    this.at += 1;
    if (this.takes("]")) return made;
    do made.push(this.value(depth + 1));
    while (this.takes(","));
    if (!this.takes("]")) this.refuse();
    return made;
  }

  private string(): string {
    let made = "";
    this.at += 1;
    for (;;) {
      made += this.match(PLAIN)?.[0] ?? "";
      const end = this.text[this.at];
      if (end === '"') break;
      if (end !== "\\") this.refuse();
      made += this.escape();
    }
    this.at += 1;
    if (!isWellFormed(made)) throw new SyntaxError("it has half a surrogate pair");
    return made;
  }

  private escape(): string {
    const name = this.text[this.at + 1] ?? "";
    if (name === "u") {
      const digits = this.text.slice(this.at + 2, this.at + 6);
      if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.refuse();
      this.at += 6;
      return String.fromCharCode(Number.parseInt(digits, 16));
    }
    const meant = Object.hasOwn(ESCAPES, name) ? ESCAPES[name] : undefined;
    if (meant === undefined) this.refuse();
    this.at += 2;
    return meant;
  }

  private number(): JsonNumber {
    const found = this.match(NUMBER);
    if (found === null) this.refuse();
    const value = Number(found[0]);
    if (!Number.isFinite(value)) throw new SyntaxError("it has a number that is too large");
    const whole = found[1] === undefined && found[2] === undefined && value < 2 ** 64 && value >= -(2 ** 63);
    return new JsonNumber(value, whole);
  }

  private match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found !== null) this.at = pattern.lastIndex;
    return found;
  }

  private takes(sign: string): boolean {
    this.blanks();
    if (this.text[this.at] !== sign) return false;
    this.at += 1;
    return true;
  }

  private blanks(): void {
    while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at += 1;
  }

  private refuse(): never {
    const rest = this.text.slice(this.at, this.at + 20);
    throw new SyntaxError(rest === "" ? "it ends too early" : `at character ${this.at}: ${JSON.stringify(rest)}`);
  }
}

/** Whether every surrogate has its other half. */
function isWellFormed(text: string): boolean {
  return !/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text);
}

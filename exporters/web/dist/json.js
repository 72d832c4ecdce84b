// JSON as the manifest's readers take it: a whole number is told from one with a fraction, and nothing is lost.
//
// JSON.parse makes the same number of 22 and 22.0, and rounds whole numbers past 2^53; the contract tells them apart.
/** A number as it was written. */
export class JsonNumber {
    value;
    whole;
    /**
     * @param value the nearest float64
     * @param whole written without a fraction or an exponent, and below 2^64
     */
    constructor(value, whole) {
        this.value = value;
        this.whole = whole;
    }
}
const DEEPEST = 500;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const ESCAPES = {
    '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t",
};
/**
 * Parse UTF-8 bytes of JSON; of two equal keys the last one counts.
 *
 * @throws SyntaxError: not JSON, not UTF-8, half a surrogate pair, a number past float64, or nested too deeply.
 */
export function parseJson(bytes) {
    let text;
    try {
        text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    }
    catch {
        throw new SyntaxError("it is not UTF-8");
    }
    return new Parser(text).whole();
}
class Parser {
    text;
    at = 0;
    constructor(text) {
        this.text = text;
    }
    whole() {
        const value = this.value(0);
        this.blanks();
        if (this.at < this.text.length)
            this.refuse();
        return value;
    }
    value(depth) {
        if (depth > DEEPEST)
            throw new SyntaxError("it is nested too deeply");
        this.blanks();
        const first = this.text[this.at];
        if (first === "{")
            return this.object(depth);
        if (first === "[")
            return this.list(depth);
        if (first === '"')
            return this.string();
        for (const [word, value] of [["true", true], ["false", false], ["null", null]]) {
            if (this.text.startsWith(word, this.at)) {
                this.at += word.length;
                return value;
            }
        }
        return this.number();
    }
    object(depth) {
        const made = new Map();
        this.at += 1;
        if (this.takes("}"))
            return made;
        do {
            this.blanks();
            if (this.text[this.at] !== '"')
                this.refuse();
            const key = this.string();
            if (!this.takes(":"))
                this.refuse();
            made.set(key, this.value(depth + 1));
        } while (this.takes(","));
        if (!this.takes("}"))
            this.refuse();
        return made;
    }
    list(depth) {
        const made = [];
        this.at += 1;
        if (this.takes("]"))
            return made;
        do
            made.push(this.value(depth + 1));
        while (this.takes(","));
        if (!this.takes("]"))
            this.refuse();
        return made;
    }
    string() {
        let made = "";
        this.at += 1;
        for (;;) {
            made += this.match(PLAIN)?.[0] ?? "";
            const end = this.text[this.at];
            if (end === '"')
                break;
            if (end !== "\\")
                this.refuse();
            made += this.escape();
        }
        this.at += 1;
        if (!isWellFormed(made))
            throw new SyntaxError("it has half a surrogate pair");
        return made;
    }
    escape() {
        const name = this.text[this.at + 1] ?? "";
        if (name === "u") {
            const digits = this.text.slice(this.at + 2, this.at + 6);
            if (!/^[0-9a-fA-F]{4}$/.test(digits))
                this.refuse();
            this.at += 6;
            return String.fromCharCode(Number.parseInt(digits, 16));
        }
        const meant = Object.hasOwn(ESCAPES, name) ? ESCAPES[name] : undefined;
        if (meant === undefined)
            this.refuse();
        this.at += 2;
        return meant;
    }
    number() {
        const found = this.match(NUMBER);
        if (found === null)
            this.refuse();
        const value = Number(found[0]);
        if (!Number.isFinite(value))
            throw new SyntaxError("it has a number that is too large");
        const whole = found[1] === undefined && found[2] === undefined && value < 2 ** 64 && value >= -(2 ** 63);
        return new JsonNumber(value, whole);
    }
    match(pattern) {
        pattern.lastIndex = this.at;
        const found = pattern.exec(this.text);
        if (found !== null)
            this.at = pattern.lastIndex;
        return found;
    }
    takes(sign) {
        this.blanks();
        if (this.text[this.at] !== sign)
            return false;
        this.at += 1;
        return true;
    }
    blanks() {
        while (" \t\n\r".includes(this.text[this.at] ?? "x"))
            this.at += 1;
    }
    refuse() {
        const rest = this.text.slice(this.at, this.at + 20);
        throw new SyntaxError(rest === "" ? "it ends too early" : `at character ${this.at}: ${JSON.stringify(rest)}`);
    }
}
/** Whether every surrogate has its other half. */
function isWellFormed(text) {
    return !/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text);
}
//# sourceMappingURL=json.js.map
// SHA-256 (FIPS 180-4) of bytes: the browser's own where there is one, which is on https and on this machine alone.
const FRACTIONS = /* of cube roots of the first 64 primes */ roots(64, 1 / 3);
const START = /* of square roots of the first 8 */ roots(8, 1 / 2);
/** SHA-256 of bytes, 64 hexadecimal digits. */
export async function sha256(bytes) {
    const subtle = globalThis.crypto?.subtle;
    return subtle === undefined ? hex(digest(bytes)) : hex(new Uint8Array(await subtle.digest("SHA-256", bytes)));
}
/** The same without the browser's help: pages that come over http have no crypto.subtle. */
export function digest(bytes) {
    const state = Int32Array.from(START);
    const words = new Int32Array(64);
    const padded = new Uint8Array((bytes.length % 64 < 56 ? 64 : 128) + 0);
    const whole = bytes.length - (bytes.length % 64);
    padded.set(bytes.subarray(whole));
    padded[bytes.length - whole] = 0x80;
    const end = new DataView(padded.buffer);
    end.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
    end.setUint32(padded.length - 4, (bytes.length << 3) >>> 0);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at < whole; at += 64)
        block(state, words, view, at);
    for (let at = 0; at < padded.length; at += 64)
        block(state, words, end, at);
    const made = new DataView(new ArrayBuffer(32));
    state.forEach((word, i) => made.setInt32(4 * i, word));
    return new Uint8Array(made.buffer);
}
function block(state, w, view, at) {
    for (let i = 0; i < 16; i++)
        w[i] = view.getInt32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
        const [first, second] = [w[i - 15], w[i - 2]];
        const low = turned(first, 7) ^ turned(first, 18) ^ (first >>> 3);
        const high = turned(second, 17) ^ turned(second, 19) ^ (second >>> 10);
        w[i] = (w[i - 16] + low + w[i - 7] + high) | 0;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
        const one = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + FRACTIONS[i] + w[i]) | 0;
        const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] = (state[i] + value) | 0));
}
function turned(value, by) {
    return (value >>> by) | (value << (32 - by));
}
/** The first 32 bits of the fractions of roots of the first primes: the constants of the standard. */
function roots(count, power) {
    const primes = [];
    for (let n = 2; primes.length < count; n++)
        if (primes.every((prime) => n % prime !== 0))
            primes.push(n);
    return Int32Array.from(primes, (prime) => ((prime ** power % 1) * 2 ** 32) | 0);
}
function hex(bytes) {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
//# sourceMappingURL=sha256.js.map
// Noise by image and step: Philox4x32-10 (Salmon et al. 2011) with Box-Muller, as dashdeploy/diffusion/noise.py draws
// it. Words are int32; products of 64 bits are made of halves of 16 bits, so that no BigInt is in the loop.
import { fail } from "./errors.js";
const FIRST = 0xd2511f53;
const SECOND = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const TWO_PI = 6.283185307179586;
const LARGEST = 2n ** 64n - 1n;
/**
 * The two words of a seed.
 *
 * @throws DashdeployError: `argument`, it is no whole number in 0 ... 2^64 - 1.
 */
export function words64(value, name = "seed") {
    const expected = "expected a whole number in 0 ... 18446744073709551615 (past 2^53 as a bigint or as text)";
    const whole = typeof value === "bigint" ||
        (typeof value === "number" && Number.isSafeInteger(value)) ||
        (typeof value === "string" && /^[0-9]{1,20}$/.test(value));
    if (!whole)
        fail("argument", `${name} is ${String(value).slice(0, 40)}; ${expected}`);
    const number = BigInt(value);
    if (number < 0n || number > LARGEST)
        fail("argument", `${name} is ${number}; ${expected}`);
    return { high: Number(number >> 32n), low: Number(number & 0xffffffffn) };
}
/** Philox4x32-10 of a counter and a key, in place. */
export function philox4x32(counter, k0, k1) {
    let [a, b, c, d] = [counter[0] | 0, counter[1] | 0, counter[2] | 0, counter[3] | 0];
    for (let round = 0; round < 10; round++) {
        const [high, low] = [upper(SECOND, c) ^ b ^ k0, Math.imul(SECOND, c)];
        const [other, least] = [upper(FIRST, a) ^ d ^ k1, Math.imul(FIRST, a)];
        a = high;
        b = low;
        c = other;
        d = least;
        k0 = (k0 + WEYL_0) | 0;
        k1 = (k1 + WEYL_1) | 0;
    }
    counter[0] = a;
    counter[1] = b;
    counter[2] = c;
    counter[3] = d;
}
/** The upper 32 bits of the product of two unsigned words. */
function upper(a, b) {
    const [al, ah, bl, bh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
    const middle = ah * bl + ((al * bl) >>> 16); // below 2^32
    const cross = al * bh + (middle & 0xffff); // below 2^32
    return (ah * bh + Math.floor(middle / 65536) + Math.floor(cross / 65536)) | 0;
}
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
export function noise(seed, first, count, size, { steps = 1 } = {}) {
    if (!Number.isSafeInteger(count) || count < 0 || !Number.isSafeInteger(size) || size < 1) {
        fail("argument", `count is ${count} and image_size ${size}`);
    }
    if (!Number.isSafeInteger(steps) || steps < 1)
        fail("argument", `steps is ${steps}; expected 1 or more`);
    const key = words64(seed);
    const image = words64(first, "firstImage");
    if (BigInt(first) + BigInt(count) > LARGEST + 1n)
        fail("argument", "firstImage + count is above 2^64");
    const made = new Float32Array(count * steps * size);
    const words = new Uint32Array(4);
    for (let i = 0; i < count; i++) {
        const low = image.low + i; // below 2^53: the carry goes into the upper word
        const high = image.high + Math.floor(low / 2 ** 32);
        for (let step = 0; step < steps; step++) {
            normal(made.subarray((i * steps + step) * size, (i * steps + step + 1) * size), words, key, low, high, step);
        }
    }
    return made;
}
function normal(out, words, key, low, high, step) {
    for (let at = 0; at < out.length; at += 4) {
        words[0] = at / 4;
        words[1] = step;
        words[2] = low; // typed arrays take numbers modulo 2^32
        words[3] = high;
        philox4x32(words, key.low | 0, key.high | 0);
        for (let i = 0; i < 4 && at + i < out.length; i += 2) {
            const radius = Math.sqrt(-2 * Math.log((words[i] + 0.5) * 2 ** -32));
            const angle = TWO_PI * ((words[i + 1] + 0.5) * 2 ** -32);
            out[at + i] = radius * Math.cos(angle);
            if (at + i + 1 < out.length)
                out[at + i + 1] = radius * Math.sin(angle);
        }
    }
}
//# sourceMappingURL=noise.js.map
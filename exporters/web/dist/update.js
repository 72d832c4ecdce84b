// The DDIM update in float32: every operation is rounded, in the order of exporters/cpp/src/schedule.cpp.
import {} from "./manifest.js";
const f = Math.fround;
/** Cumulative products of 1 - beta, in float64, rounded to float32; index 0 holds 1 (clean), index t + 1 that of t. */
export function alphasCumprod(betas) {
    const alphas = new Float32Array(betas.length + 1);
    let product = 1;
    alphas[0] = 1;
    betas.forEach((beta, i) => {
        product *= 1 - beta;
        alphas[i + 1] = product;
    });
    return alphas;
}
/**
 * x at t -> x at the previous t, in place, with eta = 0 (arXiv:2010.02502, Eq. 12), from what the network predicted.
 *
 * With clip, x_0 is clipped to [-1, 1] and eps follows it. Only of a predicted eps is anything divided by sqrt(alpha).
 */
export function ddimUpdate(x, output, alpha, alphaPrev, clip, prediction) {
    const [signal, noise] = [f(Math.sqrt(alpha)), f(Math.sqrt(f(1 - alpha)))];
    const [nextSignal, nextNoise] = [f(Math.sqrt(alphaPrev)), f(Math.sqrt(f(1 - alphaPrev)))];
    for (let i = 0; i < x.length; i++) {
        const [now, out] = [x[i], output[i]];
        let [x0, direction] = [out, out];
        if (prediction === "epsilon") {
            x0 = f(f(now - f(noise * out)) / signal);
        }
        else if (prediction === "v_prediction") {
            x0 = f(f(signal * now) - f(noise * out));
            direction = f(f(noise * now) + f(signal * out));
        }
        else {
            direction = f(f(now - f(signal * x0)) / noise);
        }
        if (clip) {
            x0 = Math.min(Math.max(x0, -1), 1);
            direction = f(f(now - f(signal * x0)) / noise);
        }
        x[i] = f(nextSignal * x0) + f(nextNoise * direction);
    }
}
/** x <- sqrt(alpha) x + sqrt(1 - alpha) noise: a clean image with noise again, where the solver consistency goes on. */
export function renoise(x, noise, alpha) {
    const [signal, sigma] = [f(Math.sqrt(alpha)), f(Math.sqrt(f(1 - alpha)))];
    for (let i = 0; i < x.length; i++)
        x[i] = f(signal * x[i]) + f(sigma * noise[i]);
}
/** The index of the first value that is NaN or infinite; -1: there is none. */
export function firstNotFinite(values) {
    for (let i = 0; i < values.length; i++)
        if (!Number.isFinite(values[i]))
            return i;
    return -1;
}
//# sourceMappingURL=update.js.map
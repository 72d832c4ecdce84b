// What a request does at each step: its timesteps and guidance scales. Operations and their order are those of
// sampling.py and guidance.py in dashdeploy/diffusion/, and messages those of exporters/cpp/src/schedule.cpp.
import { fail } from "./errors.js";
import {} from "./manifest.js";
import { nearest, shown } from "./numbers.js";
const CLEAN = -1;
/** Descending timesteps; trailing, leading and linspace as in arXiv:2305.08891, Table 2. */
export function timesteps(steps, total, spacing) {
    const at = (i) => {
        const k = steps - 1 - i;
        if (spacing === "leading")
            return k * Math.floor(total / steps);
        if (spacing === "linspace") {
            if (steps === 1)
                return 0;
            return k === steps - 1 ? total - 1 : nearest(k * ((total - 1) / (steps - 1)));
        }
        const second = total - total / steps; // as numpy's arange counts: by the difference of its first two values
        return nearest(total + i * (second - total)) - 1;
    };
    return Array.from({ length: steps }, (_, i) => at(i));
}
/**
 * The plan of a request.
 *
 * @param steps undefined: the artifact's
 * @throws DashdeployError: `argument`, so many steps or this guidance make no sense, or the student was not trained for
 *   them.
 */
export function planOf(manifest, steps, asked) {
    const { sampling, numTrainTimesteps: total, grids } = manifest;
    const usual = sampling.timesteps.length;
    const n = steps ?? usual;
    if (grids.length > 0) {
        const grid = grids.find((each) => each.length === n);
        if (grid !== undefined)
            return guided(manifest, grid, asked, n === usual);
        const known = grids.map((each) => each.length).join(", ");
        fail("argument", `steps is ${shownAny(n)}; this student was trained for ${known}`);
    }
    if (!Number.isSafeInteger(n) || n < 1 || n > total) {
        fail("argument", `steps is ${shownAny(n)}; expected 1 ... ${total}, or none for the artifact's`);
    }
    return guided(manifest, n === usual ? sampling.timesteps : timesteps(n, total, sampling.spacing), asked, n === usual);
}
/** Refuse a guidance scale that one branch was not trained for. */
export function checkScale(manifest, w) {
    if (manifest.guidanceRange === null)
        return;
    const [low, high] = manifest.guidanceRange.map(Math.fround);
    if (w >= low && w <= high)
        return;
    const range = `this student has one branch, trained for ${shown(low)} ... ${shown(high)}`;
    fail("argument", `guidance: the scale ${shown(w)} is out of range: ${range}`);
}
/** The plan of these timesteps; `usual`: they are as many as the artifact's, whose scales are the default. */
function guided(manifest, t, asked, usual) {
    const { sampling, numTrainTimesteps: total } = manifest;
    const tPrev = t.map((_, i) => (sampling.consistency ? CLEAN : (t[i + 1] ?? CLEAN)));
    const given = [asked.w, asked.schedule, asked.guidance].filter((value) => value !== undefined).length;
    if (given > 1)
        fail("argument", "guidance: give one of w, schedule and guidance");
    if (given === 0 && usual)
        return { t, tPrev, w: sampling.scales };
    const { schedule } = asked;
    if (schedule !== undefined && schedule.length !== t.length) {
        fail("argument", `guidance: schedule has ${shownAny(schedule.length)} scales for ${t.length} steps`);
    }
    const guidance = asked.w ?? asked.guidance ?? sampling.guidance;
    if (schedule === undefined)
        check(guidance);
    const w = t.map((each, i) => {
        const scale = Math.fround(schedule === undefined ? weight(guidance, each / total) : Number(schedule[i]));
        if (!Number.isFinite(scale) || scale < 0) {
            fail("argument", `guidance: the scale of step ${i} is ${shown(scale)}; expected a number >= 0`);
        }
        checkScale(manifest, scale);
        return scale;
    });
    return { t, tPrev, w };
}
function weight(guidance, share) {
    if (typeof guidance === "number")
        return guidance;
    if (guidance.kind === "interval")
        return guidance.low <= share && share < guidance.high ? guidance.w : 1;
    const gate = 1 / (1 + Math.exp(-guidance.beta * (0.5 - share)));
    return guidance.w_min + (guidance.w_max - guidance.w_min) * gate;
}
function check(guidance) {
    const scale = (value) => typeof value === "number" && Number.isFinite(value) && value >= 0;
    if (typeof guidance !== "object" || guidance === null) {
        if (!scale(guidance))
            fail("argument", `guidance: w is ${shownAny(guidance)}; expected a number >= 0 (1 = off)`);
    }
    else if (guidance.kind === "tag") {
        if (!scale(guidance.w_max) || !scale(guidance.w_min) || !Number.isFinite(guidance.beta)) {
            fail("argument", "guidance: TAG needs w_min and w_max >= 0 and a finite beta");
        }
    }
    else if (guidance.kind === "interval") {
        const { w, low, high } = guidance;
        if (!scale(w) || !(low >= 0 && low < high && high <= 1)) {
            fail("argument", "guidance: an interval needs w >= 0 and 0 <= low < high <= 1");
        }
    }
    else {
        fail("argument", `guidance: kind ${shownAny(guidance.kind)} is not known`);
    }
}
function shownAny(value) {
    return typeof value === "number" ? shown(value) : String(value).slice(0, 60);
}
//# sourceMappingURL=plan.js.map
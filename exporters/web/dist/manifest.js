// What an artifact's manifest says, as far as this library relies on it.
//
// Names and meanings are those of dashdeploy/artifact/__init__.py; `dashdeploy exporters schema --artifact` prints them
// as JSON Schema.
/** Of the manifests that this library reads. */
export const FORMAT = 5;
/** Values of an image of this shape. */
export function sizeOf(shape) {
    return shape[0] * shape[1] * shape[2];
}
/** Noises that an image of so many steps takes: the start, or with the solver consistency one for each step. */
export function noisesOf(manifest, steps) {
    return manifest.sampling.consistency ? steps : 1;
}
//# sourceMappingURL=manifest.js.map
/**
 * The files beside a model that its weights lie in.
 *
 * @param source what messages call the model
 * @throws DashdeployError: `damaged`, it is not a whole ONNX model, or holds code for one device.
 */
export declare function externalFiles(model: Uint8Array, source: string): Set<string>;

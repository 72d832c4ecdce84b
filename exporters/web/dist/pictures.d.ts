import { type Picture } from "./studio.js";
/** [-1, 1] -> 0 ... 255 RGBA, rounded to nearest; values past the range saturate. */
export declare function toPixels({ data, shape }: Pick<Picture, "data" | "shape">): ImageData;
/** A figure with the image; it is whole when it is made. */
export declare function figure(picture: Picture, title: string, note: string): HTMLElement;

// Images as the page shows them: a canvas with a text for those who do not see it.
import { type Picture } from "./studio.js";

/** [-1, 1] -> 0 ... 255 RGBA, rounded to nearest; values past the range saturate. */
export function toPixels({ data, shape }: Pick<Picture, "data" | "shape">): ImageData {
  const [channels, height, width] = shape;
  const pixels = new Uint8ClampedArray(4 * height * width);
  const plane = height * width;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = ((data[(channels === 1 ? 0 : c * plane) + i] ?? 0) + 1) * 127.5;
    pixels[4 * i + 3] = 255;
  }
  return new ImageData(pixels, width, height);
}

/** A figure with the image; it is whole when it is made. */
export function figure(picture: Picture, title: string, note: string): HTMLElement {
  const canvas = document.createElement("canvas");
  const pixels = toPixels(picture);
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d")?.putImageData(pixels, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Image of the class ${title}`);
  if (Math.max(pixels.width, pixels.height) < 128) canvas.className = "small";
  const caption = document.createElement("figcaption");
  const name = document.createElement("span");
  name.textContent = title;
  const time = document.createElement("span");
  time.className = "muted";
  time.textContent = note;
  caption.append(name, time);
  const made = document.createElement("figure");
  made.append(canvas, caption);
  return made;
}

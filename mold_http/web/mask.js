// A brush that paints the inpainting mask on an image.

import { field, h } from "./dom.js";

// Puts a canvas over the image in `holder` and its controls into `tools`. Returns {toPng()}: the mask as a PNG, or null.
export function maskBrush(holder, tools, width, height) {
  const canvas = h("canvas", { width, height, ariaLabel: "Mask: painted areas are regenerated", tabIndex: 0 });
  const pen = canvas.getContext("2d");
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--leaf").trim();
  let painted = false, erasing = false, last = null;
  const size = h("input", { type: "range", min: 2, max: 40, value: 14 });
  const erase = h("button.quiet", { type: "button", ariaPressed: "false", onclick: () => {
    erasing = !erasing;
    erase.ariaPressed = String(erasing);
  } }, "Erase");
  const clear = h("button.quiet", { type: "button", onclick: () => { pen.clearRect(0, 0, width, height); painted = false; } }, "Clear");

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * width / box.width, (event.clientY - box.top) * height / box.height];
  };
  const stroke = (to) => {
    pen.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    pen.strokeStyle = colour;
    pen.lineWidth = Math.max(width, height) * size.value / 100;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...(last ?? to));
    pen.lineTo(...to);
    pen.stroke();
    last = to;
    painted = true;
  };
  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    last = null;
    stroke(place(event));
  });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons && last) stroke(place(event)); });
  canvas.addEventListener("pointerup", () => { last = null; });
  holder.append(canvas);
  tools.prepend(h("p.soft", {}, "Paint the areas to regenerate. Without a mask, the whole image changes."), field("Brush", size), h("div.with", {}, erase, clear));

  return {
    async toPng() {
      if (!painted) return null;
      const shape = pen.getImageData(0, 0, width, height);
      let any = false;
      for (let at = 0; at < shape.data.length; at += 4) {
        const white = shape.data[at + 3] > 127 ? 255 : 0;
        any ||= white > 0;
        shape.data.fill(white, at, at + 3);
        shape.data[at + 3] = 255;
      }
      if (!any) return null;
      const mask = h("canvas", { width, height });
      mask.getContext("2d").putImageData(shape, 0, 0);
      return new Promise((resolve) => mask.toBlob(resolve, "image/png"));
    },
  };
}

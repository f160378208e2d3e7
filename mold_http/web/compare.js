// Two images in one frame, with a movable divider between before and after.

import { h } from "./dom.js";

export function compare(before, after, width, height) {
  const range = h("input", { type: "range", min: 0, max: 100, value: 50, step: 0.5, ariaLabel: "Position of the divider" });
  const box = h("div.compare", {}, h("img", { src: before, alt: "Before" }), h("img", { src: after, alt: "After" }),
    range, h("i"), h("span", {}, "before"), h("span", {}, "after"));
  box.style.setProperty("--aspect", `${width} / ${height}`);
  box.style.setProperty("--wide", `${Math.min(width, Math.round(innerHeight * 0.8 * width / height))}px`);
  range.oninput = () => box.style.setProperty("--at", `${range.value}%`);
  return box;
}

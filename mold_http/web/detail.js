// One result at full size, with its metadata and its actions.

import { follow, fromBase64, imagePath, media, send, submit, toBase64 } from "./api.js";
import { ago, announce, bytes, careful, complain, dialog, h, progressOf } from "./dom.js";
import { reuse, save, useAsInput } from "./create.js";
import { compare } from "./compare.js";
import { server } from "./state.js";

const isVideo = (entry) => entry.format === "mp4";

// The gallery does not know how many frames a GIF has.
export const moves = (entry) => Boolean(entry.metadata.frames) || ["mp4", "gif", "apng"].includes(entry.format);
const FACTS = [["model", "Model"], ["negative_prompt", "Negative prompt"], ["original_prompt", "Original prompt"], ["seed", "Seed"], ["steps", "Steps"],
  ["guidance", "Guidance"], ["strength", "Strength"], ["lora", "LoRA"], ["frames", "Frames"], ["fps", "Frames per second"], ["upscaler", "Upscaler"]];

// Shows `entry`; the arrow keys move through `entries`. Marks and deletion call `changed(entry, gone)`.
export function openDetail(entry, entries = [entry], changed = () => {}) {
  const view = h("div.view", {});
  const about = h("div.about", {});
  const box = dialog("Result", h("div.detail", {}, view, about));
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target.matches("input, video")) return;
    const next = entries[entries.indexOf(entry) + step];
    if (next) { entry = next; draw(); }
  });

  async function draw() {
    const shown = entry;
    const { metadata } = entry;
    const { width, height } = metadata;
    about.replaceChildren(
      h("p.words", {}, metadata.prompt || entry.filename),
      actions(),
      h("dl", {}, FACTS.filter(([name]) => metadata[name] !== undefined && metadata[name] !== "").flatMap(([name, title]) => [h("dt", {}, title), h("dd", {}, String(metadata[name]))]),
        Object.entries(metadata.options ?? {}).flatMap(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, String(value))]),
        h("dt", {}, "Size"), h("dd", {}, `${width} × ${height}, ${bytes(entry.size_bytes ?? 0)}`),
        h("dt", {}, "Created"), h("dd", {}, ago(entry.timestamp * 1000)),
        (entry.parents ?? []).flatMap((parent) => [h("dt", {}, parent.relation.replace("-", " ")), h("dd", {}, parent.name)])));
    const address = await media(imagePath(entry.filename)).catch((error) => { complain(error); return null; });
    if (shown !== entry || !address) return;
    const wide = `${Math.min(width * 4, 2000)}px`;
    view.style.setProperty("--wide", wide);
    view.replaceChildren(isVideo(entry)
      ? h("video", { src: address, controls: true, loop: true, autoplay: true, muted: true, ariaLabel: metadata.prompt })
      : h("img", { src: address, alt: metadata.prompt || entry.filename }));
  }

  function actions() {
    const favourite = h("button.quiet", { type: "button", ariaPressed: String(Boolean(entry.favourite)), onclick: mark }, entry.favourite ? "★ Favourite" : "☆ Favourite");
    return h("div.actions", {},
      h("button.main", { type: "button", onclick: () => { box.close(); reuse(entry.metadata); } }, "Reuse settings"),
      !moves(entry) && h("button.quiet", { type: "button", onclick: useImage }, "Use as input"),
      !moves(entry) && upscalers().length > 0 && h("button.quiet", { type: "button", onclick: upscale }, "Upscale"),
      favourite,
      h("button.quiet", { type: "button", onclick: async () => save(await media(imagePath(entry.filename)), entry.filename) }, "Save"),
      server.capabilities.gallery.can_delete && careful("Delete", "Confirm delete", remove));
  }

  async function useImage() {
    const address = await media(imagePath(entry.filename));
    box.close();
    useAsInput(address).catch(complain);
  }

  async function mark() {
    try {
      const response = await send(`api/gallery/marks/${encodeURIComponent(entry.filename)}`, { method: "PUT", body: { favourite: !entry.favourite } });
      entry.favourite = (await response.json()).favourite ?? false;
      changed(entry, false);
      announce(entry.favourite ? "Added to favourites" : "Removed from favourites");
      draw();
    } catch (error) { complain(error); }
  }

  async function remove() {
    try {
      await send(imagePath(entry.filename), { method: "DELETE" });
      changed(entry, true);
      announce("Deleted");
      box.close();
    } catch (error) { complain(error); }
  }

  async function upscale() {
    const target = entry;
    const choices = upscalers();
    const state = h("p.soft", { role: "status" }, "Reading the image");
    const model = (choices.find((one) => one.is_loaded) ?? choices[0]).name;
    about.querySelector(".actions").replaceChildren(state);
    try {
      const blob = await (await send(imagePath(target.filename))).blob();
      const job = await submit("upscale", { image: await toBase64(blob), model });
      const result = await follow(job.id, (event) => { state.textContent = progressOf(event)[0]?.replace("Step", "Tile") ?? state.textContent; });
      if (!box.isConnected) return;
      const before = await media(imagePath(target.filename));
      const after = URL.createObjectURL(fromBase64(result.image, `image/${result.format}`));
      box.addEventListener("close", () => URL.revokeObjectURL(after));
      view.replaceChildren(compare(before, after, result.width, result.height));
      about.querySelector(".actions").replaceChildren(
        h("p", {}, `Upscaled from ${result.original_width} × ${result.original_height} to ${result.width} × ${result.height} and saved in the gallery.`),
        h("button.main", { type: "button", onclick: () => save(after, `${target.filename.replace(/\.\w+$/, "")}-x${result.scale_factor}.${result.format}`) }, "Save"),
        h("button.quiet", { type: "button", onclick: draw }, "Back"));
      announce("Upscaled");
      changed(null, false);
    } catch (error) { complain(error); draw(); }
  }

  draw();
}

const upscalers = () => server.models.filter((one) => one.family === "upscaler" && one.downloaded && one.runnable);

// The frame: routing between views, and the API key.

import { get, keyNeeded, onKeyNeeded, setKey } from "./api.js";
import { $, complain, h } from "./dom.js";
import { startCreate } from "./create.js";
import { refreshModels, server } from "./state.js";

const pages = {
  create: null,
  gallery: () => import("./gallery.js"),
  video: () => import("./video.js"),
  models: () => import("./models.js"),
  server: () => import("./server.js"),
};
let leave = null;

async function show() {
  const asked = location.hash.slice(2);
  const name = asked in pages ? asked : "create";
  leave?.();
  leave = null;
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = name === "create" ? "mold" : `${name[0].toUpperCase()}${name.slice(1)} – mold`;
  if (!pages[name]) return;
  try {
    leave = (await (await pages[name]()).show($(`#${name}`))) ?? null;
  } catch (error) {
    complain(error);
  }
}

onKeyNeeded((wrong) => new Promise((resolve) => {
  const input = h("input", { type: "password", autocomplete: "current-password", required: true, id: "key" });
  const box = h("dialog", { ariaLabel: "API key" }, h("form.ask", {
    onsubmit: (event) => { event.preventDefault(); setKey(input.value); box.close(); },
  },
  h("h1", {}, "This server requires an API key"),
  h("div.field", {}, h("label", { htmlFor: "key" }, wrong ? "Invalid key. Try another" : "API key"), input),
  h("p.soft", {}, "Stored until this tab is closed."),
  h("button.main", { type: "submit" }, "Unlock")));
  box.addEventListener("cancel", (event) => event.preventDefault());
  box.addEventListener("close", () => { box.remove(); resolve(); });
  document.body.append(box);
  box.showModal();
}));

async function start() {
  if (keyNeeded()) await get("api/status");
  [server.capabilities, server.models] = await Promise.all([get("api/capabilities"), get("api/models?kind=all")]);
  if (!server.capabilities.gallery.enabled) $('nav a[href="#/gallery"]').hidden = true;
  if (!server.capabilities.chains) $('nav a[href="#/video"]').hidden = true;
  startCreate(server);
  window.addEventListener("hashchange", show);
  await show();
}

start().catch(complain);

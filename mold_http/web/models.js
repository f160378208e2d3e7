// Models: the catalog, downloads, and the models in memory.

import { cancel, follow, get, send, submit } from "./api.js";
import { announce, bytes, complain, h, progressOf } from "./dom.js";
import { refreshModels, server } from "./state.js";

const pulls = new Map(); // model → {id, words, done}
const FITS = { eager: "fits into memory", sequential: "fits, one component at a time", offload: "fits, streamed block by block" };
const fits = new Map(); // model → {words, why}, from the server's memory plan
// Plans are requested for visible rows only: a catalog is long, and each plan reads the headers of files.
const seen = new IntersectionObserver((rows) => {
  for (const { target, isIntersecting } of rows) if (isIntersecting) { seen.unobserve(target); ask(target); }
}, { rootMargin: "200px" });
let body, words = "";

export async function show(section) {
  if (!section.firstChild) {
    const search = h("input", { type: "search", placeholder: "Search models", ariaLabel: "Search models", oninput: () => { words = search.value.trim().toLowerCase(); draw(); } });
    body = h("div");
    section.append(h("div.sheet", {}, h("div.head", {}, h("h1", {}, "Models"), search), body));
  }
  const [, downloads] = await Promise.all([refreshModels(), get("api/downloads")]);
  fits.clear(); // available memory has changed
  for (const one of [downloads.active, ...downloads.queued]) if (one && !pulls.has(one.model)) watch(one.model, one.id);
  draw();
}

function draw() {
  const found = server.models.filter((one) => `${one.name} ${one.family} ${one.description}`.toLowerCase().includes(words));
  const groups = [["Installed", found.filter((one) => one.downloaded)], ["Available", found.filter((one) => !one.downloaded)]];
  body.replaceChildren(...groups.filter(([, models]) => models.length).flatMap(([title, models]) => [h("h2", {}, title), h("ul.rows", {}, models.map(row))]));
  if (!found.length) body.replaceChildren(h("p.nothing", {}, `No model matches “${words}”.`));
}

function row(one) {
  const pull = pulls.get(one.name);
  const size = one.disk_usage_bytes ?? one.remaining_download_bytes;
  const facts = [one.description, size ? bytes(size) : "", one.runnable ? "" : "no installed plugin runs it"];
  const item = h("li", {},
    h("div.title", {}, one.name, one.is_loaded && h("span.tag", {}, "in memory")),
    h("div.soft", {}, pull ? pull.words : facts.filter(Boolean).join(" · "), !pull && one.runnable && one.default_width && fit(one.name)),
    h("div.actions", {}, buttons(one, pull)));
  if (pull) {
    const bar = h(`div.progress${pull.done === null ? ".unsure" : ""}`, { role: "progressbar", ariaLabel: `Downloading ${one.name}`, ariaValueNow: pull.done === null ? null : String(Math.round(pull.done * 100)) }, h("i"));
    bar.style.setProperty("--done", pull.done ?? 0);
    item.append(bar);
  }
  return item;
}

function fit(name) {
  const place = h("span.fit", {});
  place.dataset.model = name;
  if (fits.has(name)) render(place);
  else seen.observe(place);
  return place;
}

function render(place) {
  const { words, why } = fits.get(place.dataset.model);
  place.textContent = words && ` · ${words}`;
  place.title = why ?? "";
  place.classList.toggle("bad", Boolean(why));
}

async function ask(place) {
  const name = place.dataset.model;
  try {
    const { memory } = await get(`api/models/details?model=${encodeURIComponent(name)}`);
    fits.set(name, { words: memory ? FITS[memory.chosen] ?? "does not fit into memory" : "", why: memory?.problem });
    render(place);
  } catch (error) { complain(error); }
}

function buttons(one, pull) {
  const button = (words, action) => h("button.quiet", { type: "button", ariaLabel: `${words} ${one.name}`, onclick: action }, words);
  if (pull) return [button("Cancel", () => cancel(pull.id).catch(complain))];
  if (!one.downloaded) return [button("Download", () => fetchModel(one.name))];
  if (one.is_loaded) return [button("Unload", (event) => change(event, () => send("api/models/unload", { method: "DELETE", body: { model: one.name } })))];
  if (!one.runnable || !one.default_width) return []; // upscalers and language models are loaded and unloaded on demand
  return [button("Load", (event) => change(event, () => send("api/models/load", { method: "POST", body: { model: one.name } })))];
}

async function change(event, action) {
  event.target.disabled = true;
  event.target.textContent = "…";
  try {
    await action();
    announce("Done");
  } catch (error) { complain(error); }
  await refreshModels().catch(complain);
  draw();
}

async function fetchModel(model) {
  try {
    const job = await submit("pull", { model });
    await watch(model, job.id);
  } catch (error) { complain(error); }
}

async function watch(model, id) {
  const pull = { id, words: "Starting", done: null };
  pulls.set(model, pull);
  let drawn = 0;
  draw();
  try {
    await follow(id, (event) => {
      const [text, done] = progressOf(event);
      if (text) Object.assign(pull, { words: text, done });
      if (Date.now() - drawn > 300) { drawn = Date.now(); draw(); }
    });
    announce(`${model} is installed`);
  } catch (error) {
    if (error.code !== "CANCELLED") complain(error);
  } finally {
    pulls.delete(model);
    await refreshModels().catch(complain);
    draw();
  }
}


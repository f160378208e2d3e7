// Create: generates an image from a prompt, with live previews.

import { cancel, follow, fromBase64, get, media, send, submit, thumbnailPath, toBase64 } from "./api.js";
import { $, announce, complain, duration, h, progressOf } from "./dom.js";
import { declares, settingsOf } from "./settings.js";

const JOB = "mold-job";
const IDEAS = ["a red house under a yellow moon", "a blue boat on the sea at night", "three green trees"];

let server;
let model, family, settings;
let source = null; // {blob, width, height, mask}
let running = null; // {id, request}
let original = null; // {prompt, expanded}: the prompt before it was expanded

export function startCreate(known) {
  server = known;
  fillModels();
  document.addEventListener("models", fillModels);
  $("#composer").addEventListener("submit", (event) => { event.preventDefault(); generate(); });
  $("#cancel").addEventListener("click", stop);
  $("#image").addEventListener("click", () => $("#file").click());
  $("#file").addEventListener("change", () => { if ($("#file").files[0]) setSource($("#file").files[0]); $("#file").value = ""; });
  $("#expand").addEventListener("click", enhance);
  document.addEventListener("keydown", keys);
  takeDrops();
  if (matchMedia("(max-width: 62rem)").matches) $("#settings").open = false;
  showIdeas();
  showRecent();
  resume();
}

// --- model and settings ----------------------------------------------------------------------------------------------

const usable = () => server.models.filter((one) => one.downloaded && one.runnable && familyOf(one));
const familyOf = (one) => server.capabilities.families.find((known) => known.name === one.family);

function fillModels() {
  const choices = usable();
  const chosen = model?.name;
  const select = h("select", { id: "model", onchange: () => choose(choices.find((one) => one.name === select.value)) },
    choices.map((one) => h("option", { value: one.name }, one.name)));
  const holder = h("div.field", {}, h("label", { htmlFor: "model" }, "Model", h("a", { href: "#/models" }, "more")), select);
  $("#form").replaceChildren(holder, h("div", { id: "fields" }));
  $("#fields").style.display = "contents";
  if (!choices.length) {
    $("#fields").replaceChildren(h("p.soft", {}, "No model is installed. Download one under Models."));
    return;
  }
  choose(choices.find((one) => one.name === chosen) ?? choices[0]);
}

function choose(wanted) {
  const before = settings?.values();
  model = wanted;
  family = familyOf(model);
  $("#model").value = model.name;
  settings = settingsOf(model, family);
  if (before) settings.fill({ batch_size: before.batch_size, seed: before.seed });
  $("#fields").replaceChildren(...settings.elements);
  $("#image").hidden = !declares(family, "source_image");
  if (source && !declares(family, "source_image")) setSource(null);
  else if (source) showSource();
  showStrength();
}

function showStrength() {
  const strength = $("#fields .of-image");
  if (strength) strength.hidden = !source;
}

// --- generating -----------------------------------------------------------------------------------------------------

async function generate() {
  const prompt = $("#prompt").value.trim();
  if (!prompt) { $("#prompt").focus(); return announce("Enter a prompt first."); }
  if (running || !model) return;
  running = { id: null, request: null };
  try {
    const request = { ...settings.values(), prompt, model: model.name, preview: declares(family, "preview") };
    if (!source) delete request.strength;
    if (original?.expanded === prompt) request.original_prompt = original.prompt;
    if (source) {
      request.source_image = await toBase64(source.blob);
      const mask = await source.mask?.toPng();
      if (mask) request.mask_image = await toBase64(mask);
    }
    busy(true, request);
    const job = await submit("generate", request);
    running = { id: job.id, request };
    const kept = { ...request, source_image: undefined, mask_image: undefined };
    sessionStorage.setItem(JOB, JSON.stringify({ id: job.id, request: kept }));
    await watch();
  } catch (error) {
    failed(error);
  } finally {
    ended();
  }
}

async function watch() {
  const { id, request } = running;
  const form = server.capabilities.gallery.enabled ? "url" : "base64";
  const result = await follow(id, (event) => progress(event), { form });
  await showResult(id, request, result);
}

// A job continues without the page. A reloaded page follows it again.
async function resume() {
  const kept = JSON.parse(sessionStorage.getItem(JOB) ?? "null");
  if (!kept || running) return;
  running = kept;
  try {
    const job = await get(`api/jobs/${kept.id}`);
    if (job.state !== "queued" && job.state !== "running") return;
    $("#prompt").value = kept.request.prompt;
    busy(true, kept.request);
    await watch();
  } catch (error) {
    if (error.code !== "JOB_NOT_FOUND") failed(error);
  } finally {
    ended();
  }
}

function ended() {
  running = null;
  sessionStorage.removeItem(JOB);
  busy(false);
}

async function stop() {
  if (!running?.id) return;
  $("#cancel").disabled = true;
  await cancel(running.id).catch(complain);
}

function failed(error) {
  const stage = $("#stage");
  stage.dataset.state = "empty";
  $("#caption").replaceChildren();
  const cancelled = error.code === "CANCELLED" || error.message === "cancelled";
  $("#mat").replaceChildren(h("p.invitation", {}, cancelled ? "Cancelled." : "Generation failed."), cancelled ? "" : h("p.soft", {}, error.message));
  announce(cancelled ? "Cancelled" : error.message);
}

function busy(on, request) {
  $("#generate").hidden = on;
  $("#cancel").hidden = !on;
  $("#cancel").disabled = false;
  if (!on) return;
  const blank = h("div.blank", {}, h("span", {}, "…"));
  sized($("#mat"), request.width ?? model?.default_width, request.height ?? model?.default_height);
  $("#mat").replaceChildren(blank, h("div.progress.unsure", { role: "progressbar", ariaLabel: "Progress" }, h("i")));
  $("#stage").dataset.state = "busy";
  $("#caption").replaceChildren(h("p.words", {}, request.prompt), h("p", { id: "step" }, "Submitting"));
  announce("Submitted");
  // On a narrow window the stage may be scrolled out of view.
  $("#stage").scrollIntoView({ block: "nearest" });
}

// Enlarges a small image at most four times, and fits a large one into the window.
function sized(element, width, height) {
  if (!width || !height) return;
  // The header and the composer take about 420 pixels of a wide window.
  const tall = matchMedia("(max-width: 62rem)").matches ? innerHeight * 0.56 : Math.max(240, innerHeight - 420);
  element.style.setProperty("--tall", `${tall}px`);
  element.style.setProperty("--wide", `${Math.min(width * 4, 1600, Math.round(tall * width / height))}px`);
  element.style.setProperty("--aspect", `${width} / ${height}`);
}

let spoken = 0;
function progress(event) {
  const [words, done] = progressOf(event);
  if (event.type === "preview" && !event.index) {
    const preview = $("#mat > img") ?? h("img", { alt: "Preview" });
    preview.src = `data:image/jpeg;base64,${event.image}`;
    $("#mat > .blank")?.replaceWith(preview);
  }
  if (!words) return;
  const step = $("#step"), bar = $("#mat .progress");
  if (step) step.textContent = words;
  if ($("#mat > .blank > span")) $("#mat > .blank > span").textContent = words;
  if (bar) {
    bar.classList.toggle("unsure", done === null);
    bar.style.setProperty("--done", done ?? 0);
    if (done === null) bar.removeAttribute("aria-valuenow");
    else bar.setAttribute("aria-valuenow", Math.round(done * 100));
  }
  if (Date.now() - spoken > 2000) { announce(words); spoken = Date.now(); }
}

async function showResult(id, request, result) {
  const items = await itemsOf(id, request, result);
  for (const warning of result.warnings ?? []) complain(warning);
  show(items, 0, result);
  announce(items.length === 1 ? "Done" : `Done, ${items.length} images`);
  showRecent(items);
}

async function itemsOf(id, request, result) {
  const first = result.seed_used;
  const about = { ...request, source_image: undefined, mask_image: undefined, model: result.model, steps: result.steps ?? request.steps };
  if (!result.images?.length) {
    const blob = await (await send(`api/jobs/${id}/result`)).blob();
    return [{ address: URL.createObjectURL(blob), video: blob.type.startsWith("video/"), format: result.format, width: result.width, height: result.height, metadata: { ...about, seed: first } }];
  }
  return Promise.all(result.images.map(async (image) => ({
    address: image.url ? await media(image.url) : URL.createObjectURL(fromBase64(image.data, `image/${image.format}`)),
    name: image.url ? decodeURIComponent(image.url.split("/").pop()) : null,
    format: image.format, width: image.width, height: image.height,
    metadata: { ...about, seed: first + image.index },
  })));
}

function show(items, index, result) {
  const item = items[index];
  sized($("#mat"), item.width, item.height);
  $("#mat").replaceChildren(item.video
    ? h("video", { src: item.address, controls: true, loop: true, autoplay: true, muted: true })
    : h("img", { src: item.address, alt: item.metadata.prompt }));
  $("#stage").dataset.state = "done";
  const facts = [item.metadata.model, `seed\u00a0${item.metadata.seed}`, `${item.width}\u00a0×\u00a0${item.height}`, result && duration(result.generation_time_ms)];
  $("#caption").replaceChildren(
    h("p.words", {}, item.metadata.prompt),
    h("p", {}, facts.filter(Boolean).join(" · ")),
    h("div.does", {},
      item.name && h("button.quiet", { type: "button", onclick: () => details(item.name) }, "Details"),
      !item.video && declares(family, "source_image") && h("button.quiet", { type: "button", onclick: () => useAsInput(item.address) }, "Use as input"),
      h("button.quiet", { type: "button", onclick: () => settings.fill({ seed: String(item.metadata.seed) }) }, "Reuse seed"),
      h("button.quiet", { type: "button", onclick: () => save(item.address, item.name ?? `mold.${item.format}`) }, "Save")));
  if (items.length > 1) {
    $("#others").replaceChildren(...items.map((other, place) => h("button", {
      type: "button", ariaLabel: `Image ${place + 1} of ${items.length}`, ariaPressed: String(place === index), onclick: () => show(items, place, result),
    }, h("img", { src: other.address, alt: "" }))));
  }
}

export function save(address, name) {
  h("a", { href: address, download: name }).click();
}

async function details(name) {
  const { openDetail } = await import("./detail.js");
  const words = name.replace(/\.\w+$/, "");
  const near = await get(`api/gallery?limit=50`).catch(() => []);
  const entry = near.find((one) => one.filename === name);
  if (entry) openDetail(entry, near);
  else complain(`${words} is no longer in the gallery.`);
}

// --- examples and recent results -------------------------------------------------------------------------------------

function showIdeas() {
  const ideas = IDEAS.map((idea) => h("button.quiet", { type: "button", onclick: () => { $("#prompt").value = idea; generate(); } }, idea));
  $("#mat").append(h("div.ideas", {}, ideas));
}

// Shows the latest results, unless the request returned several images.
async function showRecent(items) {
  if (items?.length > 1 || !server.capabilities.gallery.enabled) return;
  const entries = await get("api/gallery?limit=12").catch(() => []);
  const buttons = await Promise.all(entries.map(async (entry) => h("button", {
    type: "button", ariaLabel: `Recent: ${entry.metadata.prompt || entry.filename}`, title: entry.metadata.prompt,
    onclick: async () => (await import("./detail.js")).openDetail(entry, entries),
  }, h("img", { src: await media(thumbnailPath(entry.filename)), alt: "", loading: "lazy" }))));
  $("#others").replaceChildren(...buttons);
}

// --- the input image -------------------------------------------------------------------------------------------------

export async function setSource(blob) {
  if (source) URL.revokeObjectURL(source.address);
  source = null;
  if (blob) {
    try {
      const bitmap = await createImageBitmap(blob);
      source = { blob, width: bitmap.width, height: bitmap.height, address: URL.createObjectURL(blob), mask: null };
      bitmap.close();
      if (!declares(family, "source_image")) {
        const other = usable().find((one) => declares(familyOf(one), "source_image"));
        if (!other) throw new Error("No installed model accepts an input image.");
        choose(other);
      }
    } catch (error) {
      source = null;
      complain(error.name === "InvalidStateError" ? "The file is not a readable image." : error);
    }
  }
  await showSource();
  showStrength();
}

export async function useAsInput(address) {
  location.hash = "#/create";
  await setSource(await (await fetch(address)).blob());
  $("#prompt").focus();
}

async function showSource() {
  if (!source) { $("#sources").replaceChildren(); return; }
  const holder = h("div.source", {}, h("img", { src: source.address, alt: "Input image" }));
  const tools = h("div.tools", {}, h("button.quiet", { type: "button", onclick: () => setSource(null) }, "Remove"));
  $("#sources").replaceChildren(holder, tools);
  source.mask = null;
  if (declares(family, "mask_image")) {
    const { maskBrush } = await import("./mask.js");
    if (!source || !holder.isConnected) return;
    source.mask = maskBrush(holder, tools, source.width, source.height);
  }
  $("#composer").scrollIntoView({ block: "nearest" });
}

function takeDrops() {
  const section = $("#create");
  let depth = 0;
  const over = (change) => { depth = Math.max(0, depth + change); section.classList.toggle("dropping", depth > 0); };
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  section.addEventListener("dragenter", (event) => { if (hasFile(event)) { event.preventDefault(); over(1); } });
  section.addEventListener("dragover", (event) => { if (hasFile(event)) event.preventDefault(); });
  section.addEventListener("dragleave", (event) => { if (hasFile(event)) over(-1); });
  section.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    depth = 0;
    over(0);
    const file = [...event.dataTransfer.files].find((one) => one.type.startsWith("image/"));
    if (file) setSource(file);
    else complain("The file is not an image.");
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file && !section.hidden) { event.preventDefault(); setSource(file); }
  });
}

// --- keys and other views --------------------------------------------------------------------------------------------

function keys(event) {
  if ($("#create").hidden || document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); generate(); }
  if (event.key === "Escape" && running) stop();
}

// Fills the form with the settings of a result.
export function reuse(metadata) {
  location.hash = "#/create";
  const wanted = usable().find((one) => one.name === metadata.model);
  if (wanted) choose(wanted);
  else complain(`${metadata.model} is not installed; the settings are for ${model?.name}.`);
  $("#prompt").value = metadata.prompt;
  settings.fill({ ...metadata, seed: metadata.seed === undefined ? undefined : String(metadata.seed) });
  $("#prompt").focus();
}

async function enhance() {
  const prompt = $("#prompt").value.trim();
  if (!prompt) { $("#prompt").focus(); return; }
  const { expandDialog } = await import("./expand.js");
  expandDialog(prompt, model?.name, (expanded) => {
    original = { prompt, expanded };
    $("#prompt").value = expanded;
    $("#prompt").focus();
  });
}


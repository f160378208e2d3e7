// Video: a long video joined from clips, one card for each.

import { cancel, follow, fromBase64, get, submit, toBase64 } from "./api.js";
import { $, announce, bytes, complain, duration, field, h, progressOf } from "./dom.js";
import { save } from "./create.js";
import { server } from "./state.js";
import { declares, makesVideo, optionControls } from "./settings.js";
import { chainToml, parseToml } from "./toml.js";

const KEPT = "mold-video";
const STAGE_KEYS = ["prompt", "frames", "transition", "fade_frames", "seed_offset", "negative_prompt", "source_image"];
const CHAIN_KEYS = ["model", "seed", "width", "height", "fps", "steps", "guidance", "strength", "motion_tail_frames", "output_format", "enable_audio", "options"];

let script = JSON.parse(sessionStorage.getItem(KEPT) ?? "null") ?? { chain: { motion_tail_frames: 4 }, stages: [] };
let limits = null;
let running = null;
let cards, sum, screen, generateButton, cancelButton, modelSelect, fields;

export async function show(section) {
  if (!section.firstChild) build(section);
  if (running === null) await fillModels();
}

// --- the head --------------------------------------------------------------------------------------------------------

function build(section) {
  const file = h("input", { type: "file", accept: ".toml", hidden: true, ariaLabel: "Script to open" });
  file.onchange = async () => { if (file.files[0]) open(await file.files[0].text()); file.value = ""; };
  modelSelect = h("select", { id: "chain-model", onchange: () => chooseModel().catch(complain) });
  fields = h("div.facts.small");
  cards = h("ol.cards", { ariaLabel: "Clips" });
  sum = h("p.soft", { role: "status" });
  screen = h("div");
  generateButton = h("button.main", { type: "button", onclick: generate }, "Generate");
  cancelButton = h("button.quiet", { type: "button", hidden: true, onclick: () => running && cancel(running).catch(complain) }, "Cancel");
  section.append(h("div.sheet", {},
    h("div.head", {}, h("h1", {}, "Video"),
      h("div.actions", {}, h("button.quiet", { type: "button", onclick: () => file.click() }, "Open script"),
        h("button.quiet", { type: "button", onclick: write }, "Save script"), file)),
    screen, fields, cards,
    h("div.head", {}, h("button.quiet", { type: "button", onclick: () => add() }, "Add clip"), sum, h("span.grow"), cancelButton, generateButton)));
  if (!script.stages.length) script.stages.push({ prompt: "" });
}

async function fillModels() {
  const families = new Set(server.capabilities.families.filter(makesVideo).map((family) => family.name));
  const models = server.models.filter((one) => families.has(one.family) && one.runnable).sort((a, b) => b.downloaded - a.downloaded);
  modelSelect.replaceChildren(...models.map((one) => h("option", { value: one.name }, one.downloaded ? one.name : `${one.name} (not downloaded)`)));
  if (!models.some((one) => one.name === script.chain.model)) script.chain.model = models[0]?.name;
  modelSelect.value = script.chain.model ?? "";
  await readLimits();
}

async function chooseModel() {
  script.chain.model = modelSelect.value;
  const family = familyOf(script.chain.model);
  script.chain.options = Object.fromEntries(Object.entries(script.chain.options ?? {}).filter(([name]) => family && declares(family, name)));
  await readLimits();
}

function familyOf(name) {
  const model = server.models.find((one) => one.name === name);
  return server.capabilities.families.find((one) => one.name === model?.family);
}

async function readLimits() {
  limits = script.chain.model ? await get(`api/capabilities/chain-limits?model=${encodeURIComponent(script.chain.model)}`) : null;
  for (const stage of script.stages) stage.frames ??= limits?.frames_per_clip_recommended;
  draw();
}

function drawFields() {
  const number = (name, title, attributes = {}) => {
    const input = h("input", { type: "number", min: 0, value: script.chain[name] ?? "", placeholder: "model default", ...attributes });
    input.oninput = () => { script.chain[name] = input.value === "" ? undefined : Number(input.value); keep(); };
    return field(title, input);
  };
  const one = server.models.find((model) => model.name === script.chain.model);
  fields.replaceChildren(
    field("Model", modelSelect),
    number("width", "Width", { placeholder: one?.default_width ?? "" }), number("height", "Height", { placeholder: one?.default_height ?? "" }),
    number("fps", "Frames per second", { min: 1, placeholder: one?.default_fps ?? "" }), number("seed", "Seed", { placeholder: "random" }),
    number("motion_tail_frames", "Overlap frames"), ...options());
}

function options() {
  const family = familyOf(script.chain.model);
  if (!family) return [];
  const set = (name, value) => { script.chain.options = { ...script.chain.options, [name]: value }; keep(); };
  return optionControls(family, script.chain.options ?? {}, "chain-", set);
}

// --- the clips -------------------------------------------------------------------------------------------------------

function draw() {
  drawFields();
  cards.replaceChildren(...script.stages.map(card));
  keep();
}

function keep() {
  const stride = limits?.frame_stride ?? 1;
  const shared = script.chain.motion_tail_frames ? stride * Math.ceil((script.chain.motion_tail_frames - 1) / stride) + 1 : 0;
  const frames = script.stages.reduce((total, stage, index) => total + (stage.frames || 0)
    - (index === 0 ? 0 : (stage.transition ?? "smooth") === "smooth" ? shared : stage.transition === "fade" ? stage.fade_frames ?? 8 : 0), 0);
  const one = server.models.find((model) => model.name === script.chain.model);
  const seconds = frames / (script.chain.fps || one?.default_fps || 24);
  const here = one?.downloaded;
  sum.textContent = [`${script.stages.length} ${script.stages.length === 1 ? "clip" : "clips"}, ${frames} frames, about ${seconds.toFixed(1)} s`,
    script.chain.model ? (here ? "" : "download the model first") : "no installed model generates chains"].filter(Boolean).join(" · ");
  generateButton.disabled = !here || running !== null;
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(script));
  } catch {
    sessionStorage.removeItem(KEPT); // images may exceed the storage of a tab
  }
}

function add() {
  if (script.stages.length >= (limits?.max_stages ?? 16)) return complain(`A video has at most ${limits?.max_stages ?? 16} clips.`);
  script.stages.push({ prompt: "", frames: limits?.frames_per_clip_recommended, transition: "smooth" });
  draw();
  cards.lastChild.querySelector("textarea").focus();
}

function move(index, by) {
  const [stage] = script.stages.splice(index, 1);
  script.stages.splice(index + by, 0, stage);
  draw();
  announce(`Clip ${index + 1} is now clip ${index + by + 1}`);
  (cards.children[index + by].querySelector(by < 0 ? ".earlier" : ".later:enabled") ?? cards.children[index + by].querySelector("textarea")).focus();
}

function card(stage, index) {
  const text = h("textarea", { rows: 3, value: stage.prompt, placeholder: "prompt of the clip", ariaLabel: `Clip ${index + 1}`, oninput: () => { stage.prompt = text.value; keep(); } });
  const frames = h("input", { type: "number", min: (limits?.frame_stride ?? 0) + 1, max: limits?.frames_per_clip_cap, step: limits?.frame_stride ?? 1, value: stage.frames, oninput: () => { stage.frames = Number(frames.value); keep(); } });
  const last = index === script.stages.length - 1;
  const bar = h("div.progress", { role: "progressbar", ariaLabel: `Clip ${index + 1}` }, h("i"));
  const item = h("li.card", { draggable: true },
    h("div.actions", {}, h("b", {}, `Clip ${index + 1}`), h("span.grow"),
      h("button.quiet.earlier", { type: "button", ariaLabel: `Move clip ${index + 1} earlier`, disabled: index === 0, onclick: () => move(index, -1) }, "←"),
      h("button.quiet.later", { type: "button", ariaLabel: `Move clip ${index + 1} later`, disabled: last, onclick: () => move(index, 1) }, "→"),
      h("button.quiet", { type: "button", ariaLabel: `Remove clip ${index + 1}`, disabled: script.stages.length === 1, onclick: () => { script.stages.splice(index, 1); draw(); } }, "×")),
    text, field("Frames", frames), index > 0 && transition(stage), inputImage(stage, index), h("p.soft.state"), bar);
  drags(item, index, text);
  return item;
}

function transition(stage) {
  const words = { smooth: "continues the previous clip", cut: "starts a new shot", fade: "crossfades" };
  const modes = limits?.transition_modes ?? Object.keys(words);
  const select = h("select", {}, modes.map((mode) => h("option", { value: mode }, `${mode}: ${words[mode] ?? ""}`)));
  select.value = stage.transition ?? "smooth";
  const fade = h("input", { type: "number", min: 1, max: limits?.fade_frames_max, value: stage.fade_frames ?? 8, ariaLabel: "Fade frames", hidden: select.value !== "fade" });
  fade.style.maxWidth = "5rem";
  fade.oninput = () => { stage.fade_frames = Number(fade.value); keep(); };
  select.onchange = () => {
    stage.transition = select.value;
    if (select.value !== "fade") delete stage.fade_frames;
    fade.hidden = select.value !== "fade";
    keep();
  };
  const control = field("Transition", select);
  control.append(fade);
  return control;
}

function inputImage(stage, index) {
  if (stage.source_image) {
    const address = `data:image/${stage.source_image.startsWith("/9j/") ? "jpeg" : "png"};base64,${stage.source_image}`;
    return h("div.with", {}, h("img", { src: address, alt: `First frame of clip ${index + 1}` }),
      h("button.quiet", { type: "button", onclick: () => { delete stage.source_image; draw(); } }, "Remove"));
  }
  const file = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp,image/avif,image/heic", hidden: true, ariaLabel: `Image for clip ${index + 1}` });
  file.onchange = async () => { if (file.files[0]) { stage.source_image = await toBase64(file.files[0]); draw(); } };
  return h("div", {}, file, h("button.quiet", { type: "button", onclick: () => file.click() }, "Add image"));
}

function drags(item, index, text) {
  // A draggable card would prevent text selection in it.
  text.addEventListener("focus", () => { item.draggable = false; });
  text.addEventListener("blur", () => { item.draggable = true; });
  item.addEventListener("dragstart", (event) => event.dataTransfer.setData("application/x-clip", String(index)));
  item.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("application/x-clip")) event.preventDefault(); });
  item.addEventListener("drop", (event) => {
    const from = event.dataTransfer.getData("application/x-clip");
    if (from === "") return;
    event.preventDefault();
    if (Number(from) !== index) move(Number(from), index - Number(from));
  });
}

// --- scripts ---------------------------------------------------------------------------------------------------------

function open(text) {
  try {
    const { schema, chain = {}, stage = [] } = parseToml(text);
    if (schema !== "mold.chain.v1") throw new Error('the first line should be schema = "mold.chain.v1"');
    if (!Array.isArray(stage) || !stage.length) throw new Error("it has no [[stage]]");
    for (const key of Object.keys(chain)) if (!CHAIN_KEYS.includes(key)) throw new Error(`unsupported key ${key} in [chain]`);
    checkOptions(chain);
    const beside = stage.some((one) => "source_image_path" in one);
    const stages = stage.map(({ source_image_b64, source_image_path, ...one }, index) => {
      for (const key of Object.keys(one)) if (!STAGE_KEYS.includes(key)) throw new Error(`unsupported key ${key} in clip ${index + 1}`);
      return source_image_b64 === undefined ? one : { ...one, source_image: source_image_b64 };
    });
    script = { chain: { motion_tail_frames: 4, ...chain }, stages };
    fillModels().catch(complain);
    if (beside) complain("The page cannot read images next to the script. Add them to their cards again.");
    announce(`${stages.length} clips`);
  } catch (error) {
    complain(`Cannot read the script: ${error.message}`);
  }
}

function checkOptions({ model, options = {} }) {
  const family = familyOf(model);
  for (const name of Object.keys(options)) if (family && !declares(family, name)) throw new Error(`${model} has no option ${name}`);
}

function write() {
  const stages = script.stages.map(({ source_image, ...stage }) => ({ ...stage, source_image_b64: source_image }));
  const address = URL.createObjectURL(new Blob([chainToml(script.chain, stages)], { type: "application/toml" }));
  save(address, "video.toml");
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// --- generating -----------------------------------------------------------------------------------------------------

async function generate() {
  const empty = script.stages.findIndex((stage) => !stage.prompt.trim());
  if (empty >= 0) { cards.children[empty].querySelector("textarea").focus(); return announce(`Clip ${empty + 1} has no prompt`); }
  // With a fixed seed, a stopped video resumes after its last finished clip.
  script.chain.seed ??= Math.floor(Math.random() * 2 ** 31);
  drawFields();
  running = "";
  cancelButton.hidden = false;
  screen.replaceChildren();
  keep();
  try {
    const job = await submit("chain", { ...script.chain, stages: script.stages });
    running = job.id;
    const result = await follow(job.id, progress);
    showVideo(result);
  } catch (error) {
    generateButton.textContent = "Resume";
    if (error.code === "CANCELLED") announce("Cancelled; finished clips are kept");
    else complain(error);
    for (const item of cards.children) if (item.dataset.state === "busy") report(item, "not finished", null, "stopped");
  } finally {
    running = null;
    cancelButton.hidden = true;
    keep();
  }
}

function report(item, words, done, state = "busy") {
  item.dataset.state = state;
  $(".state", item).textContent = words;
  const bar = $(".progress", item);
  bar.classList.toggle("unsure", done === null && state === "busy");
  bar.style.setProperty("--done", done ?? 0);
}

function progress(event) {
  const item = cards.children[event.stage_idx];
  if (item && event.type === "stage_done") report(item, `${event.frames_emitted} frames done`, 1, "done");
  else if (item && event.type === "stage_start") { report(item, "Starting", null); announce(`Clip ${event.stage_idx + 1}`); }
  else if (item) report(item, ...progressOf(event));
  else if (progressOf(event)[0]) sum.textContent = progressOf(event)[0];
}

function showVideo(result) {
  const type = result.format === "mp4" ? "video/mp4" : `image/${result.format}`;
  const blob = fromBase64(result.video, type);
  const address = URL.createObjectURL(blob);
  const view = type.startsWith("video/") ? h("video", { src: address, controls: true, loop: true, autoplay: true, muted: true, ariaLabel: "Result" }) : h("img", { src: address, alt: "Result" });
  const mat = h("div.mat", {}, view);
  mat.style.setProperty("--wide", `${Math.max(result.width, 480)}px`);
  mat.style.setProperty("--aspect", `${result.width} / ${result.height}`);
  screen.replaceChildren(h("figure.stage", {}, mat, h("figcaption", {},
    h("p.words", {}, script.stages[0].prompt), h("p", {}, `${result.stage_count} clips · ${result.frames} frames · ${bytes(blob.size)} · ${duration(result.generation_time_ms)}`),
    h("div.does", {}, h("button.quiet", { type: "button", onclick: () => save(address, `video.${result.format}`) }, "Save")))));
  generateButton.textContent = "Generate";
  screen.scrollIntoView({ block: "nearest" });
  announce("Done");
}

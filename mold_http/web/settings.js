// The settings form of a model, built from the parameters that its family declares.

import { field, h } from "./dom.js";

// Labels of the shared parameters; others are shown by their own names.
const TITLES = {
  steps: "Steps", guidance: "Guidance", strength: "Strength", negative_prompt: "Negative prompt", frames: "Frames",
  fps: "Frames per second", enable_audio: "Sound", scheduler: "Sampler", loras: "LoRA",
  pipeline: "Pipeline", spatial_upscale: "Spatial upscale", temporal_upscale: "Temporal upscale",
};
// Parameters with a control elsewhere on the page, and fields that are not settings.
const ELSEWHERE = new Set(["prompt", "width", "height", "seed", "source_image", "mask_image", "preview", "model", "batch_size"]);
// Files and lists without a control.
const UNSHOWN = new Set(["keyframes", "audio_file", "source_video", "retake_range", "lora"]);
const CHOICES = {
  scheduler: ["ddim", "euler-ancestral", "uni-pc"], spatial_upscale: ["x1-5", "x2"], temporal_upscale: ["x2"],
  pipeline: ["one-stage", "two-stage", "distilled", "keyframe", "a2-vid", "retake", "ic-lora"],
};
const FORMATS = { image: ["png", "jpeg", "webp"], video: ["mp4", "gif", "apng", "webp"] };

export const makesVideo = (family) => family.capabilities.some((word) => word.endsWith("to-video"));
export const declares = (family, name) => family.parameters.some((parameter) => parameter.name === name);

// Returns the sizes to choose from: those of the family, scaled down for a model with a smaller default size.
export function sizesOf(model, family) {
  const most = (model.default_width ?? 1024) * (model.default_height ?? 1024);
  const sizes = family.recommended_sizes.map((text) => text.split("x").map(Number));
  const largest = Math.max(...sizes.map(([width, height]) => width * height), 1);
  const scale = Math.min(1, Math.sqrt(most / largest));
  const round = (side) => Math.max(family.size_multiple, Math.round(side * scale / family.size_multiple) * family.size_multiple);
  const own = [[model.default_width, model.default_height]].filter(([width]) => width);
  const all = [...own, ...sizes.map(([width, height]) => [round(width), round(height)])];
  const seen = new Set();
  return all.filter(([width, height]) => !seen.has(`${width}x${height}`) && seen.add(`${width}x${height}`));
}

function slider(name, title, about, { minimum, maximum, step, value }, set) {
  const output = h("output", {}, String(value));
  const input = h("input", { type: "range", min: minimum, max: maximum, step, value, id: `set-${name}`, title: about });
  output.htmlFor = input.id;
  const show = (chosen) => { input.value = chosen; output.textContent = input.value; };
  input.oninput = () => { output.textContent = input.value; set(Number(input.value)); };
  return { element: h("div.field", {}, h("label", { htmlFor: input.id }, title, output), input), show };
}

function plain(name, title, about, attributes, set) {
  const input = h(attributes.rows ? "textarea" : "input", { id: `set-${name}`, ...attributes });
  input.oninput = () => set(input.value === "" ? undefined : input.type === "number" ? Number(input.value) : input.value);
  return { element: field(title, input, about), show: (chosen) => { input.value = chosen ?? ""; } };
}

function select(name, title, words, set) {
  const input = h("select", { id: `set-${name}` }, words.map(([value, label]) => h("option", { value }, label)));
  input.onchange = () => set(input.value === "" ? undefined : input.value);
  return { element: field(title, input), show: (chosen) => { input.value = chosen ?? ""; } };
}

function check(name, title, about, set) {
  const input = h("input", { type: "checkbox", id: `set-${name}`, title: about, checked: true, onchange: () => set(input.checked) });
  return { element: h("label.check", { htmlFor: input.id }, input, title), show: (chosen) => { input.checked = chosen ?? true; } };
}

function loras(parameter, set) {
  const name = h("input", { id: "set-loras", type: "text", placeholder: "none", ariaLabel: "LoRA name", title: parameter.doc });
  const scale = h("input", { type: "number", min: 0, max: 2, step: 0.1, value: 1, ariaLabel: "LoRA strength" });
  scale.style.maxWidth = "5rem";
  const update = () => set(name.value.trim() ? [{ path: name.value.trim(), scale: Number(scale.value) }] : undefined);
  name.oninput = scale.oninput = update;
  const show = (chosen) => { name.value = chosen?.[0]?.path ?? ""; scale.value = chosen?.[0]?.scale ?? 1; };
  return { element: h("div.field", {}, h("label", { htmlFor: "set-loras" }, TITLES.loras), h("div.with", {}, name, scale)), show };
}

function control(parameter, model, set) {
  const { name, doc, minimum, maximum } = parameter;
  const title = TITLES[name] ?? name.replaceAll("_", " ");
  if (name === "loras") return loras(parameter, set);
  if (name === "enable_audio") return check(name, title, doc, set);
  if (CHOICES[name]) return select(name, title, [["", "model default"], ...CHOICES[name].map((word) => [word, word])], set);
  if (name === "negative_prompt") return plain(name, title, doc, { rows: 2 }, set);
  if (name === "strength") return slider(name, title, doc, { minimum: 0, maximum: 1, step: 0.05, value: 0.75 }, set);
  const known = { steps: model.default_steps, guidance: model.default_guidance }[name];
  if (known !== undefined && known !== null && minimum !== undefined && maximum !== undefined) {
    return slider(name, title, doc, { minimum, maximum, step: name === "steps" ? 1 : 0.1, value: known }, set);
  }
  if (minimum !== undefined || maximum !== undefined) {
    const usual = { frames: model.default_frames, fps: model.default_fps }[name] ?? "model default";
    return plain(name, title, doc, { type: "number", min: minimum, max: maximum, placeholder: usual }, set);
  }
  return plain(name, title, doc, { type: "text", placeholder: "model default" }, set);
}

function sizeControl(model, family, values) {
  const sizes = sizesOf(model, family);
  const longest = 1.3 / Math.max(...sizes.flat());
  const buttons = sizes.map(([width, height]) => {
    const icon = h("i");
    icon.style.width = `${width * longest}rem`;
    icon.style.height = `${height * longest}rem`;
    return h("button", { type: "button", ariaLabel: `${width} by ${height}`, title: `${width} × ${height}`, ariaPressed: "false",
      onclick: () => choose(width, height) }, icon);
  });
  const side = (name) => h("input", { type: "number", min: family.size_multiple, max: 16384, step: family.size_multiple,
    ariaLabel: name, onchange: () => choose(Number(across.value), Number(down.value)) });
  const across = side("Width"), down = side("Height");
  const show = (width, height) => {
    across.value = width ?? "";
    down.value = height ?? "";
    buttons.forEach((button, index) => {
      button.ariaPressed = String(sizes[index][0] === width && sizes[index][1] === height);
    });
  };
  const choose = (width, height) => {
    Object.assign(values, { width: width || undefined, height: height || undefined });
    show(width, height);
  };
  show(model.default_width, model.default_height);
  const element = h("fieldset", {}, h("legend", {}, "Size"), h("div.shapes", {}, buttons), h("div.two", {}, across, "×", down));
  return { element, show };
}

// Returns {elements, values(), fill(values)}; `values` holds only what differs from the model's defaults.
export function settingsOf(model, family) {
  const values = {};
  const controls = {};
  const rows = [];
  const add = (name, made) => { controls[name] = made; rows.push(made.element); };
  const setting = (name) => (value) => { values[name] = value; };
  const size = sizeControl(model, family, values);
  rows.push(size.element);
  const count = slider("batch_size", "Images", "", { minimum: 1, maximum: 8, step: 1, value: 1 }, setting("batch_size"));
  if (!makesVideo(family)) add("batch_size", count);
  for (const parameter of family.parameters) {
    if (!ELSEWHERE.has(parameter.name) && !UNSHOWN.has(parameter.name)) {
      add(parameter.name, control(parameter, model, setting(parameter.name)));
    }
  }
  const seed = plain("seed", "Seed", "The same seed gives the same result.", { type: "text", inputMode: "numeric", pattern: "[0-9]{1,20}", placeholder: "random" }, setting("seed"));
  add("seed", seed);
  const formats = FORMATS[makesVideo(family) ? "video" : "image"];
  add("output_format", select("output_format", "Format", formats.map((word) => [word, word.toUpperCase()]), setting("output_format")));
  controls.strength?.element.classList.add("of-image");
  return {
    elements: rows,
    values: () => ({ ...values, ...(values.seed === undefined ? {} : { seed: seedOf(values.seed) }) }),
    fill(wanted) {
      if (wanted.width) { Object.assign(values, { width: wanted.width, height: wanted.height }); size.show(wanted.width, wanted.height); }
      for (const [name, made] of Object.entries(controls)) {
        if (wanted[name] !== undefined && wanted[name] !== null) { values[name] = wanted[name]; made.show(wanted[name]); }
      }
    },
  };
}

// A seed may have 64 bits, more than a JavaScript number holds.
const seedOf = (text) => (Number.isSafeInteger(Number(text)) ? Number(text) : JSON.rawJSON ? JSON.rawJSON(String(text)) : Number(text));

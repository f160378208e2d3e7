// The settings form of a model, built from the parameters that its family declares.

import { field, h } from "./dom.js";

const DEFAULT = "model default";

export const makesVideo = (family) => family.capabilities.some((word) => word.endsWith("to-video"));
export const declares = (family, name) => family.parameters.some((parameter) => parameter.name === name);

// Returns the sizes to choose from: those of the family, scaled down for a model with a smaller default size.
export function sizesOf(model, family) {
  const most = (model.default_width || 1024) * (model.default_height || 1024);
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

function check(name, title, about, usual, set) {
  const input = h("input", { type: "checkbox", id: `set-${name}`, title: about, checked: usual, onchange: () => set(input.checked) });
  return { element: h("label.check", { htmlFor: input.id }, input, title), show: (chosen) => { input.checked = chosen ?? usual; } };
}

function loras({ name, doc, schema }, set) {
  const path = h("input", { id: `set-${name}`, type: "text", placeholder: "none", ariaLabel: "LoRA name", title: doc });
  const { minimum, maximum } = schema.items.properties.scale;
  const scale = h("input", { type: "number", min: minimum, max: maximum, step: 0.1, value: 1, ariaLabel: "LoRA strength" });
  scale.style.maxWidth = "5rem";
  const send = () => set(path.value.trim() ? [{ path: path.value.trim(), scale: Number(scale.value) }] : undefined);
  path.oninput = scale.oninput = send;
  const show = (chosen) => { path.value = chosen?.[0]?.path ?? ""; scale.value = chosen?.[0]?.scale ?? 1; };
  return { element: h("div.field", {}, h("label", { htmlFor: path.id }, schema.title), h("div.with", {}, path, scale)), show };
}

// Returns the control that suits a parameter's JSON Schema, or null where the form has none: files, lists of them.
function control({ name, doc, schema }, usual, set) {
  const { type, title, minimum, maximum } = schema;
  if (schema.enum) {
    const words = schema.enum.map(String);
    const value = (chosen) => set(chosen === undefined ? undefined : schema.enum[words.indexOf(chosen)]);
    return select(name, title, [["", usual ?? DEFAULT], ...words.map((word) => [word, word])], value);
  }
  if (type === "boolean") return check(name, title, doc, usual ?? true, set);
  if (type === "array" && schema.items.properties?.scale) return loras({ name, doc, schema }, set);
  if (type === "string" && !schema.contentEncoding) {
    return plain(name, title, doc, schema.maxLength > 1000 ? { rows: 2 } : { type: "text", placeholder: usual ?? DEFAULT }, set);
  }
  if (type !== "integer" && type !== "number") return null;
  const range = maximum - minimum;
  const step = type === "integer" ? 1 : range <= 2 ? 0.05 : 0.1;
  if (usual !== undefined && range <= 100) return slider(name, title, doc, { minimum, maximum, step, value: usual }, set);
  return plain(name, title, doc, { type: "number", min: minimum, max: maximum, step: type === "integer" ? 1 : "any", placeholder: usual ?? DEFAULT }, set);
}

// Returns the controls of the parameters that a family declares itself, with the values in `options`, in their groups.
// `set(name, value)` is called for each change; undefined means the default. `prefix` keeps their ids unique in the page.
export function optionControls(family, options, prefix, set) {
  const rows = [];
  const groups = {};
  for (const parameter of family.parameters.filter((one) => one.own)) {
    const made = control({ ...parameter, name: `${prefix}${parameter.name}` }, parameter.schema.default, (value) => set(parameter.name, value));
    if (!made) continue;
    if (options[parameter.name] !== undefined) made.show(options[parameter.name]);
    addToGroup(rows, groups, parameter.group, made.element);
  }
  return rows;
}

function addToGroup(rows, groups, group, element) {
  if (!group) return rows.push(element);
  if (!groups[group]) rows.push(groups[group] = h("fieldset", {}, h("legend", {}, group)));
  groups[group].append(element);
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
  const option = (name) => (value) => { values.options = { ...values.options, [name]: value }; };
  const groups = {};
  for (const parameter of family.parameters.filter((one) => !one.placed)) {
    const { name, own, group, schema } = parameter;
    const made = control(parameter, model[`default_${name}`] ?? schema.default, own ? option(name) : setting(name));
    if (!made) continue;
    controls[name] = own ? { ...made, own } : made;
    addToGroup(rows, groups, group, made.element);
  }
  const seed = plain("seed", "Seed", "The same seed gives the same result.", { type: "text", inputMode: "numeric", pattern: "[0-9]{1,20}", placeholder: "random" }, setting("seed"));
  add("seed", seed);
  const formats = family.output_formats;
  add("output_format", select("output_format", "Format", formats.map((word) => [word, word.toUpperCase()]), setting("output_format")));
  controls.strength?.element.classList.add("of-image");
  return {
    elements: rows,
    values: () => ({ ...values, ...(values.seed === undefined ? {} : { seed: seedOf(values.seed) }) }),
    fill(wanted) {
      if (wanted.width) { Object.assign(values, { width: wanted.width, height: wanted.height }); size.show(wanted.width, wanted.height); }
      for (const [name, made] of Object.entries(controls)) {
        const value = (made.own ? wanted.options : wanted)?.[name];
        if (value === undefined || value === null) continue;
        if (made.own) values.options = { ...values.options, [name]: value };
        else values[name] = value;
        made.show(value);
      }
    },
  };
}

// A seed may have 64 bits, more than a JavaScript number holds.
const seedOf = (text) => (Number.isSafeInteger(Number(text)) ? Number(text) : JSON.rawJSON ? JSON.rawJSON(String(text)) : Number(text));

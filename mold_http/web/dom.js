// Elements, messages, and values formatted for people.

// h("button.quiet", { onclick }, "Cancel") → an element. Properties that elements lack become attributes.
export function h(what, properties = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in element && name !== "list" && name !== "form") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (selector, inside = document) => inside.querySelector(selector);

// Sends a message to screen readers.
export function announce(text) {
  $("#live").textContent = text;
}

let fading;
export function complain(error) {
  if (error?.name === "AbortError") return;
  const text = error?.message ?? String(error);
  const note = $("#note");
  note.textContent = text;
  note.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => { note.hidden = true; }, 9000);
}

export function ago(ms) {
  const seconds = (Date.now() - ms) / 1000;
  if (seconds < 90) return "just now";
  if (seconds < 5400) return `${Math.round(seconds / 60)} minutes ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} hours ago`;
  return new Date(ms).toLocaleDateString(undefined, { dateStyle: "medium" });
}

export function duration(ms) {
  if (ms < 60000) return `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;
  return `${Math.floor(ms / 60000)} min ${Math.round((ms % 60000) / 1000)} s`;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, count > 0 ? Math.floor(Math.log10(count) / 3) : 0);
  return `${(count / 1000 ** power).toFixed(power < 2 ? 0 : 1)} ${units[power]}`;
}

// A control with its label; `about` is its tooltip.
export function field(label, control, about) {
  const id = control.id || `field-${field.count = (field.count ?? 0) + 1}`;
  control.id = id;
  if (about) control.title = about;
  return h("div.field", {}, h("label", { htmlFor: id }, label), control);
}

// A dialog that Escape closes and that is removed when it closes.
export function dialog(name, ...children) {
  const close = h("button.close", { type: "button", ariaLabel: "Close", onclick: () => box.close() }, "×");
  const box = h("dialog", { ariaLabel: name }, close, ...children);
  box.addEventListener("close", () => box.remove());
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  document.body.append(box);
  box.showModal();
  return box;
}

// A button that asks for confirmation before an action that cannot be undone.
export function careful(label, sure, action) {
  const button = h("button.quiet", { type: "button" }, label);
  let armed;
  button.onclick = () => {
    if (armed) { clearTimeout(armed); armed = undefined; button.textContent = label; action(); return; }
    button.textContent = sure;
    armed = setTimeout(() => { armed = undefined; button.textContent = label; }, 4000);
  };
  return button;
}

// Returns a description of an event and the progress that it reports (0 to 1, or null).
export function progressOf(event) {
  switch (event.type) {
    case "queued": return event.position ? [`Queued at position ${event.position}`, null] : ["Starting", null];
    case "stage_start": return [event.name ?? `Clip ${event.stage_idx + 1}`, null];
    case "weight_load": return ["Loading weights", event.bytes_total ? event.bytes_loaded / event.bytes_total : null];
    case "denoise_step": return [`Step ${event.step} of ${event.total}`, event.step / event.total];
    case "preview": return [`Step ${event.step} of ${event.total}`, event.step / event.total];
    case "download_progress":
      return [`${event.filename}, ${bytes(event.batch_bytes_downloaded)} of ${bytes(event.batch_bytes_total)}`,
        event.batch_bytes_total ? event.batch_bytes_downloaded / event.batch_bytes_total : null];
    case "info": return [event.message, null];
    case "stitching": return ["Joining the clips", null];
    default: return [null, null];
  }
}

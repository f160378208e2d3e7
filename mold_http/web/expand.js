// A short prompt written out in several ways, to choose from.

import { cancel, follow, submit } from "./api.js";
import { announce, dialog, h } from "./dom.js";

export function expandDialog(prompt, model, choose) {
  const choices = h("div.choices", {});
  const state = h("p.soft", { role: "status" }, "A language model is writing…");
  const again = h("button.quiet", { type: "button", hidden: true, onclick: write }, "Others");
  const box = dialog("Write the prompt out", h("div.ask", {}, h("h1", {}, "Write it out"), h("p.soft", {}, prompt), state, choices, again));
  let job = null;
  box.addEventListener("close", () => { if (job) cancel(job.id).catch(() => {}); });

  async function write() {
    again.hidden = true;
    state.hidden = false;
    state.textContent = "A language model is writing…";
    try {
      job = await submit("expand", { prompt, model, variations: 3 });
      const { expanded } = await follow(job.id, () => {});
      const different = [...new Set(expanded)];
      choices.replaceChildren(...different.map((text) => h("button", { type: "button", onclick: () => { box.close(); choose(text); } }, text)));
      state.hidden = true;
      again.hidden = false;
      announce(`${different.length} to choose from`);
      choices.firstChild?.focus();
    } catch (error) {
      if (box.isConnected) state.textContent = error.message;
      again.hidden = false;
    } finally {
      job = null;
    }
  }
  write();
}

// Expands a short prompt in several ways to choose from.

import { cancel, follow, submit } from "./api.js";
import { announce, dialog, h } from "./dom.js";

export function expandDialog(prompt, model, choose) {
  const choices = h("div.choices", {});
  const state = h("p.soft", { role: "status" }, "Expanding the prompt…");
  const again = h("button.quiet", { type: "button", hidden: true, onclick: expand }, "More");
  const box = dialog("Enhance prompt", h("div.ask", {}, h("h1", {}, "Enhance prompt"), h("p.soft", {}, prompt), state, choices, again));
  let job = null;
  box.addEventListener("close", () => { if (job) cancel(job.id).catch(() => {}); });

  async function expand() {
    again.hidden = true;
    state.hidden = false;
    state.textContent = "Expanding the prompt…";
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
  expand();
}

// Gallery: all saved results, newest first.

import { media, send, thumbnailPath } from "./api.js";
import { complain, h } from "./dom.js";
import { moves, openDetail } from "./detail.js";

const PAGE = 40;
let entries = [];
let cursor = null;
let words = "";
let list, more, nothing, count = 0;

export async function show(section) {
  if (!section.firstChild) build(section);
  await load(true);
}

function build(section) {
  let waiting;
  const search = h("input", { type: "search", placeholder: "Search prompts, models, tags", ariaLabel: "Search", oninput: () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { words = search.value.trim(); load(true).catch(complain); }, 200);
  } });
  list = h("ul.hang", { ariaLabel: "Results" });
  more = h("button.quiet.more", { type: "button", hidden: true, onclick: () => load(false).catch(complain) }, "Show more");
  nothing = h("p.nothing", { hidden: true });
  section.append(h("div.sheet", {}, h("div.head", {}, h("h1", {}, "Gallery"), search), list, nothing, more));
  // Loads the next page before the end of the list is visible.
  new IntersectionObserver(([seen]) => { if (seen.isIntersecting && cursor) load(false).catch(complain); }, { rootMargin: "600px" }).observe(more);
}

async function load(fromStart) {
  const mine = ++count;
  const query = new URLSearchParams({ limit: PAGE, ...(words && { q: words }), ...(!fromStart && cursor && { cursor }) });
  const response = await send(`api/gallery?${query}`);
  const page = await response.json();
  if (mine !== count) return;
  cursor = response.headers.get("X-Next-Cursor");
  if (fromStart) { entries = []; list.replaceChildren(); }
  entries.push(...page);
  list.append(...page.map(tile));
  more.hidden = !cursor;
  nothing.hidden = entries.length > 0;
  nothing.textContent = words ? `No result matches “${words}”.` : "No results yet.";
}

function tile(entry) {
  const { width, height, prompt } = entry.metadata;
  const video = moves(entry);
  const thumbnail = h("img", { alt: "", decoding: "async" });
  const label = `${prompt || entry.filename}${video ? ", video" : ""}${entry.favourite ? ", favourite" : ""}`;
  const button = h("button", { type: "button", ariaLabel: label, title: prompt, onclick: () => openDetail(entry, entries, changed) },
    thumbnail, video && h("span.badge", {}, "▶ video"), entry.favourite && h("span.badge.star", {}, "★"));
  const item = h("li", { id: `tile-${entry.filename}` }, button);
  item.style.setProperty("--aspect", Math.min(2.4, Math.max(0.5, (width || 1) / (height || 1))));
  media(thumbnailPath(entry.filename)).then((address) => { thumbnail.src = address; }, () => {});
  return item;
}

function changed(entry, gone) {
  if (!entry) { load(true).catch(complain); return; }
  const old = document.getElementById(`tile-${entry.filename}`);
  if (gone) { entries.splice(entries.indexOf(entry), 1); old?.remove(); } else old?.replaceWith(tile(entry));
}

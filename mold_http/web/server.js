// Server: its state, its queue and its jobs.

import { cancel, events, get, post } from "./api.js";
import { ago, bytes, complain, duration, h } from "./dom.js";

let facts, queue, jobs;

export async function show(section) {
  if (!section.firstChild) {
    facts = h("div.facts");
    queue = h("div.actions");
    jobs = h("ul.rows", { ariaLabel: "Jobs" });
    section.append(h("div.sheet", {}, h("div.head", {}, h("h1", {}, "Server")), facts, h("div.head", {}, h("h2", {}, "Jobs"), queue), jobs,
      h("p.soft", {}, h("a", { href: "api/docs" }, "The HTTP API"))));
  }
  const ends = new AbortController();
  await draw();
  const timer = setInterval(() => draw().catch(() => {}), 2000);
  watchMachine(ends.signal).catch(() => {});
  return () => { clearInterval(timer); ends.abort(); };
}

const fact = (title, value, ...more) => h("div.fact", {}, h("span.soft", {}, title), h("b", {}, value), ...more);
let machine = [];

async function draw() {
  const [status, kept, waiting] = await Promise.all([get("api/status"), get("api/jobs"), get("api/queue")]);
  facts.replaceChildren(
    fact("mold", status.version, h("span.soft", {}, `on ${status.hostname ?? "this machine"}, up ${duration(status.uptime_secs * 1000)}`)),
    fact("In memory", status.models_loaded.length ? status.models_loaded.join(", ") : "nothing"),
    fact("Queue", waiting.depth ? `${waiting.depth} waiting` : status.busy ? "one running" : "empty", h("span.soft", {}, `of ${waiting.capacity}${waiting.paused ? ", paused" : ""}`)),
    ...machine);
  const verb = waiting.paused ? "resume" : "pause";
  const label = waiting.paused ? "Resume" : "Pause";
  if (queue.textContent !== label) {
    queue.replaceChildren(h("button.quiet", { type: "button", onclick: () => post(`api/queue/${verb}`).then(draw).catch(complain) }, label));
  }
  jobs.replaceChildren(...(kept.length ? kept.slice(0, 40).map(row) : [h("li", {}, h("span.soft", {}, "No jobs yet."))]));
}

function row(job) {
  const live = job.state === "queued" || job.state === "running";
  const took = job.started_at && (job.finished_at ?? Date.now()) - job.started_at;
  const about = [job.model, job.created_at && ago(job.created_at), took && duration(took), job.position ? `position ${job.position}` : "", job.error];
  return h("li", {},
    h("div.title", {}, job.kind, h(`span.tag${job.state === "failed" ? ".bad" : ""}`, {}, job.state)),
    h("div.soft", {}, about.filter(Boolean).join(" · ")),
    h("div.actions", {}, live && h("button.quiet", { type: "button", ariaLabel: `Cancel ${job.kind} ${job.id}`, onclick: () => cancel(job.id).then(draw).catch(complain) }, "Cancel")));
}

async function watchMachine(signal) {
  for await (const { event, data } of events("api/resources/stream", { signal })) {
    if (event !== "snapshot") continue;
    const used = (title, used, total) => fact(title, `${bytes(used)} of ${bytes(total)}`, h("meter", { min: 0, max: total, value: used, ariaLabel: title }));
    machine = [
      used("Memory", data.system_ram.used, data.system_ram.total),
      ...data.gpus.map((gpu) => used(gpu.name, gpu.vram_used, gpu.vram_total)),
      fact("Processors", `${Math.round(data.cpu.usage_percent)} %`, h("span.soft", {}, `of ${data.cpu.cores} cores`)),
    ];
  }
}

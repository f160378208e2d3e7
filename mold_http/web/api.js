// The client of the server: the API key, JSON, media and event streams.

const KEY = "mold-key";
let askForKey = async () => {};

export function onKeyNeeded(ask) { askForKey = ask; }
export const keyNeeded = () => document.documentElement.dataset.key === "needed";
export const keyKnown = () => sessionStorage.getItem(KEY) !== null;
export function setKey(key) { sessionStorage.setItem(KEY, key); }

export class ApiError extends Error {
  constructor(message, code, status) {
    super(message);
    Object.assign(this, { code, status });
  }
}

function keyHeader() {
  const key = sessionStorage.getItem(KEY);
  // Headers hold bytes, not characters.
  return key === null ? {} : { "X-Api-Key": String.fromCharCode(...new TextEncoder().encode(key)) };
}

let asking = null;

// Returns a successful response. Asks for an API key until the server accepts one.
export async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    if (keyNeeded() && !keyKnown()) await (asking ??= askForKey(false).finally(() => { asking = null; }));
    const used = sessionStorage.getItem(KEY);
    const json = body === undefined ? {} : { "Content-Type": "application/json" };
    const response = await fetch(path, {
      method, signal, headers: { ...keyHeader(), ...json, ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server does not respond. Is it running?", "UNREACHABLE", 0);
    });
    if (response.ok) return response;
    if (response.status === 401) {
      if (sessionStorage.getItem(KEY) === used) {
        sessionStorage.removeItem(KEY);
        await (asking ??= askForKey(used !== null).finally(() => { asking = null; }));
      }
      continue;
    }
    const problem = await response.json().catch(() => ({}));
    throw new ApiError(problem.error ?? `The server responded with status ${response.status}.`, problem.code, response.status);
  }
}

export const get = async (path, options) => (await send(path, options)).json();
export const post = async (path, body) => (await send(path, { method: "POST", body })).json();

// Yields {event, data, id} for each server-sent event of a stream.
export async function* events(path, { signal, headers } = {}) {
  const response = await send(path, { signal, headers: { Accept: "text/event-stream", ...headers } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const frame = { event: "message", data: "" };
        for (const line of text.slice(0, end).split("\n")) {
          const colon = line.indexOf(": ");
          if (colon > 0) frame[line.slice(0, colon)] = line.slice(colon + 2);
        }
        if (frame.data) yield { ...frame, data: JSON.parse(frame.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export const submit = (kind, request) => post("api/jobs", { kind, request });
export const cancel = (id) => send(`api/jobs/${id}`, { method: "DELETE" });

// Follows a job to its end and reconnects when the connection breaks. Returns its result; throws ApiError if it failed.
export async function follow(id, onEvent, { form = "url", signal } = {}) {
  let last;
  for (let failures = 0; ; ) {
    try {
      const headers = last === undefined ? {} : { "Last-Event-ID": last };
      for await (const { event, data, id: number } of events(`api/jobs/${id}/events?image_data=${form}`, { signal, headers })) {
        failures = 0;
        if (number !== undefined) last = number;
        if (event === "complete") return data;
        if (event === "error") throw new ApiError(data.message, data.code, 200);
        onEvent(data);
      }
      const job = await get(`api/jobs/${id}`);
      if (job.state === "done") return await resultOf(job);
      if (job.state === "failed" || job.state === "cancelled") throw new ApiError(job.error ?? "cancelled", job.code, 200);
    } catch (error) {
      if (error.name === "AbortError" || (error instanceof ApiError && error.code !== "UNREACHABLE")) throw error;
      if (++failures > 20) throw new ApiError("The connection to the server was lost.", "UNREACHABLE", 0);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function resultOf(job) {
  if (job.kind === "pull") return {};
  return get(`api/jobs/${job.id}/result?image_data=url`, { headers: { Accept: "application/json" } });
}

// Returns an address for <img> and <video>. They cannot send an API key, so with one the bytes are fetched first.
const addresses = new Map();
export async function media(path) {
  if (!keyNeeded()) return path;
  if (!addresses.has(path)) {
    addresses.set(path, send(path).then((response) => response.blob()).then((blob) => URL.createObjectURL(blob)));
    if (addresses.size > 400) {
      const [oldest, address] = addresses.entries().next().value;
      addresses.delete(oldest);
      address.then(URL.revokeObjectURL, () => {});
    }
  }
  try {
    return await addresses.get(path);
  } catch (error) {
    addresses.delete(path);
    throw error;
  }
}

export const imagePath = (name) => `api/gallery/image/${encodeURIComponent(name)}`;
export const thumbnailPath = (name) => `api/gallery/thumbnail/${encodeURIComponent(name)}`;

export async function toBase64(blob) {
  const address = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
  return address.slice(address.indexOf(",") + 1);
}

export function fromBase64(text, type) {
  return new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))], { type });
}

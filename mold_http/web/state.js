// The server's state that all views share: its capabilities and its models.

import { get } from "./api.js";

export const server = { capabilities: null, models: [] };

// Reloads the list of models and notifies the views.
export async function refreshModels() {
  server.models = await get("api/models?kind=all");
  document.dispatchEvent(new Event("models"));
  return server.models;
}

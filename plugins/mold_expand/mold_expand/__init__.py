"""Prompt expansion: a short wish becomes a full prompt, by a local language model or any OpenAI-compatible server."""

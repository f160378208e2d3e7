"""Expands short prompts to detailed ones, with a local language model or any OpenAI-compatible server."""

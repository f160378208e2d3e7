"""The routes of OpenAI's API in mold's terms: model names, requests, responses and errors."""

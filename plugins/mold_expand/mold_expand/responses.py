"""Parse prompts from responses of language models: plain text, a JSON array, or whatever else they wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

__all__ = ["prompt_of", "prompts_of"]

_LONGEST = 8_000
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "„": "“"}
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THINK_TAG = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]*\n?(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"^\s*(?:[-*•–]\s+|\(?\d{1,2}\s*[.):]\s*|#{1,4}\s+)(?=\S)")
_LABEL = re.compile(
    r"^(?:\*\*)?(?:(?:expanded |image |final |output )?prompt|variation|option|version)\s*\d{0,2}(?:\*\*)?\s*[:：]"
    r"\s*(?:\*\*)?\s*",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(r"^(?:sure|certainly|of course|okay|ok|here(?:'s| is| are)|below)\b[^\n]*:$", re.IGNORECASE)


def prompt_of(response: str) -> str | None:
    """Return the prompt in a response, on one line; None if there is none."""
    text = _without_thoughts(response)
    found = _json_texts(text)
    if found:
        return _clean(found[0])
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and _PREAMBLE.match(lines[0].strip()):
        lines = lines[1:]
    return _clean(" ".join(lines))


def prompts_of(response: str, count: int) -> list[str]:
    """Return up to `count` different prompts in a response: a JSON array, numbered or plain lines, or paragraphs."""
    text = _without_thoughts(response)
    found = _json_texts(text)
    if not found and count == 1:
        one = prompt_of(response)
        return [one] if one else []
    lines = [line for line in text.splitlines() if line.strip()]
    if not found:
        numbered = _items(lines)
        paragraphs = [paragraph for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]
        plain = [line for line in lines if not _PREAMBLE.match(line.strip())]
        found = numbered or (plain if len(plain) >= count and len(paragraphs) < count else paragraphs)
        found = [paragraph for paragraph in found if not _PREAMBLE.match(paragraph.strip())]
    return list(_different(found))[:count]


def _without_thoughts(response: str) -> str:
    """Return the text of a response without thoughts, complete or cut off, and without its code fence."""
    text = _THOUGHT.sub("\n", response)
    lowered = text.lower()
    if (end := lowered.rfind("</think")) >= 0:
        text = _THINK_TAG.sub(" ", text[end:].partition(">")[2])
    elif (start := lowered.find("<think")) >= 0:
        text = text[:start]  # cut off inside a thought
    fence = _FENCE.search(text)
    return (fence[1] if fence else text).strip()


def _json_texts(text: str) -> list[str]:
    """Return the strings of a JSON array or object anywhere in the text."""
    for opening, closing in ("[]", "{}"):
        first, last = text.find(opening), text.rfind(closing)
        if 0 <= first < last and last - first < 100_000:
            try:
                value = json.loads(text[first : last + 1], strict=False)
            except (ValueError, RecursionError):
                continue
            texts = list(_texts_in(value))
            if texts:
                return texts
    cut = re.match(r"\s*\[\s*\"", text)
    if cut:  # an array that is cut off or has an extra comma: its complete strings
        return [
            json.loads(f'"{item}"', strict=False) for item in re.findall(r'"((?:[^"\\]|\\["\\/bfnrt])*)"\s*[,\]]', text)
        ]
    return []


def _texts_in(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value[:100]:
            if isinstance(item, dict):
                # Of an object with several strings, such as a title and a prompt, the longest is the prompt.
                inner = [text for text in item.values() if isinstance(text, str)]
                if inner:
                    yield max(inner, key=len)
            elif isinstance(item, str):
                yield item
    elif isinstance(value, dict):
        for item in list(value.values())[:100]:
            yield from _texts_in(item)


def _items(lines: list[str]) -> list[str]:
    """Return the items of a numbered or bulleted list, with their continuation lines; [] for fewer than two."""
    items: list[str] = []
    for line in lines:
        if _NUMBER.match(line):
            items.append(line)
        elif items:
            items[-1] = f"{items[-1]} {line.strip()}"
    return items if len(items) > 1 else []


def _different(texts: Iterable[str]) -> Iterable[str]:
    seen = set()
    for text in texts:
        clean = _clean(text)
        if clean and clean.lower() not in seen:
            seen.add(clean.lower())
            yield clean


def _clean(text: str) -> str | None:
    """Return a prompt on one line, without number, label, emphasis and surrounding quotes; None if it is empty."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    for _ in range(4):
        before = text
        text = _LABEL.sub("", _NUMBER.sub("", text)).strip()
        if text.startswith("**") and text.endswith("**") and len(text) > 4:
            text = text[2:-2].strip()
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
            text = text[1:-1].strip()
        text = text.removesuffix('",').removeprefix('"') if text.count('"') == 2 and text.endswith('",') else text
        if text == before:
            break
    return text[:_LONGEST].rstrip() or None

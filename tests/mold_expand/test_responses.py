"""What language models return, and the prompts in it."""

from __future__ import annotations

import pytest

from mold_expand.responses import prompt_of, prompts_of

CAT = "a cat on a wall, morning light"


@pytest.mark.parametrize(
    "answer",
    [
        CAT,
        f"  {CAT}\n",
        f'"{CAT}"',
        f"“{CAT}”",
        f"<think>\nThe user wants a cat. [1, 2]\n</think>\n\n{CAT}",
        f"I think about it.</think>{CAT}",
        f"I think about it.</think>{CAT} <think>",
        f"<thinking>hm</thinking>{CAT}",
        f"```\n{CAT}\n```",
        f"Here is the prompt:\n\n{CAT}",
        f"Sure! Here you go:\n{CAT}",
        f"Prompt: {CAT}",
        f"**Prompt:** {CAT}",
        f"1. {CAT}",
        f"**{CAT}**",
        f'["{CAT}"]',
        f'{{"prompt": "{CAT}"}}',
        f'```json\n["{CAT}", "another"]\n```',
        "a cat on a wall,\nmorning   light",
        "a cat\u200b on a wall,\x00 morning light",
    ],
)
def test_one_prompt_is_found_in(answer: str) -> None:
    assert prompt_of(answer) == CAT


@pytest.mark.parametrize("answer", ["", "  \n", "<think>so", "<think>so</think>", '""', "```\n```"])
def test_nothing_is_found_where_nothing_was_said(answer: str) -> None:
    assert prompt_of(answer) is None


def test_a_prompt_keeps_the_quotes_within_it() -> None:
    assert prompt_of('"OPEN" on a sign over "CLOSED"') == '"OPEN" on a sign over "CLOSED"'
    assert prompt_of("a cat's shop") == "a cat's shop"
    assert prompt_of("2 cats and 3 dogs") == "2 cats and 3 dogs"


@pytest.mark.parametrize(
    "answer",
    [
        '["one cat", "two cats", "three cats"]',
        'Here they are:\n["one cat", "two cats", "three cats"]\nEnjoy!',
        '```json\n[\n  "one cat",\n  "two cats",\n  "three cats"\n]\n```',
        '<think>[1]</think>["one cat", "two cats", "three cats"]',
        '["one cat", "two cats", "three cats",]',
        '{"prompts": ["one cat", "two cats", "three cats"]}',
        '[{"title": "A", "prompt": "one cat"}, {"prompt": "two cats"}, {"prompt": "three cats"}]',
        "1. one cat\n2. two cats\n3. three cats",
        "Here are three prompts:\n\n1) one cat\n\n2) two cats\n\n3) three cats",
        "- one cat\n- two cats\n- three cats",
        "* **one cat**\n* **two cats**\n* **three cats**",
        "one cat\ntwo cats\nthree cats",
        "one cat\n\ntwo cats\n\nthree cats",
        'Prompt 1: "one cat"\nPrompt 2: "two cats"\nPrompt 3: "three cats"',
        '["one cat", "one cat", "two cats", "three cats", "four cats"]',
    ],
)
def test_several_prompts_are_found_in(answer: str) -> None:
    assert prompts_of(answer, 3) == ["one cat", "two cats", "three cats"]


def test_an_array_that_was_cut_off_gives_what_is_whole_of_it() -> None:
    assert prompts_of('["one \\"fat\\" cat", "two cats", "thr', 3) == ['one "fat" cat', "two cats"]


def test_items_go_on_over_several_lines() -> None:
    assert prompts_of("1. one cat\n   on a wall\n2. two cats\n", 2) == ["one cat on a wall", "two cats"]


def test_one_text_is_one_prompt_however_many_were_wanted() -> None:
    assert prompts_of("a cat on a wall", 3) == ["a cat on a wall"]
    assert prompts_of("", 3) == []


def test_an_answer_that_nests_deeply_is_no_trouble() -> None:
    assert prompts_of("[" * 50_000 + "]" * 50_000, 3) != ["one cat"]

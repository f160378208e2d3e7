"""Bodies that cost more than they weigh: refused while they are read, in bounded memory, and others are served."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from bombs import FORM_BOMBS, JSON_BOMBS, form
from http_server import Server
from memory import growth_of

from mold_core.errors import MoldError, QueueFullError
from mold_http.guard.bodies import Budget
from mold_http.guard.json_text import MAX_DEPTH, MAX_PLAIN_BYTES, JsonText, media_fields

SIZE = 16_000_000
SPARE_BYTES = 64_000_000
PIXEL = base64.b64encode(b"\x89PNG").decode()


def parsed(data: bytes, chunk_bytes: int = 1 << 16) -> Any:
    text = JsonText(media_fields())
    for start in range(0, len(data), chunk_bytes):
        text.feed(data[start : start + chunk_bytes])
    return text.parse()


# --- the server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bomb", JSON_BOMBS.values(), ids=JSON_BOMBS)
def test_json_that_costs_more_than_it_weighs_is_refused(server: Server, bomb: Callable[[int], bytes]) -> None:
    body = bomb(SIZE)
    with growth_of(server.process.pid) as growth:
        answer = server.ask("POST", "/api/generate", body)
    assert 400 <= answer.status < 500
    assert growth.bytes <= 3 * len(body) + SPARE_BYTES


@pytest.mark.parametrize("bomb", FORM_BOMBS.values(), ids=FORM_BOMBS)
def test_a_form_that_costs_more_than_it_weighs_is_refused(server: Server, bomb: Callable[[int], bytes]) -> None:
    body = bomb(SIZE)
    with growth_of(server.process.pid) as growth:
        answer = server.ask("POST", "/v1/images/edits", body, Content_Type="multipart/form-data; boundary=boundary")
    assert 400 <= answer.status < 500
    assert growth.bytes <= 3 * len(body) + SPARE_BYTES


def test_a_form_with_fields_it_does_not_need_is_read(server: Server) -> None:
    body = form((b'name="x"; filename="x"', b"x" * 100_000), (b'name="prompt"', b"a"))
    answer = server.ask("POST", "/v1/images/edits", body, Content_Type="multipart/form-data; boundary=boundary")
    assert (answer.status, answer.json()["error"]["param"]) == (400, "image")


def test_a_body_in_crumbs_is_read_no_further(server: Server) -> None:
    start = f"POST /api/generate HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Type: application/json\r\n"
    answer = server.raw(start.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 200_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert server.ask("GET", "/health").status == 200


# --- the scanner ---------------------------------------------------------------------------------------------------


def random_tree(chance: random.Random, depth: int) -> Any:
    """Return any JSON; about half of the names in it are those of media."""
    kinds: list[Callable[[], Any]] = [
        lambda: chance.choice([None, True, False, 0, -1, 1.5e300]),
        lambda: "".join(chance.choice('aB/+=\\"\n\t{}[],:é😀\u2028') for _ in range(chance.randrange(9))),
    ]
    if depth:
        names = [*sorted(media_fields()), "prompt", "", 'a"b', "é"]
        kinds += [
            lambda: [random_tree(chance, depth - 1) for _ in range(chance.randrange(4))],
            lambda: {chance.choice(names): random_tree(chance, depth - 1) for _ in range(chance.randrange(5))},
        ]
    return chance.choice(kinds)()


@pytest.mark.parametrize("seed", range(200))
def test_what_is_read_is_what_was_written_however_it_arrives(seed: int) -> None:
    chance = random.Random(seed)
    tree = random_tree(chance, 6)
    indent, ascii_only = chance.choice([None, 1]), chance.choice([True, False])
    data = json.dumps(tree, indent=indent, ensure_ascii=ascii_only).encode()
    assert parsed(data, chance.choice([1, 2, 7, 1 << 16])) == tree


@pytest.mark.parametrize("escape", ["\\/", "\\n", "\\u002b", "\\\\u002b"])
@pytest.mark.parametrize("shift", range(7))
def test_media_with_escapes_is_read_whole(escape: str, shift: int) -> None:
    written = "A" * shift + escape * 600_000
    expected = json.loads(f'"{written}"')
    assert parsed(f'{{"source_image": "{written}"}}'.encode()) == {"source_image": expected}


@pytest.mark.parametrize("seed", range(200))
def test_text_with_a_fault_is_refused_or_read_as_json_reads_it(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(json.dumps(random_tree(chance, 6)).encode())
    for _ in range(chance.randrange(1, 4)):
        data[chance.randrange(len(data))] = chance.choice(b'"[]{},:\\ 0a')
    try:
        expected = json.loads(data.decode())
    except ValueError:
        with pytest.raises((ValueError, MoldError)):
            parsed(bytes(data))
    else:
        assert parsed(bytes(data)) == expected


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b'{"a": NaN}', b'{"source_image": "x', b'{"source_image": "\\x"}', b"[1] 2"]
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(data)


def test_the_limits_leave_room_for_what_is_asked_for() -> None:
    stage = {"prompt": "a" * 77_000, "negative_prompt": "b" * 77_000, "frames": 97, "source_image": PIXEL * 100_000}
    request = {"model": "ltx2-nano", "stages": [stage] * 16, "seed": 42}
    assert parsed(json.dumps(request, indent=4).encode()) == request
    nested: Any = 0
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert parsed(json.dumps(nested).encode()) == nested
    assert parsed(b'"' + b"a" * (MAX_PLAIN_BYTES - 2) + b'"') == "a" * (MAX_PLAIN_BYTES - 2)


def test_raw_line_breaks_are_read_in_media_and_nowhere_else() -> None:
    assert parsed(b'{"source_image": "AAAA\r\nBBBB\n"}') == {"source_image": "AAAABBBB"}
    for data in (b'{"prompt": "a\nb"}', b'{"source_image": "a\tb"}', b'{"source\n_image": "a"}'):
        with pytest.raises(ValueError, match="control character"):
            parsed(data)


def test_all_bodies_together_hold_so_much_and_no_more() -> None:
    budget = Budget(100)
    with budget.share() as first, budget.share() as second:
        first(60)
        second(40)
        with pytest.raises(QueueFullError):
            second(1)
    with budget.share() as take:
        take(100)


def test_media_is_what_the_classes_of_requests_declare_as_bytes() -> None:
    assert media_fields() >= {"source_image", "mask_image", "image", "source_video", "audio_file"}

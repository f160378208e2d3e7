"""JSON text of objects with media: the same as through `to_json`, with fewer copies."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from mold_core import ChainRequest, GenerateRequest
from mold_core.wire import ImageData, Keyframe, LoraWeight
from mold_core.wire.chain import ChainStage
from mold_core.wire.convert import from_text, to_json
from mold_core.wire.text import text_pieces, to_text

OBJECTS: list[Any] = [
    GenerateRequest(prompt='é 😀 "\\\n'),
    GenerateRequest(
        prompt="a", source_image=b"\0\xff" * 100, mask_image=b"x", loras=(LoraWeight(path="l", scale=0.5),)
    ),
    GenerateRequest(prompt="a", keyframes=(Keyframe(frame=0, image=b"1"), Keyframe(frame=8, image=b"22"))),
    ChainRequest(stages=tuple(ChainStage(prompt=str(place), frames=9, source_image=b"ab") for place in range(12))),
    ImageData(data=b"", format="png", width=1, height=1),
]


@pytest.mark.parametrize("value", OBJECTS)
def test_it_is_the_text_of_the_tree(value: Any) -> None:
    assert to_text(value) == json.dumps(to_json(value))
    assert from_text(type(value), to_text(value)) == value
    listed = "".join(text_pieces(["name", value], sort_keys=True))
    assert listed == json.dumps(["name", to_json(value)], sort_keys=True)


def test_media_is_in_memory_twice_at_most_beside_its_source() -> None:
    request = GenerateRequest(prompt="a", source_image=bytes(12_000_000))
    tracemalloc.start()
    text = to_text(request)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * len(text)

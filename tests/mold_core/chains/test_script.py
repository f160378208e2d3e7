"""Scripts of chains: read strictly, written so that they read back the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from mold_core import ChainRequest, ChainStage, LoraWeight, ValidationError
from mold_core.chains.script import read_script, write_script

GOOD = """
schema = "mold.chain.v1"

[chain]
model = "flipbook"
seed = 7
motion_tail_frames = 9

[[stage]]
prompt = "a boat"
frames = 97
source_image_path = "boat.png"

[[stage]]
prompt = "a storm"
frames = 33
transition = "fade"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "video.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_script_is_read_with_the_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "boat.png").write_bytes(b"image")
    request = read_script(written(tmp_path, GOOD))
    assert request == ChainRequest(
        model="flipbook",
        seed=7,
        motion_tail_frames=9,
        stages=(
            ChainStage(prompt="a boat", frames=97, source_image=b"image"),
            ChainStage(prompt="a storm", frames=33, transition="fade"),
        ),
    )


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    request = ChainRequest(
        model="ltx2:fp8",
        seed=2**63,
        guidance=3.5,
        enable_audio=False,
        loras=(LoraWeight(path="a b.safetensors", scale=0.5),),
        stages=(
            ChainStage(prompt='a "quoted"\n\\ cat \x7f\x01 – ünïcode 🐈', frames=9, source_image=bytes(range(256))),
            ChainStage(prompt="", frames=17, transition="cut", negative_prompt="dogs", seed_offset=3),
        ),
    )
    assert read_script(written(tmp_path, write_script(request))) == request


def test_options_of_a_family_are_written_and_read_in_both_forms_of_a_table(tmp_path: Path) -> None:
    options = {"weight": 3.5, "ground": 'wet "grass"', "loud": True, "odd name": 1}
    request = ChainRequest(options=options, stages=(ChainStage(prompt="a ball", frames=9),))
    assert read_script(written(tmp_path, write_script(request))) == request
    table = GOOD.replace("[[stage]]", "[chain.options]\nweight = 3\n\n[[stage]]", 1).replace("source_image", "# ")
    assert read_script(written(tmp_path, table)).options == {"weight": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "schema must be 'mold.chain.v1', not None"),
        ('schema = "mold.chain.v2"', "schema must be 'mold.chain.v1', not 'mold.chain.v2'"),
        ("schema = ", "is not valid TOML"),
        (GOOD.replace("seed = 7", "sede = 7"), "sede"),
        (GOOD.replace("frames = 33", 'frames = "33"'), r"stages\[1\].frames must be a whole number"),
        (GOOD.replace('prompt = "a storm"', ""), r"stages\[1\].prompt is required"),
        (GOOD.replace('"boat.png"', '"nowhere.png"'), r"stages\[0\].source_image_path: 'nowhere.png' cannot be read"),
        (GOOD.replace('"boat.png"', '"boat.png"\nsource_image_b64 = "AA=="'), "keep one of them"),
        (GOOD.replace("[chain]", "[video]"), "unknown key 'video'"),
        (GOOD.replace("[[stage]]", "[stage]", 1).split("[[stage]]")[0], "stage must be a list of tables"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "boat.png").write_bytes(b"image")
    with pytest.raises(ValidationError, match=words) as caught:
        read_script(written(tmp_path, text))
    assert "video.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"nowhere\.toml cannot be read: no such file"):
        read_script(tmp_path / "nowhere.toml")

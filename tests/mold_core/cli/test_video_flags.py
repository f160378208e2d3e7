"""The flags of videos become fields of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from mold_core import LoraShorthand, LoraWeight, TimeRange, load_plugins
from mold_core.cli.plugin_flags import CommandWithPluginFlags, lora_flags
from mold_core.cli.state import State
from mold_core.cli.videos import take_video_flags, video_flags
from mold_core.testing import FakePlugin, SketchFamily


class WithOrbits(SketchFamily):
    """A family with a group of LoRAs."""

    lora_shorthands = (LoraShorthand(group="orbit", doc="Ways around the subject."),)


def fields(*arguments: str) -> dict[str, Any]:
    taken: dict[str, Any] = {}

    @click.command(cls=CommandWithPluginFlags, plugin_flags={"temporal_upscale": lora_flags})
    @video_flags
    def command(**flags: Any) -> None:
        flags["loras"] = None
        taken.update(chained=take_video_flags(flags), **flags)

    state = State()
    state.plugins = load_plugins(found=(), extra=[("mine", FakePlugin(families=[WithOrbits()]))])
    ran = CliRunner().invoke(command, arguments, obj=state, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return taken


def test_flags_are_spelled_as_people_do_and_fields_as_the_wire_does(tmp_path: Path) -> None:
    sound, video = tmp_path / "a.wav", tmp_path / "a.mp4"
    sound.write_bytes(b"sound")
    video.write_bytes(b"video")
    files = ("--audio-file", str(sound), "--video", str(video), "--retake", "1.5:3")
    made = fields(*files, "--pipeline", "a2vid", "--spatial-upscale", "x1.5", "--temporal-upscale", "x2")
    assert (made["audio_file"], made["source_video"]) == (b"sound", b"video")
    assert made["retake_range"] == TimeRange(start_seconds=1.5, end_seconds=3)
    assert (made["pipeline"], made["spatial_upscale"], made["temporal_upscale"]) == ("a2-vid", "x1-5", "x2")
    assert made["chained"] == {"clip_frames": None, "motion_tail_frames": None}


def test_a_flag_of_a_family_is_a_lora_of_its_group_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "orbit.safetensors"
    file.write_bytes(b"lora")
    assert fields("--orbit", "left")["loras"] == (LoraWeight(path="orbit:left"),)
    assert fields("--orbit", str(file))["loras"] == (LoraWeight(path=str(file)),)


def test_nothing_is_made_of_flags_that_are_not_given() -> None:
    assert all(value is None for name, value in fields().items() if name != "chained")

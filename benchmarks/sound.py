"""Audio of videos as AAC: mold's choice of quantisers against ffmpeg's default, on sound of ltx2-nano.

Time is processor time of one thread, from samples to a file. Loss is the energy of the sound over that of the
difference after decoding.
"""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import thread_time
from typing import Any

import av
import numpy as np
from common import compare, report

from mold_core import GenerateRequest, LoadContext
from mold_core.catalog import ModelStore
from mold_core.hookspecs import Sound
from mold_core.media import video
from mold_core.plugins import load_plugins
from mold_core.testing import RecordedRun

PROMPTS = ("a red ball bouncing up and down", "a boat sailing across the sea at night", "a blue balloon rising")

# Bits for a sample of both channels: 192 kbit/s at 24 kHz.
MOST = 8


def main() -> None:
    sound = sound_of_clips()
    ratios = {}
    for bits in (MOST, video._AUDIO_BITS_PER_SAMPLE):
        comparison = compare(lambda: encoded(sound), partial(encoded, sound, bits), pairs=7, clock=thread_time)
        print(comparison.describe("mold", f"twoloop, {bits} bits a sample"))
        ratios[bits] = comparison.ratio
    ours, theirs = encoded(sound), encoded(sound, MOST)
    kept = lost_db(sound, ours), lost_db(sound, theirs)
    print(f"sound over what is lost: {kept[0]:.1f} dB, twoloop {kept[1]:.1f} dB; {len(ours)} and {len(theirs)} bytes")
    report("sound, time", ratios[MOST], 0.6, "AAC as mold makes it ÷ ffmpeg's usual way, 192 kbit/s", better="lower")
    report("sound, kept", kept[0] - kept[1], 0.0, "dB of sound over what is lost, more than there", better="higher")


def sound_of_clips() -> Sound:
    """Return what a few clips sound like, one after the other, as the model made it."""
    plugins = load_plugins()
    spec = plugins.models["ltx2-nano:bf16"]
    with TemporaryDirectory(prefix="mold-bench-") as cache:
        context = LoadContext(device="cpu", threads=None, cache_dir=Path(cache), report=lambda event: None)
        pipeline = plugins.families[spec.family].load(spec, ModelStore(Path("/")).files_of(spec), context)
        defaults: dict[str, Any] = {name: getattr(spec.defaults, name) for name in ("width", "height", "steps", "fps")}
        requests = [
            GenerateRequest(
                prompt=prompt, model=spec.name, frames=49, seed=1, enable_audio=True, guidance=0.0, **defaults
            )
            for prompt in PROMPTS
        ]
        sounds = [made.sound for made in pipeline.generate(requests, RecordedRun()) if made.sound]
    return Sound(samples=np.concatenate([one.samples for one in sounds], axis=1), sample_rate=sounds[0].sample_rate)


def encoded(sound: Sound, bits: int | None = None) -> bytes:
    """Return a file of the sound: as mold makes it, or by ffmpeg's usual quantisers with so many bits a sample."""
    ours = video._AAC_OPTIONS, video._AUDIO_BITS_PER_SAMPLE
    if bits is not None:
        video._AAC_OPTIONS, video._AUDIO_BITS_PER_SAMPLE = {"aac_coder": "twoloop"}, bits
    try:
        file = BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = video.SoundStream(container, sound.sample_rate, len(sound.samples))
            stream.push(sound.samples)
            stream.finish()
        return file.getvalue()
    finally:
        video._AAC_OPTIONS, video._AUDIO_BITS_PER_SAMPLE = ours


def lost_db(sound: Sound, data: bytes) -> float:
    """Return how loud the sound is over what was lost of it, in decibels."""
    with av.open(BytesIO(data), format="mp4") as container:
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    lost = heard[:, : sound.samples.shape[1]] - sound.samples[:, : heard.shape[1]]
    return float(10 * np.log10((sound.samples**2).sum() / (lost**2).sum()))


if __name__ == "__main__":
    main()

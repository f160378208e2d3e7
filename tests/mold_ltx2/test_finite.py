"""One weight that is NaN in an LTX-2 model is an error that names its network, never a black or silent video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from ltx2_loading import spec_of
from safetensors.torch import load_file, save_file

from mold_core import Engine, GenerateRequest, InferenceError
from mold_core.testing import FakePlugin, engine_with
from mold_ltx2.family import Ltx2Family

CLIP = GenerateRequest(prompt="a red ball flies", model="ltx-2-tiny", seed=3)

CASES = {
    "transformer": ("transformer", "model.diffusion_model.transformer_blocks.0.ff.net.2.weight", "the transformer"),
    "vae": ("transformer", "vae.decoder.conv_out.conv.weight", "the VAE"),
    "audio_vae": ("transformer", "audio_vae.decoder.conv_out.conv.weight", "the audio VAE"),
    "vocoder": ("transformer", "vocoder.conv_post.weight", "the vocoder"),
    "text_encoder": ("text_encoder", "language_model.model.norm.weight", "the text encoder"),
}


@pytest.fixture(params=CASES)
def damaged(request: pytest.FixtureRequest, files: dict[str, Path], tmp_path: Path) -> Iterator[tuple[Engine, str]]:
    component, name, said = CASES[request.param]
    state = load_file(files[component])
    state[name].view(-1)[0] = float("nan")
    path = tmp_path / "damaged.safetensors"
    save_file(state, path)
    spec = spec_of({**files, component: path})
    with engine_with(FakePlugin(families=[Ltx2Family()], models=[spec])) as engine:
        yield engine, said


def test_the_network_with_a_damaged_weight_is_named(damaged: tuple[Engine, str]) -> None:
    engine, said = damaged
    with pytest.raises(InferenceError, match=f"holds NaN or infinity .{said} computed"):
        engine.generate(attrs.evolve(CLIP, enable_audio=True))

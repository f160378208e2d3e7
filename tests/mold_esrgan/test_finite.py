"""An upscaler with a weight that is infinite is an error that names it, never a black image."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from nano_formats import replace_model
from PIL import Image
from safetensors.torch import load_file, save_file

from mold_core import Engine, InferenceError, Settings, UpscaleRequest
from mold_core.media import encode_image

NANO = "esrgan-nano-x4:fp32"


@pytest.mark.parametrize("side", [16, 400])
def test_a_damaged_weight_is_named(tmp_path: Path, side: int) -> None:
    with Engine(Settings(home=tmp_path, device="cpu", threads=1)) as engine:
        nano = engine.resolve(NANO)
        assert nano.root is not None
        (file,) = nano.files
        state = {name: tensor.half() for name, tensor in load_file(nano.root / file.path).items()}
        state["body.4.weight"][0, 0, 0, 0] = float("inf")
        save_file(state, tmp_path / "damaged.safetensors")
        damaged = attrs.evolve(file, path=str(tmp_path / "damaged.safetensors"))
        replace_model(engine, attrs.evolve(nano, files=(damaged,)))
        image = encode_image(Image.linear_gradient("L").resize((side, side)).convert("RGB"), "png")
        with pytest.raises(InferenceError, match=r"the weight body\.4\.weight holds NaN or infinity \(the upscaler"):
            engine.upscale(UpscaleRequest(image=image, model=NANO))

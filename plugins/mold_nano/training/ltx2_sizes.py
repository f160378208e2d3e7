"""Builds the networks of ltx2-nano by the sizes that its entry in the catalog says."""

import tomllib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mold_ltx2.gemma import gemma_config

CATALOG = Path(__file__).parents[1] / "mold_nano" / "models" / "catalog.toml"
# Width and height of the clips it is trained on.
SIZES = ((96, 64), (64, 64), (64, 96))


def options() -> dict[str, Any]:
    """Returns what the catalog says of ltx2-nano that its weights do not tell."""
    models = tomllib.loads(CATALOG.read_text("utf-8"))["model"]
    return next(model["options"] for model in models if model["name"] == "ltx2-nano:bf16")


def build(component: str) -> nn.Module:
    """Returns a network with fresh weights, of the sizes that the catalog says."""
    import diffusers
    from diffusers.pipelines import ltx2

    sizes = options()[component]
    if component == "text_encoder":
        from transformers import Gemma3TextModel

        return Gemma3TextModel(gemma_config(**sizes))
    classes: dict[str, Any] = {
        "transformer": diffusers.LTX2VideoTransformer3DModel,
        "connectors": ltx2.LTX2TextConnectors,
        "vae": diffusers.AutoencoderKLLTX2Video,
        "audio_vae": diffusers.AutoencoderKLLTX2Audio,
        "vocoder": ltx2.LTX2Vocoder,
    }
    return classes[component](**sizes)


def load_averaged(component: str, path: Path) -> nn.Module:
    """Returns a trained network with the moving average of its weights, in fp32, no longer to be trained."""
    network = build(component)
    network.load_state_dict({name: value.float() for name, value in torch.load(path)["ema"].items()})
    return network.eval().requires_grad_(False)

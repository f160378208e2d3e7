"""Writes the checkpoints that training goes on from, made of an exported ltx2-nano: the reverse of `export_ltx2.py`.

    python import_ltx2.py --model ../mold_nano/models/ltx2-nano --work /path/to/scratch

The optimiser starts afresh and so does the layer that reads what tokens show, which is not exported: begin with a low
learning rate.
"""

import argparse
from pathlib import Path

from ltx2_sizes import build
from optim import Optimiser, save
from safetensors.torch import load_file
from torch import Tensor
from train_ltx2 import Nano, is_matrix

from mold_ltx2.checkpoints import official_names
from mold_ltx2.gemma import gemma_names

_CHECKPOINTS = {"vae": "video-vae.pt", "audio_vae": "audio_vae.pt", "vocoder": "vocoder.pt"}


def exported(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of each network of an exported model, in fp32, under the names of the networks trained."""
    whole = load_file(folder / "ltx2-nano.safetensors")
    networks = {name: official_names(name, whole) for name in ("transformer", "connectors", *_CHECKPOINTS)}
    networks["text_encoder"] = gemma_names(load_file(folder / "text_encoder.safetensors"))
    return {name: {key: value.float() for key, value in tensors.items()} for name, tensors in networks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--work", type=Path, required=True, help="folder the checkpoints are written to")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    networks = exported(arguments.model)
    for name, file in _CHECKPOINTS.items():
        # The statistics of latents are kept apart; those of a network that is not exported yet have other shapes.
        state = {
            key: value if "latents_" in key else networks[name][key] for key, value in build(name).state_dict().items()
        }
        save(arguments.work / file, {"ema": state})
    statistics = {
        f"{kind}_{moment}": networks[name][f"latents_{moment}"]
        for kind, name in (("video", "vae"), ("audio", "audio_vae"))
        for moment in ("mean", "std")
    }
    save(arguments.work / "statistics.pt", statistics)
    model = Nano()
    for module, name in (
        (model.transformer, "transformer"),
        (model.connectors, "connectors"),
        (model.gemma, "text_encoder"),
    ):
        module.load_state_dict(networks[name])
    optimiser = Optimiser(
        model.bfloat16().named_parameters(), is_matrix=is_matrix, rank=0, world=1, muon_lr=0.02, adam_lr=1.5e-3,
        ema_decay=0.996,
    )  # fmt: skip
    progress = {"elapsed_s": 0.0, "samples": 0}
    save(
        arguments.work / "ltx2.pt",
        {"optimiser": optimiser.state_dict(), "progress": progress, "ema": optimiser.averaged()},
    )


if __name__ == "__main__":
    main()

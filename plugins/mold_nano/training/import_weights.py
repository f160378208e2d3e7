"""Writes the checkpoints that training goes on from, made of an exported model: the reverse of `export.py`.

    python import_weights.py --model ../mold_nano/models/flux-nano --work /path/to/scratch

The optimiser starts afresh and so does the layer that reads things half way through, which is not exported: begin with
a low learning rate. Tokenizers are never made anew: weights belong to their numbers.
"""

import argparse
import tomllib
from pathlib import Path

from autoencoder import Autoencoder
from export import FILES
from optim import save
from safetensors.torch import load_file
from text import Texts
from train_flux import Nano, new_optimiser


def imported(model: Nano, folder: Path) -> Nano:
    """Returns the transformer and its text encoders with the weights of an exported folder."""
    for part, module in (("transformer", model.flux), ("t5", model.t5), ("clip", model.clip)):
        module.load_state_dict({name: value.float() for name, value in load_file(folder / FILES[part]).items()})
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--work", type=Path, required=True, help="folder the checkpoints are written to")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    autoencoder = Autoencoder()
    autoencoder.load_state_dict({n: v.float() for n, v in load_file(arguments.model / FILES["autoencoder"]).items()})
    save(arguments.work / "vae.pt", {"ema": autoencoder.state_dict()})
    config = tomllib.loads((arguments.model / "config.toml").read_text())["autoencoder"]
    save(arguments.work / "scale.pt", {"shift": config["shift"], "scale": config["scale"]})
    optimiser = new_optimiser(imported(Nano(Texts(arguments.model)), arguments.model))
    progress = {"elapsed_s": 0.0, "samples": 0}
    save(
        arguments.work / "flux.pt",
        {"optimiser": optimiser.state_dict(), "progress": progress, "ema": optimiser.averaged()},
    )


if __name__ == "__main__":
    main()

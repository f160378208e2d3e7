"""Memory for loading a GGUF file: peak while loading, and after it, compared with diffusers. Linux only.

A FLUX.1 transformer of real width with 1 double and 2 single blocks in Q4_0, about 370 MB, is written to a temporary
folder. One process each loads it, reads every weight once, runs one step with 96 tokens, and reports its memory beyond
that after its imports. (Mapped pages of the file count as memory here, although the system can reclaim them.)
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import report

TOKENS, TEXT = 96, 32


def main() -> None:
    """Write the file, measure both, report."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flux.gguf"
        write(path)
        size = path.stat().st_size
        print(f"file: {size / 1e6:.0f} MB")
        found = {}
        for who in ("mold", "diffusers"):
            command = [sys.executable, "-W", "ignore", __file__, who, str(path)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[who] = {name: value / size for name, value in json.loads(out.splitlines()[-1]).items()}
            print(f"{who}: " + ", ".join(f"{name} {value:.2f} of the file" for name, value in found[who].items()))
    report("load-peak", found["mold"]["peak while loading"], 1.15, "memory ÷ file size", better="lower")
    report("load-resident", found["mold"]["resident after loading"], 1.10, "memory ÷ file size", better="lower")


def write(path: Path) -> None:
    """Write the transformer in the official layout, matrices as random Q4_0."""
    import gguf
    import numpy as np
    import torch

    from mold_flux.transformer import FluxTransformer

    with torch.device("meta"):
        state = FluxTransformer(config()).state_dict()
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "flux", use_temp_file=False)
    for name, tensor in state.items():
        if tensor.ndim == 2:
            blocks = random.integers(0, 256, (tensor.numel() // 32, 18), dtype=np.uint8)
            blocks.view(np.float16)[:, 0] = 1e-3
            writer.add_tensor(name, blocks.reshape(len(tensor), -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        else:
            writer.add_tensor(name, np.full(tensor.shape, 0.01, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def config() -> Any:
    """Return the sizes: FLUX.1-schnell's, but for the depth."""
    from mold_flux.transformer import FluxConfig

    return FluxConfig(depth_double=1, depth_single=2, guidance_embed=False)


def measure(load: Callable[[], Callable[[], None]]) -> None:
    """Print, as JSON, the bytes that loading took at most, that stay after it, and after a step."""
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    run = load()
    peak, loaded = status("VmHWM") - before, status("VmRSS") - before
    run()
    gc.collect()
    stays = status("VmRSS") - before
    print(json.dumps({"peak while loading": peak, "resident after loading": loaded, "resident after a step": stays}))


def status(name: str) -> int:
    """Return one of the kernel's figures on this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def by_mold(path: Path) -> None:
    """Measure mold."""
    import torch

    from mold_core.home import mold_home
    from mold_core.weights import load_weights, read_weights
    from mold_flux.checkpoints import transformer_config, transformer_tensors
    from mold_flux.transformer import FluxTransformer, rope

    def load() -> Callable[[], None]:
        tensors = transformer_tensors(read_weights(path))
        sizes = transformer_config({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        with torch.device("meta"):
            transformer = FluxTransformer(sizes)
        load_weights(transformer, tensors, path, dtype=torch.bfloat16, cache_dir=mold_home() / "cache")
        for tensor in transformer.state_dict().values():
            tensor.view(-1).view(torch.uint8)[::4096].max()  # a mapped file is read when it is used

        def run() -> None:
            img, txt, pooled = (torch.randn(1, *s).bfloat16() for s in ((TOKENS - TEXT, 64), (TEXT, 4096), (768,)))
            turns = rope(sizes, TEXT, 1, TOKENS - TEXT)
            with torch.inference_mode():
                transformer(img, txt, pooled, torch.tensor([0.5]), None, turns)

        return run

    import_everything(torch)
    measure(load)


def by_diffusers(path: Path) -> None:
    """Measure diffusers."""
    import torch
    from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig

    def load() -> Callable[[], None]:
        with tempfile.TemporaryDirectory() as folder:
            sizes = {"num_layers": 1, "num_single_layers": 2, "guidance_embeds": False, "joint_attention_dim": 4096}
            about = {"_class_name": "FluxTransformer2DModel", **sizes}
            (Path(folder) / "config.json").write_text(json.dumps(about))
            transformer = FluxTransformer2DModel.from_single_file(
                str(path),
                config=folder,
                dtype=torch.bfloat16,
                quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16),
            )

        def run() -> None:
            img, txt, pooled = (torch.randn(1, *s).bfloat16() for s in ((TOKENS - TEXT, 64), (TEXT, 4096), (768,)))
            with torch.inference_mode():
                transformer(
                    hidden_states=img,
                    encoder_hidden_states=txt,
                    pooled_projections=pooled,
                    timestep=torch.tensor([0.5]).bfloat16(),
                    img_ids=torch.zeros(TOKENS - TEXT, 3),
                    txt_ids=torch.zeros(TEXT, 3),
                )

        return run

    import_everything(torch)
    measure(load)


def import_everything(torch: Any) -> None:
    """Have torch load what a matrix product needs, so that it is not counted as the file's."""
    with torch.inference_mode():
        torch.nn.functional.linear(torch.ones(96, 64).bfloat16(), torch.ones(64, 64).bfloat16())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        {"mold": by_mold, "diffusers": by_diffusers}[sys.argv[1]](Path(sys.argv[2]))

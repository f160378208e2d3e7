"""The table of weight formats in docs/models.md: whether each loads, what it costs in quality and in time.

For every family and format: the PSNR of its image or video to that of bf16, drawn by the models that ship, and the time
of FLUX.1 blocks of real width divided by that of bf16 (`quantised.py`). `--write` puts the table into the page.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import torch
from PIL import Image
from quantised import of_format
from safetensors.torch import load_file, save_file

from mold_core import Engine, GenerateRequest, ModelSpec, MoldError, Settings

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests/fakes"))

import comfy_files  # noqa: E402 - after its folder is known
import gguf_files  # noqa: E402

PAGE = ROOT / "docs/models.md"
START, END = "<!-- table of formats: benchmarks/formats.py --write -->\n", "<!-- end of the table of formats -->"

# Format → how it is written (a format of comfy_files, a type of GGUF), and what quantised.py calls it.
FORMATS = {
    "int8 ConvRot (`int8_tensorwise`)": ("int8_convrot", "int8_convrot"),
    "int8 rows (`int8_tensorwise`)": ("int8", "int8"),
    "fp8 scaled (`float8_e4m3fn`)": ("fp8", "fp8"),
    "fp8 scaled, `MOLD_COMPUTE=int8`": ("fp8/int8", "fp8/int8"),
    "mxfp8": ("mxfp8", "mxfp8"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "W6A8 (`asym_w4a8_int8`, 6 bits)": ("w6a8", "w6a8"),
    "W4A8 (`asym_w4a8_int8`)": ("w4a8", "w4a8"),
    "ConvRot W4A4 (`convrot_w4a4`)": ("convrot_w4a4", "convrot_w4a4"),
    "AWQ W4A16 (`awq_w4a16`)": ("awq_w4a16", "awq_w4a16"),
    "SVDQuant (`svdquant_w4a4`)": ("svdquant", "svdquant"),
    "bitsandbytes nf4": ("nf4", "nf4"),
    "GGUF Q8_0": ("Q8_0", "Q8_0"),
    "GGUF Q8_0, `MOLD_COMPUTE=int8`": ("Q8_0/int8", "Q8_0/int8"),
    "GGUF Q5_0": ("Q5_0", "Q5_0"),
    "GGUF Q4_0": ("Q4_0", "Q4_0"),
}
MODELS = {"FLUX.1": ("flux-nano:bf16", ""), "LTX-2": ("ltx2-nano:bf16", "model.diffusion_model.")}


def main() -> None:
    """Measure every row, print it, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/models.md")
    parser.add_argument("--no-time", action="store_true", help="leave out the time of steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| format | family | loads | PSNR to bf16 | step ÷ bf16 |", "|---|---|---|---|---|"]
    for line in rows(with_time=not arguments.no_time):
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        before, rest = PAGE.read_text("utf-8").split(START)
        text = f"{before}{START}{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}"
        PAGE.write_text(text, "utf-8")


def rows(*, with_time: bool) -> Iterator[str]:
    """Yield a row of the table for each format and family."""
    references = {family: pixels_of(name) for family, (name, _) in MODELS.items()}
    for title, (written, timed) in FORMATS.items():
        with torch.inference_mode():
            ratio = f"{of_format(timed):.2f}" if with_time else "–"
        for family, (name, prefix) in MODELS.items():
            loads, quality, (kind, _, compute) = "yes", "–", written.partition("/")
            if prefix and kind.startswith("Q"):  # a file of a whole model, whose convolutions GGUF has no shape for
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    spec = converted(name, prefix, kind, Path(folder))
                    pixels = pixels_of(name, spec, compute=compute or "auto")
                    quality = f"{psnr_db(pixels, references[family]):.1f} dB"
                except MoldError as error:
                    loads = f"no: {error.message}"
            yield f"| {title} | {family} | {loads} | {quality} | {ratio if family == 'FLUX.1' else '–'} |"


def pixels_of(name: str, spec: ModelSpec | None = None, **settings: object) -> np.ndarray:
    """Return the pixels of an image, or of the frames of a video, of a model that ships."""
    with Engine(Settings(device="cpu", **settings)) as engine:
        if spec is not None:
            engine.plugins.models[name] = spec
        request = GenerateRequest(prompt="a red house under a yellow moon", model=name, seed=7)
        if name.startswith("ltx2"):
            request = attrs.evolve(request, output_format="apng")
        response = engine.generate(request)
    data = response.video.data if response.video else response.images[0].data
    with Image.open(io.BytesIO(data)) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"), dtype=float))
    return np.stack(frames)


def psnr_db(left: np.ndarray, right: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of pixels from 0 to 255."""
    return float(10 * np.log10(255**2 / max(1e-9, np.square(left - right).mean())))


def converted(name: str, prefix: str, kind: str, folder: Path) -> ModelSpec:
    """Return a model with its transformer in a format; layers whose widths it does not take stay in bf16."""
    with Engine(Settings(device="cpu")) as engine:
        spec = engine.resolve(name)
    (file,) = (file for file in spec.files if file.component in ("transformer", "checkpoint"))
    state = load_file((spec.root or Path()) / file.path)

    def is_matrix(tensor_name: str, tensor: torch.Tensor) -> bool:
        return tensor_name.startswith(prefix) and tensor_name.endswith(".weight") and tensor.ndim == 2

    path = folder / "model"
    if kind.startswith("Q"):
        kinds = {key: kind for key, tensor in state.items() if is_matrix(key, tensor) and tensor.shape[1] % 32 == 0}
        gguf_files.write_gguf(path, state, kinds)
    else:
        written = comfy_files.write_state(state, kind, is_matrix, 16)
        save_file({key: tensor.contiguous() for key, tensor in written.items()}, path, metadata_of(spec, file.path))
    files = tuple(attrs.evolve(one, path=str(path)) if one is file else one for one in spec.files)
    return attrs.evolve(spec, files=files)


def metadata_of(spec: ModelSpec, path: str) -> dict[str, str]:
    """Return the texts in the header of a file, of which some say what a network is like."""
    with ((spec.root or Path()) / path).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return dict(header.get("__metadata__", {}))


if __name__ == "__main__":
    main()

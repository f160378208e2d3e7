"""Peak memory of the strategies, as the system counts it: a FLUX.1 with few blocks of real width, bf16.

Each strategy generates the same image in its own process. The growth of the process since before loading is printed:
in total, and private memory alone. The difference is pages of mapped files, which the system can reclaim; on a machine
that computes in bf16 these are the weights themselves.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from hashlib import sha256
from pathlib import Path

import attrs
import torch
from common import report
from safetensors.torch import save_file

from mold_core import GenerateRequest, LoadContext, ModelFile, ModelSpec, plan_memory
from mold_core.catalog import ModelStore
from mold_core.plugins import load_plugins
from mold_core.testing import RecordedRun
from mold_flux.family import FluxFamily
from mold_flux.loading import load_pipeline
from mold_flux.text_encoders import T5Config, T5Encoder
from mold_flux.transformer import FluxConfig, FluxTransformer

TRANSFORMER = FluxConfig(depth_double=1, depth_single=2, pooled_dim=64, guidance_embed=False)
T5 = T5Config(depth=2, vocabulary=182)
STRATEGIES = ("eager", "sequential", "offload")


def write_model(folder: Path) -> None:
    """Write the large files; the small ones are those of flux-nano."""
    for name, network in (("transformer", FluxTransformer), ("t5_encoder", T5Encoder)):
        with torch.device("meta"):
            module = network(TRANSFORMER if name == "transformer" else T5)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(1)
        tensors = {
            key: torch.empty(wanted.shape, dtype=torch.bfloat16).normal_(
                0, 0.3 / max(wanted.shape[-1], 1) ** 0.5, generator=generator
            )
            for key, wanted in module.state_dict().items()
        }
        save_file(tensors, folder / f"{name}.safetensors")


def spec_in(folder: Path) -> ModelSpec:
    """Return flux-nano with the large files in place of its own."""
    nano = load_plugins().models["flux-nano:bf16"]
    assert nano.root is not None
    files = []
    for file in nano.files:
        own = folder / f"{file.component}.safetensors"
        files.append(ModelFile(component=file.component, path=str(own if own.exists() else nano.root / file.path)))
    return attrs.evolve(nano, files=tuple(files), root=Path("/"), options={**nano.options, "transformer": {}})


def growth(strategy: str, folder: Path) -> dict[str, float | str]:
    """Draw an image, and return by how many bytes the process grew at most, with the image's digest."""
    spec = spec_in(folder)
    files = ModelStore(Path("/")).files_of(spec)
    context = LoadContext(device="cpu", threads=1, cache_dir=folder, report=lambda event: None, compile="off")
    plan = plan_memory(FluxFamily().components(spec, files, context), {}, strategy)  # type: ignore[arg-type]
    request = GenerateRequest(
        prompt="a red house", model=spec.name, width=64, height=64, steps=2, guidance=0.0, seed=1, batch_size=1
    )
    with _Watch() as watch:
        pipeline = load_pipeline(spec, files, attrs.evolve(context, plan=plan))
        (frames,) = pipeline.generate([request], RecordedRun())
    return {**watch.most, "planned": plan.peak_bytes("cpu"), "image": sha256(frames.images[0].tobytes()).hexdigest()}


class _Watch:
    """Looks every few milliseconds how large the process is."""

    def __init__(self) -> None:
        self.most = {"VmRSS": 0, "RssAnon": 0}
        self._before = _sizes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            now = _sizes()
            self.most = {name: max(most, now[name] - self._before[name]) for name, most in self.most.items()}
            time.sleep(0.003)


def _sizes() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text("ascii").splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[0] in ("VmRSS:", "RssAnon:")}


def main() -> None:
    """Write the model, draw with each strategy, print; the last line is of JSON."""
    if len(sys.argv) == 3:
        print(json.dumps(growth(sys.argv[1], Path(sys.argv[2]))))
        return
    if not Path("/proc/self/status").exists():
        print("skipped: only Linux tells the size of a process here")
        return
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name:
        write_model(Path(name))
        grown = {}
        for strategy in STRATEGIES:
            command = [sys.executable, __file__, strategy, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            grown[strategy] = json.loads(done.stdout.splitlines()[-1])
            row = grown[strategy]
            print(
                f"{strategy:<11} grew by {row['VmRSS'] / 1e6:6.0f} MB, its own memory by {row['RssAnon'] / 1e6:6.0f} MB"
                f"   (planned {row['planned'] / 1e6:6.0f} MB)",
                flush=True,
            )
    same = len({row["image"] for row in grown.values()}) == 1
    print("the images are the same" if same else "THE IMAGES DIFFER")
    ratio = grown["sequential"]["VmRSS"] / grown["eager"]["VmRSS"]
    report("memory", ratio, 0.8, "peak memory of sequential ÷ eager, by the system's count", better="lower")


if __name__ == "__main__":
    main()

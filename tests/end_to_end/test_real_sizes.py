"""Files of the real names and sizes, most of them larger than memory: opened, recognised and planned for little."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ltx2_files import official_layout
from sparse_files import layout_of, write_sparse
from torch import nn

from mold_flux.autoencoder import Autoencoder, AutoencoderConfig
from mold_flux.text_encoders import CLIP_L, T5_XXL, ClipTextEncoder, T5Encoder
from mold_flux.transformer import FluxConfig, FluxTransformer

MOST_BYTES = 80_000_000  # beyond what importing torch takes

CODE = """
import json, resource, sys, time
from pathlib import Path
import torch

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

before, started = peak(), time.process_time()
resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
from mold_core import Engine, Settings
name, table, home = json.loads(sys.argv[1])
with Engine(Settings(home=Path(home), device="cpu", user_models={name: table}, memory_budget_gb=20)) as engine:
    memory = engine.disk.model(name).memory
print(json.dumps({
    "parts": {part.name: part.size_bytes for part in memory.parts},
    "chosen": memory.chosen,
    "problem": memory.problem,
    "growth": peak() - before,
    "cpu_s": time.process_time() - started,
    "diffusers": "diffusers" in sys.modules,
}))
"""


def planned(tmp_path: Path, family: str, files: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Plan a model in a process of its own, under a limit on its memory that is far below the size of the files."""
    table = {"family": family, "files": files, "options": options}
    arguments = json.dumps(["mine:v1", table, str(tmp_path / "home")])
    done = subprocess.run([sys.executable, "-c", CODE, arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(found)
    return found


def meta(network: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return network()


def flux_networks() -> dict[str, nn.Module]:
    return {
        "transformer": meta(lambda: FluxTransformer(FluxConfig())),
        "t5_encoder": meta(lambda: T5Encoder(T5_XXL)),
        "clip_encoder": meta(lambda: ClipTextEncoder(CLIP_L)),
        "vae": meta(lambda: Autoencoder(AutoencoderConfig())),
    }


def tokenizers(tmp_path: Path, *names: str) -> dict[str, str]:
    (tmp_path / "tokenizer.json").write_text("{}")
    return {name: str(tmp_path / "tokenizer.json") for name in names}


FLUX_TOKENIZERS = ("t5_tokenizer", "clip_tokenizer")


def test_flux_in_bf16(tmp_path: Path) -> None:
    files = {
        name: write_sparse(tmp_path / f"{name}.safetensors", layout_of(network, "F32" if name == "vae" else "BF16"))
        for name, network in flux_networks().items()
    }
    assert files["transformer"].stat().st_size == pytest.approx(23.8e9, rel=0.005)
    paths = {name: str(path) for name, path in files.items()} | tokenizers(tmp_path, *FLUX_TOKENIZERS)
    found = planned(tmp_path, "flux", paths, variant="dev")
    assert found["growth"] < MOST_BYTES
    assert not found["diffusers"]
    assert found["chosen"] == "offload"  # 24 GB do not fit into 20


def test_a_whole_flux_in_one_fp8_file_is_counted_once_and_fits(tmp_path: Path) -> None:
    networks = flux_networks()
    prefixes = {
        "transformer": "model.diffusion_model.",
        "t5_encoder": "text_encoders.t5xxl.transformer.",
        "clip_encoder": "text_encoders.clip_l.transformer.",
        "vae": "vae.",
    }
    layout: dict[str, Any] = {}
    for name, network in networks.items():
        half = {"vae": "F32", "transformer": "F8_E4M3", "t5_encoder": "F8_E4M3"}.get(name, "F16")
        layout |= layout_of(network, half, prefix=prefixes[name])
    layout |= {
        "text_encoders.clip_l.logit_scale": ("F16", ()),
        "text_encoders.t5xxl.logit_scale": ("F16", ()),
        "text_encoders.clip_l.transformer.text_projection.weight": ("F16", (768, 768)),
    }
    path = write_sparse(tmp_path / "flux1-dev-fp8.safetensors", layout)
    assert path.stat().st_size == pytest.approx(17.2e9, rel=0.01)
    paths = dict.fromkeys(networks, str(path)) | tokenizers(tmp_path, *FLUX_TOKENIZERS)
    found = planned(tmp_path, "flux", paths, variant="dev")
    assert found["growth"] < MOST_BYTES
    assert found["problem"] is None
    assert found["chosen"] in ("eager", "sequential")
    assert found["parts"]["transformer"] < 13e9
    assert found["parts"]["clip_encoder"] < 1e9
    assert found["parts"]["vae"] < 1e9


def test_ltx_23_in_fp8(tmp_path: Path) -> None:
    layout, gemma = official_layout("2.3")
    path = write_sparse(tmp_path / "ltx-2.3-22b-dev-fp8.safetensors", layout)
    assert path.stat().st_size == pytest.approx(29.1e9, rel=0.12)
    names = list(gemma)
    size = -(-len(names) // 5)
    shards = [
        write_sparse(
            tmp_path / f"model-0000{n + 1}-of-00005.safetensors", {k: gemma[k] for k in names[n * size :][:size]}
        )
        for n in range(5)
    ]
    assert sum(shard.stat().st_size for shard in shards) == pytest.approx(23.5e9, rel=0.05)
    files: dict[str, Any] = {"transformer": str(path), "text_encoder": list(map(str, shards))}
    found = planned(tmp_path, "ltx2", files | tokenizers(tmp_path, "tokenizer"))
    assert found["growth"] < MOST_BYTES
    assert not found["diffusers"]
    assert found["problem"] is None
    assert found["chosen"] == "offload"

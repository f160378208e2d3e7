"""Cold start to an image: `mold run` against a five-line diffusers script, in processor time."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import NANO, compare_commands, report
from reference import diffusers_pipeline

SCRIPT = """\
import sys, torch
from diffusers import FluxPipeline
pipe = FluxPipeline.from_pretrained(sys.argv[1])
options = dict(width=128, height=128, num_inference_steps=4, guidance_scale=0.0, max_sequence_length=48)
pipe("a red house", generator=torch.Generator().manual_seed(1), **options).images[0].save(sys.argv[2])
"""


def main() -> None:
    """Write the weights as a diffusers folder, then start each in turn, in a new process each time."""
    with tempfile.TemporaryDirectory() as folder:
        diffusers_pipeline(NANO).save_pretrained(f"{folder}/model")
        mold = str(Path(sys.executable).parent / "mold")
        ours = [mold, "run", "-m", "flux-nano", "a red house", "--seed", "1"]
        theirs = [sys.executable, "-c", SCRIPT, f"{folder}/model", f"{folder}/theirs.png"]
        times = compare_commands([*ours, "-o", f"{folder}/ours.png"], theirs, pairs=5)
    print(times.describe("mold run", "five lines of diffusers"))
    report("cold", times.ratio, 0.8, "cold mold run ÷ diffusers script, processor time", better="lower")


if __name__ == "__main__":
    main()

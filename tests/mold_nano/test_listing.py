"""What `mold list` and `mold info` say of the embedded models, which do different things."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

Mold = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("model", "can", "image"),
    [
        ("flux-nano", "image-to-image, inpaint, lora, text-to-image", "128x128, 4 steps, guidance 0"),
        ("esrgan-nano-x4", "upscale", None),
        ("expand-nano", "expand", None),
    ],
)
def test_info_says_what_each_can_do(mold: Mold, model: str, can: str, image: str | None) -> None:
    done = mold("info", model)
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:8] if line)
    assert done.returncode == 0, done.stderr
    assert f"capabilities  {can}\n" in done.stdout
    assert rows.get("image") == image
    assert "no loaded plugin" not in done.stdout
    assert " 0 B" not in done.stdout


def test_info_says_when_nothing_runs_a_model(mold: Mold) -> None:
    done = mold("info", "esrgan-nano-x4", MOLD_PLUGINS="nano")
    assert "upscaler (no loaded plugin provides it)" in done.stdout
    assert "capabilities" not in done.stdout


def test_the_list_leaves_out_what_a_model_has_not(mold: Mold) -> None:
    lines = {line.split()[0]: line for line in mold("list").stdout.splitlines() if "-nano" in line and "★" not in line}
    assert set(lines) >= {"esrgan-nano-x4:fp32", "expand-nano:q8"}
    assert not any("?" in line or "None" in line for line in lines.values())

"""The step cache of FLUX.1: images of 20 steps with `cache=first-block` against the same images without it.

For each threshold it prints the time ratio, the share of steps left out, and how close the images are. The model is the
one that ships; larger ones have more blocks after the first, so a step that is left out saves more of them.
"""

from __future__ import annotations

import math
import re
from io import BytesIO
from time import process_time
from typing import Any

from common import compare, report

STEPS = 20
PROMPTS = ("a red house under a yellow moon", "a green car at night", "two blue balls in snow")


def main() -> None:
    import numpy as np
    from PIL import Image

    from mold_core import Engine, GenerateRequest, Settings

    def request(index: int, **options: Any) -> GenerateRequest:
        return GenerateRequest(prompt=PROMPTS[index], model="flux-nano", steps=STEPS, seed=index, options=options)

    with Engine(Settings(device="cpu", executor="inline")) as engine:

        def drawn(index: int, **options: Any) -> tuple[Any, int]:
            events: list[Any] = []
            data = engine.generate(request(index, **options), events.append).images[0].data
            counts = re.findall(rf"(\d+) of {STEPS} steps", " ".join(getattr(one, "message", "") for one in events))
            return np.asarray(Image.open(BytesIO(data)).convert("RGB"), dtype=np.float32), int((counts or [0])[0])

        exact = [drawn(index)[0] for index in range(len(PROMPTS))]
        for threshold in (0.05, 0.1, 0.2):
            options = {"cache": "first-block", "cache_threshold": threshold}
            cached = [drawn(index, **options) for index in range(len(PROMPTS))]
            errors = [np.square(image - other).mean() for (image, _), other in zip(cached, exact, strict=True)]
            least_db = min(10 * math.log10(255**2 / max(error, 1e-9)) for error in errors)
            left_out = sum(count for _, count in cached) / (STEPS * len(PROMPTS))
            times = compare(
                lambda options=options: [drawn(index, **options) for index in range(len(PROMPTS))],
                lambda: [drawn(index) for index in range(len(PROMPTS))],
                pairs=3,
                clock=process_time,
            )
            print(
                f"threshold {threshold}: {left_out:.0%} of steps left out, {least_db:.1f} dB or more; {times.ratio:.2f}"
            )
            if threshold == 0.1:
                report("step cache, time with ÷ without", times.ratio, 0.75, "", better="lower")
                report("step cache, least PSNR", least_db, 40, "dB", better="higher")


if __name__ == "__main__":
    main()

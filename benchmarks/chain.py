"""What a chain costs over its clips, what it holds in memory, and whether its seams show: long videos of ltx2-nano.

Time: a chain through the engine, encoded and written, ÷ its clips rendered and decoded one after the other by the same
pipeline and thrown away. Memory: the most that a process of its own took for a chain of 16 clips ÷ for one of 4. Seams:
the moving thing is followed by a tracker; how far it is from where its last two frames lead, and how much the picture's
brightness jumps, across the seams ÷ within clips, with the usual tail and with clips joined without one. Waiting: how
long pictures of flux-nano take that are asked for while a chain of 8 clips runs, ÷ the time of a clip.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from time import perf_counter, sleep

import attrs
import numpy as np
from common import report
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "mold_nano" / "training"))

from nano_motion import read
from tracker import see

from mold_core import ChainRequest, Engine, GenerateRequest, LoadContext
from mold_core.catalog import ModelStore
from mold_core.chains.plan import overlap_frames
from mold_core.plugins import load_plugins
from mold_core.settings import Settings
from mold_core.testing import RecordedRun
from mold_core.wire import ChainStageDone, ChainStageStart

CLIP, TAIL = 49, 4

# A clip of ltx2-nano takes half a second, and the encoding of its frames and sound about as long. Clips of this size,
# which it was not trained for, take five seconds; clips of large models take minutes.
HEAVY = 192
PROMPTS = (
    "a red boat sailing left to right",
    "a white balloon floating up and down",
    "a green car driving right to left at night",
    "a red ball bouncing up and down",
    "a blue balloon rising over the sea",
)


def asked(
    model: str, stages: int, *, tail: int = TAIL, prompt: str = PROMPTS[0], seed: int = 1, side: int | None = None
) -> ChainRequest:
    """Return a chain of so many clips, `side` pixels wide and high where it is given."""
    emitted = CLIP - (overlap_frames(tail) if tail else 0)
    return ChainRequest(
        model=model,
        prompt=prompt,
        total_frames=CLIP + (stages - 1) * emitted,
        clip_frames=CLIP,
        motion_tail_frames=tail,
        seed=seed,
        width=side,
        height=side,
    )


def engine_in(home: Path) -> Engine:
    """Return an engine whose chains are kept in a folder of its own, so that nothing is used again.

    Models of video make clips of any size that their family can.
    """
    plugins = load_plugins()
    for name, spec in plugins.models.items():
        if spec.family in plugins.chain_renderers:
            options = {key: value for key, value in spec.options.items() if key != "sizes"}
            plugins.models[name] = attrs.evolve(spec, options=options)
    return Engine(settings=Settings(home=home), plugins=plugins)


def chain_seconds(model: str, stages: int, rounds: int, side: int | None) -> list[float]:
    """Return how long chains through a warm engine take."""
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name, engine_in(Path(name)) as engine:
        engine.generate(GenerateRequest(prompt=PROMPTS[0], model=model, frames=CLIP, seed=0))
        times = []
        for seed in range(rounds):
            started = perf_counter()
            engine.chain(asked(model, stages, seed=seed, side=side))
            times.append(perf_counter() - started)
        return times


def clip_seconds(model: str, stages: int, rounds: int, side: int | None) -> list[float]:
    """Return how long the same clips take one after the other, their frames thrown away."""
    plugins = load_plugins()
    spec = plugins.models[f"{model}:bf16"]
    files = ModelStore(Path("/")).files_of(spec)
    renderer = plugins.chain_renderers[spec.family]
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as cache:
        context = LoadContext(device="cpu", threads=None, cache_dir=Path(cache), report=lambda event: None)
        pipeline = plugins.families[spec.family].load(spec, files, context)
        width, height = side or spec.defaults.width, side or spec.defaults.height
        defaults = {"width": width, "height": height, "steps": spec.defaults.steps}
        request = GenerateRequest(
            prompt=PROMPTS[0], model=spec.name, frames=CLIP, fps=spec.defaults.fps, enable_audio=True, guidance=0.0,
            **defaults,
        )  # fmt: skip
        times = []
        for seed in range(rounds + 1):
            started, before, overlap = perf_counter(), None, 0
            for stage in range(stages):
                clip = attrs.evolve(request, seed=100 * seed + stage)
                latents = renderer.render(pipeline, clip, before, overlap, RecordedRun())
                list(renderer.decode(pipeline, latents, before, overlap, None).images)
                before, overlap = latents, overlap_frames(TAIL)
            times.append(perf_counter() - started)
        return times[1:]


def time_ratio(model: str, stages: int, rounds: int, side: int | None) -> float:
    """Return the time of a chain ÷ that of its clips."""
    whole, clips = (statistics.median(way(model, stages, rounds, side)) for way in (chain_seconds, clip_seconds))
    size = f" of {side}x{side}" if side else ""
    print(f"{stages} clips{size} as a chain: {whole:.2f} s, by themselves: {clips:.2f} s   ratio {whole / clips:.2f}",
          flush=True)  # fmt: skip
    return whole / clips


def peak_bytes(model: str, stages: int) -> int:
    """Return the most memory that a process of its own took to make a chain."""
    command = [sys.executable, __file__, "--model", model, "--once", str(stages)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def make_once(model: str, stages: int) -> None:
    """Make a chain and print the most memory that the process took."""
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name, engine_in(Path(name)) as engine:
        engine.chain(asked(model, stages))
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def waiting_ratio(model: str, stages: int = 8) -> float:
    """Return how long 95 of 100 pictures take at most beside a chain ÷ the median time of one of its clips."""
    begun: dict[int, float] = {}
    clips: list[float] = []

    def note(event: object) -> None:
        if isinstance(event, ChainStageStart):
            begun[event.stage_idx] = perf_counter()
        elif isinstance(event, ChainStageDone) and event.stage_idx in begun:
            clips.append(perf_counter() - begun[event.stage_idx])

    picture = GenerateRequest(prompt="a red house", model="flux-nano", seed=1)
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name, engine_in(Path(name)) as engine:
        engine.generate(GenerateRequest(prompt=PROMPTS[0], model=model, frames=CLIP, seed=0))
        engine.generate(picture)
        alone = chain_clip_seconds(engine, model)
        chain = Thread(target=engine.run, args=(asked(model, stages), note))
        chain.start()
        waited = []
        while chain.is_alive():
            started = perf_counter()
            engine.generate(picture)
            waited.append(perf_counter() - started)
            sleep(0.2)
        chain.join()
    longest = sorted(waited)[int(0.95 * (len(waited) - 1))]
    print(f"{len(waited)} pictures beside a chain: 95 % within {longest:.2f} s; a clip takes {alone:.2f} s alone, "
          f"{statistics.median(clips):.2f} s beside them", flush=True)  # fmt: skip
    return longest / alone


def chain_clip_seconds(engine: Engine, model: str) -> float:
    """Return how long a clip takes with nothing beside it."""
    started = perf_counter()
    engine.chain(asked(model, 2, seed=77))
    return (perf_counter() - started) / 2


# --- seams -----------------------------------------------------------------------------------------------------------


def unsteadiness(pictures: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each frame how far the thing is from where the two before lead, and by how much brightness jumps."""
    track = see(pictures).track
    away = np.full(len(track), np.nan)
    away[2:] = np.linalg.norm(track[2:] - 2 * track[1:-1] + track[:-2], axis=1)
    away[away > 0.3] = np.nan  # gone at one side and in again at the other
    light = np.array([np.asarray(picture.convert("L"), dtype=np.float32).mean() for picture in pictures])
    return away, np.abs(np.diff(light, prepend=light[0]))


def seam_ratios(model: str, tail: int, stages: int, seeds: int) -> tuple[float, float]:
    """Return position error and brightness jump across seams ÷ within clips."""
    overlap = overlap_frames(tail) if tail else 0
    parts: dict[tuple[str, bool], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name, engine_in(Path(name)) as engine:
        for prompt in PROMPTS:
            for seed in range(seeds):
                answer = engine.chain(asked(model, stages, tail=tail, prompt=prompt, seed=seed))
                pictures, _, _ = read(answer.video.data)
                seams = {CLIP + index * (CLIP - overlap) for index in range(stages - 1)}
                away, jump = unsteadiness(pictures)
                for frame in range(2, len(pictures)):
                    across = frame in seams or frame - 1 in seams
                    if not np.isnan(away[frame]):
                        parts.setdefault(("away", across), []).append(float(away[frame]))
                    parts.setdefault(("jump", frame in seams), []).append(float(jump[frame]))
    away, jump = (
        statistics.fmean(parts[name, True]) / statistics.fmean(parts[name, False]) for name in ("away", "jump")
    )
    return away, jump


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ltx2-nano")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="chains per prompt whose seams are looked at")
    parser.add_argument("--once", type=int, help="only make a chain of so many clips, and print what it took")
    arguments = parser.parse_args()
    if arguments.once:
        make_once(arguments.model, arguments.once)
        return
    small, heavy = (time_ratio(arguments.model, arguments.stages, arguments.rounds, side) for side in (None, HEAVY))
    few, many = peak_bytes(arguments.model, 4), peak_bytes(arguments.model, 16)
    print(f"a chain of 4 clips took {few / 1e6:.0f} MB, of 16 {many / 1e6:.0f} MB", flush=True)
    seams = {tail: seam_ratios(arguments.model, tail, arguments.stages, arguments.seeds) for tail in (TAIL, 0)}
    for tail, (away, jump) in seams.items():
        print(f"tail {tail}: position {away:.2f}, brightness {jump:.2f} across seams ÷ within clips", flush=True)
    waiting = waiting_ratio(arguments.model)
    report("chain waiting", waiting, 1.0, "a picture beside a chain, 95 of 100, ÷ a clip", better="lower")
    report("chain memory", many / few, 1.1, "peak memory of a chain of 16 clips ÷ of 4", better="lower")
    report("chain seam, position", seams[TAIL][0], 1.5, "error across seams ÷ within clips", better="lower")
    report("chain seam, brightness", seams[TAIL][1], 1.5, "jump across seams ÷ within clips", better="lower")
    report("chain of small clips", small, 1.05, "a chain ÷ its clips one after the other", better="lower")
    report("chain", heavy, 1.05, f"the same, clips of {HEAVY}x{HEAVY}", better="lower")


if __name__ == "__main__":
    main()

"""Chains of ltx2-nano: overhead over the clips, peak memory, visible seams, and the wait of other jobs.

Time: a chain through the engine, encoded and written, ÷ its clips rendered, decoded by the same pipeline and discarded;
in turn, each in its own process. Memory: peak of a process for a chain of 16 clips ÷ for one of 4. Seams: a tracker
follows the moving thing; its deviation from the extrapolation of the last two frames, and the jump in brightness,
across the seams ÷ within clips, with the default tail and with clips joined without one. Waiting: the time of
flux-nano images requested during a chain of 8 clips ÷ the time of a clip.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Thread
from time import perf_counter, sleep
from typing import Any

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
from mold_core.hookspecs import ChainRenderer
from mold_core.plugins import Plugins, load_plugins
from mold_core.settings import Settings
from mold_core.testing import RecordedRun
from mold_core.wire import ChainStageDone, ChainStageStart

CLIP, TAIL = 49, 4

# A clip of ltx2-nano is rendered in half a second, those of large models in minutes, and encoding takes as long for
# both. Rendered so many times instead of once, the same clips stand for those of a model that is as many times slower.
HEAVY = 8
PROMPTS = (
    "a red boat sailing left to right",
    "a white balloon floating up and down",
    "a green car driving right to left at night",
    "a red ball bouncing up and down",
    "a blue balloon rising over the sea",
)


@attrs.frozen
class Repeating:
    """A chain renderer that renders every clip `times` times."""

    renderer: ChainRenderer
    times: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.renderer, name)

    def render(self, *arguments: Any) -> Mapping[str, Any]:
        """Render a clip again and again, and return what came out last."""
        for _ in range(self.times - 1):
            self.renderer.render(*arguments)
        return self.renderer.render(*arguments)


def plugins_for(times: int) -> Plugins:
    """Return what is installed, with chain renderers that render every clip so many times."""
    plugins = load_plugins()
    for family, renderer in plugins.chain_renderers.items():
        plugins.chain_renderers[family] = Repeating(renderer, times)
    return plugins


def asked(model: str, stages: int, *, tail: int = TAIL, prompt: str = PROMPTS[0], seed: int = 1) -> ChainRequest:
    """Return a chain of so many clips."""
    emitted = CLIP - (overlap_frames(tail) if tail else 0)
    return ChainRequest(
        model=model,
        prompt=prompt,
        total_frames=CLIP + (stages - 1) * emitted,
        clip_frames=CLIP,
        motion_tail_frames=tail,
        seed=seed,
    )


def engine_in(home: Path, times: int = 1) -> Engine:
    """Return an engine whose chains are kept in a folder of its own, so that nothing is used again."""
    return Engine(settings=Settings(home=home), plugins=plugins_for(times))


def chain_seconds(model: str, stages: int, times: int) -> Iterator[float]:
    """Yield how long chains through a warm engine take."""
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name, engine_in(Path(name), times) as engine:
        engine.generate(GenerateRequest(prompt=PROMPTS[0], model=model, frames=CLIP, seed=0))
        for seed in count():
            started = perf_counter()
            engine.chain(asked(model, stages, seed=seed))
            yield perf_counter() - started


def clip_seconds(model: str, stages: int, times: int) -> Iterator[float]:
    """Yield how long the same clips take one after the other, each decoded beside its neighbours, frames thrown away.

    Decoding them as the chain does is what makes seams invisible; it is part of the work on a clip.
    """
    plugins = plugins_for(times)
    spec = plugins.models[f"{model}:bf16"]
    files = ModelStore(Path("/")).files_of(spec)
    renderer = plugins.chain_renderers[spec.family]
    overlap = overlap_frames(TAIL)
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as cache:
        context = LoadContext(device="cpu", threads=None, cache_dir=Path(cache), report=lambda event: None)
        pipeline = plugins.families[spec.family].load(spec, files, context)
        defaults = {name: getattr(spec.defaults, name) for name in ("width", "height", "steps", "fps")}
        request = GenerateRequest(
            prompt=PROMPTS[0], model=spec.name, frames=CLIP, enable_audio=True, guidance=0.0, **defaults
        )
        for seed in count():
            started = perf_counter()
            clips: list[Mapping[str, Any]] = []
            for stage in range(stages):
                clip, before = attrs.evolve(request, seed=100 * seed + stage), clips[-1] if clips else None
                clips.append(renderer.render(pipeline, clip, before, overlap if clips else 0, RecordedRun()))
            for before, clip, after in zip([None, *clips], clips, [*clips[1:], None], strict=False):
                list(renderer.decode(pipeline, clip, before, overlap if before else 0, after).images)
            yield perf_counter() - started


def time_ratio(model: str, stages: int, rounds: int, times: int) -> float:
    """Return the time of a chain ÷ that of its clips, by two processes that work in turn.

    They are two because OpenMP's threads of two that compute, one after the other in one process, hinder
    one another.
    """
    ways = [Popen(command("--times", way, model, stages, times), stdin=PIPE, stdout=PIPE, text=True) for way in WAYS]
    pairs = [[take_turn(way) for way in ways] for _ in range(rounds + 1)][1:]  # the first of each is slower
    for way in ways:
        way.communicate()
    ratio = statistics.median(whole / clips for whole, clips in pairs)
    whole, clips = (statistics.median(taken) for taken in zip(*pairs, strict=True))
    told = f"{stages} clips as a chain: {whole:.2f} s, by themselves: {clips:.2f} s"
    print(f"{told}   ratio {ratio:.2f}   ({rounds} pairs)", flush=True)
    return ratio


def take_turn(process: Popen[str]) -> float:
    """Let a process of `scheduler_slice` do its work once, and return how long that took."""
    assert process.stdin is not None and process.stdout is not None
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())


def scheduler_slice(taken: Iterator[float]) -> None:
    """Do the work once for each line that comes in, and print how long it took."""
    for _ in sys.stdin:
        print(next(taken), flush=True)


def command(task: str, value: str | int, model: str, stages: int, times: int) -> list[str]:
    """Return how this script is started for one task."""
    options = {task: value, "--model": model, "--stages": stages, "--heavy": times}
    return [sys.executable, __file__, *(str(part) for option in options.items() for part in option)]


def peak_elsewhere(model: str, stages: int) -> int:
    """Return the most memory that a process of its own takes for a chain."""
    done = subprocess.run(command("--peak", stages, model, stages, 1), stdout=PIPE, text=True, check=True)
    return int(done.stdout)


def peak_bytes(model: str, stages: int) -> int:
    """Make a chain and return the most memory that the process took."""
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name, engine_in(Path(name)) as engine:
        engine.chain(asked(model, stages))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def waiting_ratio(model: str, stages: int = 8) -> float:
    """Return how long 95 of 100 images take at most beside a chain ÷ the median time of one of its clips."""
    begun: dict[int, float] = {}
    clips: list[float] = []

    def note(event: object) -> None:
        if isinstance(event, ChainStageStart):
            begun[event.stage_idx] = perf_counter()
        elif isinstance(event, ChainStageDone) and event.stage_idx in begun:
            clips.append(perf_counter() - begun[event.stage_idx])

    image = GenerateRequest(prompt="a red house", model="flux-nano", seed=1)
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name, engine_in(Path(name)) as engine:
        engine.generate(GenerateRequest(prompt=PROMPTS[0], model=model, frames=CLIP, seed=0))
        engine.generate(image)
        alone = chain_clip_seconds(engine, model)
        chain = Thread(target=engine.run, args=(asked(model, stages), note))
        chain.start()
        waited = []
        while chain.is_alive():
            started = perf_counter()
            engine.generate(image)
            waited.append(perf_counter() - started)
            sleep(0.2)
        chain.join()
    longest = sorted(waited)[int(0.95 * (len(waited) - 1))]
    print(f"{len(waited)} images beside a chain: 95 % within {longest:.2f} s; a clip takes {alone:.2f} s alone, "
          f"{statistics.median(clips):.2f} s beside them", flush=True)  # fmt: skip
    return longest / alone


def chain_clip_seconds(engine: Engine, model: str) -> float:
    """Return how long a clip takes with nothing beside it."""
    started = perf_counter()
    engine.chain(asked(model, 2, seed=77))
    return (perf_counter() - started) / 2


# --- seams -----------------------------------------------------------------------------------------------------------


def unsteadiness(images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each frame how far the thing is from where the two before lead, and by how much brightness jumps."""
    track = see(images).track
    away = np.full(len(track), np.nan)
    away[2:] = np.linalg.norm(track[2:] - 2 * track[1:-1] + track[:-2], axis=1)
    away[away > 0.3] = np.nan  # gone at one side and in again at the other
    light = np.array([np.asarray(image.convert("L"), dtype=np.float32).mean() for image in images])
    return away, np.abs(np.diff(light, prepend=light[0]))


def seam_ratios(model: str, tail: int, stages: int, seeds: int) -> tuple[float, float]:
    """Return position error and brightness jump across seams ÷ within clips."""
    overlap = overlap_frames(tail) if tail else 0
    parts: dict[tuple[str, bool], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="mold-bench-") as name, engine_in(Path(name)) as engine:
        for prompt in PROMPTS:
            for seed in range(seeds):
                answer = engine.chain(asked(model, stages, tail=tail, prompt=prompt, seed=seed))
                images, _, _ = read(answer.video.data)
                seams = {CLIP + index * (CLIP - overlap) for index in range(stages - 1)}
                away, jump = unsteadiness(images)
                for frame in range(2, len(images)):
                    across = frame in seams or frame - 1 in seams
                    if not np.isnan(away[frame]):
                        parts.setdefault(("away", across), []).append(float(away[frame]))
                    parts.setdefault(("jump", frame in seams), []).append(float(jump[frame]))
    away, jump = (
        statistics.fmean(parts[name, True]) / statistics.fmean(parts[name, False]) for name in ("away", "jump")
    )
    return away, jump


WAYS = {"chain": chain_seconds, "clips": clip_seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ltx2-nano")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of a chain and its clips")
    parser.add_argument("--seeds", type=int, default=3, help="chains per prompt whose seams are looked at")
    parser.add_argument("--heavy", type=int, default=HEAVY, help="times that a slower model's clips are rendered")
    parser.add_argument("--times", choices=WAYS, help="only print how long chains, or clips alone, take")
    parser.add_argument("--peak", type=int, help="only print the most memory that a chain of so many clips takes")
    arguments = parser.parse_args()
    if arguments.times:
        scheduler_slice(WAYS[arguments.times](arguments.model, arguments.stages, arguments.heavy))
        return
    if arguments.peak:
        print(peak_bytes(arguments.model, arguments.peak))
        return
    model, stages = arguments.model, arguments.stages
    small, heavy = (time_ratio(model, stages, arguments.rounds, times) for times in (1, arguments.heavy))
    few, many = (peak_elsewhere(model, clips) for clips in (4, 16))
    print(f"a chain of 4 clips took {few / 1e6:.0f} MB, of 16 {many / 1e6:.0f} MB", flush=True)
    seams = {tail: seam_ratios(model, tail, stages, arguments.seeds) for tail in (TAIL, 0)}
    for tail, (away, jump) in seams.items():
        print(f"tail {tail}: position {away:.2f}, brightness {jump:.2f} across seams ÷ within clips", flush=True)
    waiting = waiting_ratio(model)
    report("chain waiting", waiting, 1.0, "an image beside a chain, 95 of 100, ÷ a clip", better="lower")
    report("chain memory", many / few, 1.1, "peak memory of a chain of 16 clips ÷ of 4", better="lower")
    report("chain seam, position", seams[TAIL][0], 1.5, "error across seams ÷ within clips", better="lower")
    report("chain seam, brightness", seams[TAIL][1], 1.5, "jump across seams ÷ within clips", better="lower")
    report("chain of small clips", small, 1.05, "a chain ÷ its clips one after the other", better="lower")
    report("chain", heavy, 1.05, f"the same, clips that take {arguments.heavy} times as long", better="lower")


if __name__ == "__main__":
    main()

"""Ten minutes on a GPU: what must hold there, and how fast it is.

    python benchmarks/gpu/run.py                             eight minutes on the first GPU
    python benchmarks/gpu/run.py --minutes 4                 what fits into four; the next call goes on from there
    python benchmarks/gpu/run.py --device cpu --tiny         the same code on a processor, with tiny networks
    python benchmarks/gpu/run.py --wheels folder             install what is missing from wheels, without a network

Correctness comes first: every kind of weights, streaming, LoRAs, batches, cancelling, running out of memory. Then steps
of full-size FLUX.1 and LTX-2 with random weights are timed, beside diffusers if it is installed. Nothing is
downloaded. Each stage is a process of its own with its own time limit; one that fails or hangs does not keep the
others from running. `results.json` and `results.md` lie in the folder `--out`; stages that are in there already are
not run again, unless `--again` is said.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# Modules that every stage's process finds loaded already. None of them touches a GPU when it is imported.
_PRELOADED = ["torch", "torch._dynamo", "mold_core", "mold_core.weights", "mold_flux.pipeline", "correctness", "speed"]

# Beginning a stage with less time left would only end it.
_LEAST_S = 8.0

# Processors that run the tiny networks may be busy with other things.
_SLOWER = 10


def main() -> None:
    """Run the stages that are left, and write JSON and page; ends with status 1 if one of them failed."""
    wanted = _arguments()
    if wanted.wheels is not None:
        _install(wanted.wheels)
    from result_page import page
    from results import Outcome, Results

    device = _device(wanted.device)
    if device is None:
        print("skipped: this machine has no CUDA device (--device cpu --tiny runs the code on the CPU)")
        return
    wanted.out.mkdir(parents=True, exist_ok=True)
    results = Results.of(wanted.out / "results.json", device, wanted.tiny)
    if wanted.again:
        results.outcomes.clear()
    ends = perf_counter() + 60 * wanted.minutes
    for name in results.remaining():
        left = ends - perf_counter()
        if left < _LEAST_S:
            break
        outcome = Outcome(**_in_process(name, device, wanted.tiny, wanted.out, left))
        results.note(name, outcome)
        print(
            f"{name:<20} {outcome.status:<12} {outcome.seconds:6.1f} s  {outcome.reason}{_line(outcome.figures)}",
            flush=True,
        )
        (wanted.out / "results.md").write_text(page(results), "utf-8")
    unreached = [name for name in results.remaining() if results.outcome(name).status == "not reached"]
    if unreached:
        print(f"not reached: {', '.join(unreached)}; the same command goes on with them")
    failed = [name for name, outcome in results.outcomes.items() if not outcome.over]
    print(f"{wanted.out / 'results.md'} is the page")
    sys.exit(1 if failed else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all stages together")
    parser.add_argument("--device", help="torch's name; the first GPU without it")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: proves the code, not the speed")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of the results")
    parser.add_argument("--again", action="store_true", help="run all stages, whatever is there already")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install what is missing from")
    return parser.parse_args()


def _device(asked: str | None) -> str | None:
    """Return the device to run on; None where there is no GPU and nothing was asked for."""
    if asked is not None:
        return asked
    code = "import torch; print(torch.cuda.is_available())"  # in a process of its own, which keeps no context
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return "cuda:0" if found[-1:] == ["True"] else None


def _install(wheels: Path) -> None:
    """Install mold and what it needs from a folder of wheels and this checkout, without a network."""
    checkout = HERE.parent.parent
    packages = [f"{checkout}[torch]", *map(str, sorted((checkout / "plugins").iterdir()))]
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels), *packages]
    subprocess.run(command, check=True)


def _in_process(name: str, device: str, tiny: bool, out: Path, left_s: float) -> dict[str, Any]:
    """Run a stage in a process of its own and return its outcome's fields."""
    from stages import stage_named

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    limit_s = min(stage_named(name).limit_s * (_SLOWER if tiny else 1), left_s)
    started = perf_counter()
    with tempfile.TemporaryDirectory(prefix="mold-gpu-") as folder:
        answer = Path(folder) / "outcome.json"
        log = out / f"{name.replace(' ', '-')}.log"
        process = context.Process(target=_stage, args=(name, device, tiny, Path(folder), answer, log))
        process.start()
        process.join(limit_s)
        in_time = not process.is_alive()
        _end(process)
        seconds = round(perf_counter() - started, 2)
        if answer.is_file():
            return {**json.loads(answer.read_text("utf-8")), "seconds": seconds}
        if in_time:
            return {
                "status": "failed",
                "reason": f"ended with status {process.exitcode}, see {log}",
                "seconds": seconds,
            }
        return {"status": "out of time", "reason": f"took more than {limit_s:.0f} s", "seconds": seconds}


def _end(process: BaseProcess) -> None:
    """End a stage with all that it started: it leads a group of processes."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()


def _stage(name: str, device: str, tiny: bool, folder: Path, answer: Path, log: Path) -> None:
    """Run a stage and write its outcome; all it says goes to a log."""
    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from stage_setup import Setup, Skipped
    from stages import stage_named

    try:
        figures = stage_named(name).function(Setup(device=device, tiny=tiny, folder=folder))
        outcome = {"status": "passed", "figures": figures}
    except Skipped as reason:
        outcome = {"status": "skipped", "reason": str(reason)}
    except Exception as error:  # whatever a stage raises is what it found
        traceback.print_exc()
        outcome = {"status": "failed", "reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    unfinished = answer.with_suffix(".part")
    unfinished.write_text(json.dumps(outcome, ensure_ascii=False), "utf-8")
    unfinished.rename(answer)


def _line(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )


if __name__ == "__main__":
    main()

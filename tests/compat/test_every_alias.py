"""Each old name of a field, argument, member or verb of mold 0.1 is used once, and leads to what it named."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from mold_core import LoadContext, MemoryPlan, MemoryPolicy, ModelComponent, plan_memory
from mold_core.chains.plan import ClipRules
from mold_core.deprecated import CLIP_RULES, MEMBERS, VerbWorker
from mold_core.jobs.kinds.clip_tasks import EncodeClipTask, RenderClipTask
from mold_core.jobs.kinds.expand import ExpandTask
from mold_core.jobs.kinds.generate import GenerateTask
from mold_core.jobs.kinds.upscale import UpscaleTask
from mold_core.weights import LoraCache, load_weights
from mold_flux.lora_names import FluxNames

ROOT = Path(__file__).parents[2]
COMPONENT = ModelComponent(name="vae", size_bytes=5, device="cpu")
PLAN = MemoryPlan(strategy="eager", components=(COMPONENT,), available_bytes={"cpu": 9}, requested=True)
CONTEXT = LoadContext(
    device="cpu",
    threads=1,
    cache_dir=Path("/nowhere"),
    report=lambda event: None,
    memory_policy=MemoryPolicy(strategy="eager"),
    available_bytes={"cpu": 9},
)


def loaded(**options: Any) -> bool:
    network = torch.nn.Linear(2, 2)
    load_weights(network, network.state_dict(), "a test", **options)
    return True


# (class or function, old name) → what uses the old name, and what uses the new one.
ALIASES: dict[tuple[str, str], tuple[Callable[[], Any], Callable[[], Any]]] = {
    ("LoadContext", "wishes"): (lambda: CONTEXT.wishes, lambda: CONTEXT.memory_policy),  # type: ignore[attr-defined]
    ("LoadContext", "room"): (lambda: CONTEXT.room, lambda: CONTEXT.available_bytes),  # type: ignore[attr-defined]
    ("MemoryPlan", "parts"): (lambda: PLAN.parts, lambda: PLAN.components),  # type: ignore[attr-defined]
    ("MemoryPlan", "part"): (lambda: PLAN.part("vae"), lambda: PLAN.component("vae")),  # type: ignore[attr-defined]
    ("MemoryPlan", "room"): (lambda: PLAN.room, lambda: PLAN.available_bytes),  # type: ignore[attr-defined]
    ("MemoryPlan", "asked"): (lambda: PLAN.asked, lambda: PLAN.requested),  # type: ignore[attr-defined]
    ("LoraCache", "beside"): (
        lambda: LoraCache(FluxNames()).beside.__name__,  # type: ignore[attr-defined]
        lambda: LoraCache(FluxNames()).attached.__name__,
    ),
    ("plan_memory", "parts"): (
        lambda: plan_memory(parts=(COMPONENT,), available_bytes={}),  # type: ignore[call-arg]
        lambda: plan_memory(components=(COMPONENT,), available_bytes={}),
    ),
    ("plan_memory", "room"): (
        lambda: plan_memory((COMPONENT,), room={}),  # type: ignore[call-arg]
        lambda: plan_memory((COMPONENT,), {}),
    ),
    ("plan_memory", "wanted"): (
        lambda: plan_memory((COMPONENT,), {}, wanted="offload"),  # type: ignore[call-arg]
        lambda: plan_memory((COMPONENT,), {}, requested="offload"),
    ),
    ("load_weights", "expand_within_bytes"): (
        lambda: loaded(expand_within_bytes=0),
        lambda: loaded(dequantize_within_bytes=0),
    ),
}

# What test_old_names.py uses, since it needs an engine and a client.
ELSEWHERE = {("Engine", "shelf"), ("Client", "shelf")}


def decorated() -> Iterator[tuple[str, str]]:
    """Yield the class or function, and the old name, of each alias that a decorator declares."""
    for path in (ROOT / "mold_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                for call in node.decorator_list:
                    if isinstance(call, ast.Call) and ast.unparse(call.func) in ("renamed_fields", "renamed_arguments"):
                        yield from ((node.name, str(keyword.arg)) for keyword in call.keywords)


def test_every_alias_is_used() -> None:
    assert set(ALIASES) | ELSEWHERE == set(decorated())


@pytest.mark.parametrize("alias", ALIASES, ids=".".join)
def test_an_old_name_means_the_same_and_warns(alias: tuple[str, str]) -> None:
    old, new = ALIASES[alias]
    with pytest.warns(DeprecationWarning, match=rf"{alias[1]}\b.* is called \w+ since mold 0\.2"):
        found = old()
    assert found == new()


def test_old_fields_are_also_arguments() -> None:
    with pytest.warns(DeprecationWarning, match="argument '.*' of MemoryPlan is called") as warned:
        plan = MemoryPlan(strategy="eager", parts=(COMPONENT,), room={"cpu": 9}, asked=True)  # type: ignore[call-arg]
    assert plan == PLAN
    assert len(warned) == 3
    with pytest.warns(DeprecationWarning, match="'wishes' of LoadContext"):
        context = attrs.evolve(CONTEXT, wishes=MemoryPolicy(strategy="offload"))
    assert context.memory_policy.strategy == "offload"


def test_the_members_of_plugins_are_in_the_old_plugin() -> None:
    source = Path(__file__).with_name("plugin_0_1.py").read_text("utf-8")
    for names in MEMBERS.values():
        assert all(f" {old}" in source for old in names.values())


def test_a_chain_renderer_that_declares_nothing_has_the_clips_of_0_1() -> None:
    class OldRenderer:
        family = "old"

    rules = ClipRules.of(OldRenderer())  # type: ignore[arg-type]
    assert (rules.stride, rules.default, rules.largest) == (8, 97, 97)
    assert set(CLIP_RULES) == {"frame_stride", "default_clip_frames", "max_clip_frames"}


class Recorder:
    """A worker of 0.1, which notes the verbs that are called."""

    def __init__(self) -> None:
        self.device = "cpu"
        self.calls: list[Any] = []

    def __getattr__(self, verb: str) -> Any:
        return lambda *arguments, **options: self.calls.append((verb, arguments, options))


@pytest.mark.parametrize(
    ("task", "verb", "arguments", "options"),
    [
        (GenerateTask(spec="m", requests=["r"]), "generate", ("m", ["r"], "run"), {}),
        (RenderClipTask(spec="m", work="w", meanwhile=["x"]), "render_clip", ("m", "w", "run"), {"beside": ["x"]}),
        (EncodeClipTask(spec="m", work="w"), "encode_clip", ("m", "w", "run"), {}),
        (ExpandTask(request="r"), "expand", ("r", "run"), {}),
        (UpscaleTask(spec="m", request="r"), "upscale", ("m", "r", "run"), {}),
    ],
)
def test_each_task_calls_the_verb_that_it_was(task: Any, verb: str, arguments: Any, options: Any) -> None:
    recorder = Recorder()
    with pytest.warns(DeprecationWarning, match=r"is called run\(task, run\)"):
        worker = VerbWorker(recorder)
    worker.run(task, "run")
    assert recorder.calls == [(verb, arguments, options)]
    worker.device = "cuda:0"
    assert recorder.device == worker.device == "cuda:0"


def test_the_table_of_verbs_is_used_as_a_whole() -> None:
    tasks = (GenerateTask, RenderClipTask, EncodeClipTask, ExpandTask, UpscaleTask)
    assert {task.__name__ for task in tasks} == set(VerbWorker._VERBS)
    with pytest.warns(DeprecationWarning, match="verb"), pytest.raises(TypeError, match="cannot run a str"):
        VerbWorker(Recorder()).run("a new task", "run")

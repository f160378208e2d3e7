"""Members of plugin objects: defaults for what is lacking, and a fault, by name, for what is misspelt or misfits."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from mold_core import ModelFamily, hookimpl, load_plugins
from mold_core.hookspecs import HOOK_API, ChainRenderer, Executor, PromptExpander, UpscalerArchitecture, WeightLoader
from mold_core.plugin_members import completed, member_faults
from mold_core.testing import EchoExpander, FakePlugin, FlipbookRenderer, SketchFamily, sketch_model


class Duck:
    """A family that inherits from nothing and has what is required."""

    name = "duck"
    title = "Duck"
    capabilities = frozenset({"text-to-image"})
    sizes = SketchFamily().sizes
    parameters = ()

    def load(self, spec: Any, files: Any, context: Any) -> Any:
        """Never called here."""


def changed(**members: Any) -> Any:
    """Return a family with other members; those that are None are missing."""
    kept = {name: member for name, member in vars(Duck).items() if not name.startswith("__")}
    return type("Changed", (), {name: member for name, member in {**kept, **members}.items() if member is not None})()


def test_an_object_that_inherits_from_nothing_gets_the_defaults() -> None:
    family, spec = completed(Duck(), ModelFamily), sketch_model(family="duck")
    request: Any = object()
    assert family.resolve_inputs(spec, request) is request
    assert family.sizes_of(spec) is Duck.sizes
    assert family.placement_components == ()
    assert family.batch_key(spec, request) is None
    assert family.name == "duck"


def test_its_own_members_come_before_the_defaults() -> None:
    family = completed(changed(batch_key=lambda self, spec, request: "mine", extra=5), ModelFamily)
    assert family.batch_key(sketch_model(), object()) == "mine"  # type: ignore[arg-type]
    assert family.extra == 5  # type: ignore[attr-defined]


def test_an_object_that_inherits_is_used_as_it_is() -> None:
    family = SketchFamily()
    assert completed(family, ModelFamily) is family
    assert load_plugins(found=(), extra=[("x", FakePlugin(families=[family]))]).families["sketch"] is family


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"chekc": lambda self, spec, request: None}, "chekc is not a member of ModelFamily (did you mean check?)"),
        ({"batchkey": lambda self, a, b: None}, "batchkey is not a member of ModelFamily (did you mean batch_key?)"),
        ({"placement_component": ()}, "placement_component is not a member of ModelFamily (did you mean "),
        (
            {"load": None, "laod": lambda self, a, b, c: None},
            "laod is not a member of ModelFamily (did you mean load?)",
        ),
        ({"check": lambda self, spec: None}, "check(spec) does not take the arguments (spec, request)"),
        ({"check": 5}, "check is not a method: check(spec, request) is expected"),
        ({"load": lambda self, *, spec: None}, "load(spec) does not take the arguments (spec, files, context)"),
        ({"sizes": None}, "sizes is missing, which ModelFamily requires"),
    ],
)
def test_a_faulty_member_is_reported_by_name(members: dict[str, Any], fault: str) -> None:
    (info,) = load_plugins(found=(), extra=[("mine", FakePlugin(families=[changed(**members)]))]).infos
    assert (info.failure or "").startswith(f"family 'duck': {fault}")
    assert info.provides == {"family": ("duck",)}


def test_a_member_that_cannot_be_read_is_reported_and_harms_no_other_plugin() -> None:
    def broken(self: object) -> object:
        raise OSError("disk on fire")

    plugins = load_plugins(
        found=(),
        extra=[
            ("bad", FakePlugin(families=[changed(sizes=property(broken))])),
            ("good", FakePlugin(families=[SketchFamily()])),
        ],
    )
    assert plugins.infos[0].failure == "family 'duck': its members cannot be read: OSError: disk on fire"
    assert "sketch" in plugins.families


@pytest.mark.parametrize(
    "member",
    [
        lambda self, *anything: None,
        lambda self, spec, request, more=1: None,
        lambda self, one, other: None,
    ],
)
def test_arguments_may_have_other_names_and_more_may_follow(member: Callable[..., None]) -> None:
    assert member_faults(changed(check=member), ModelFamily) == []


@pytest.mark.parametrize(
    ("item", "protocol"),
    [
        (SketchFamily(), ModelFamily),
        (FlipbookRenderer(), ChainRenderer),
        (EchoExpander(), PromptExpander),
    ],
)
def test_the_fakes_have_no_faults(item: object, protocol: type) -> None:
    assert member_faults(item, protocol) == []


def test_installed_plugins_have_no_faults() -> None:
    plugins = load_plugins()
    assert [(info.name, info.failure) for info in plugins.infos if info.failure] == []
    for kind, protocol in (
        ("mold_families", ModelFamily),
        ("mold_upscalers", UpscalerArchitecture),
        ("mold_expanders", PromptExpander),
        ("mold_chain_renderers", ChainRenderer),
        ("mold_loaders", WeightLoader),
        ("mold_executors", Executor),
    ):
        for item in plugins.items[kind].values():
            assert protocol in type(item).__mro__, f"{item!r} inherits from {protocol.__name__}"


def plugin_for(api: object) -> ModuleType:
    """Return a plugin that states the versions of the hooks it was made for."""

    @hookimpl
    def mold_families() -> list[ModelFamily]:
        return [SketchFamily()]

    module = ModuleType("plugin")
    vars(module).update(mold_families=mold_families, MOLD_HOOK_API=api)
    return module


@pytest.mark.parametrize("api", [(1, 1), (1, HOOK_API), (HOOK_API, HOOK_API), (HOOK_API, HOOK_API + 5)])
def test_a_plugin_whose_versions_overlap_is_loaded(api: object) -> None:
    plugins = load_plugins(found=(), extra=[("mine", plugin_for(api))])
    assert (plugins.infos[0].failure, set(plugins.families)) == (None, {"sketch"})


@pytest.mark.parametrize(
    ("api", "failure"),
    [
        ((3, 4), "requires hook API 3 or later, and this mold has 2: pip install -U mold-core"),
        ((0, 0), "requires hook API 0 or earlier, and this mold needs 1: install a newer version"),
        (2, "MOLD_HOOK_API is 2; it must be the first and the last version, such as (1, 2)"),
        ((2, 1), "MOLD_HOOK_API is (2, 1); it must be the first and the last version, such as (1, 2)"),
    ],
)
def test_a_plugin_that_does_not_fit_is_listed_with_one_line(api: object, failure: str) -> None:
    plugins = load_plugins(found=(), extra=[("mine", plugin_for(api))])
    assert (plugins.infos[0].failure, plugins.families) == (failure, {})

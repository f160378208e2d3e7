"""The public names are listed once, exist, and are documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import UnionType

import pytest

import mold_core

PACKAGES = [
    "mold_core.catalog",
    "mold_core.chains",
    "mold_core.client",
    "mold_core.engine",
    "mold_core.errors",
    "mold_core.families",
    "mold_core.files",
    "mold_core.gallery",
    "mold_core.home",
    "mold_core.hookspecs",
    "mold_core.media",
    "mold_core.plugins",
    "mold_core.settings",
    "mold_core.testing",
    "mold_core.weights",
    "mold_core.wire",
]
MODULES = [name for _, name, _ in pkgutil.walk_packages(mold_core.__path__, "mold_core.") if "__main__" not in name]


def type_checking_imports() -> dict[str, list[str]]:
    """Return module → names of the imports that type checkers see in mold_core/__init__.py."""
    tree = ast.parse(Path(mold_core.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        node.module or "": [alias.name for alias in node.names]
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }


def test_what_type_checkers_see_is_what_is_imported_at_run_time() -> None:
    assert type_checking_imports() == {module: list(names) for module, names in mold_core._HOMES.items()}


def test_the_list_of_names_is_whole() -> None:
    names = [name for names in mold_core._HOMES.values() for name in names]
    assert sorted(mold_core.__all__) == sorted(["__version__", *names])
    assert dir(mold_core) == sorted(mold_core.__all__)


@pytest.mark.parametrize("name", mold_core.__all__)
def test_a_public_name_exists_and_is_documented(name: str) -> None:
    thing = getattr(mold_core, name)
    if isinstance(thing, type) or inspect.isfunction(thing):
        assert (thing.__doc__ or "").strip(), name
    else:
        assert isinstance(thing, str | UnionType) or name == "hookimpl"


def test_a_name_that_is_not_public_is_refused_as_usual() -> None:
    with pytest.raises(AttributeError, match="module 'mold_core' has no attribute 'Manager'"):
        _ = mold_core.Manager


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_exports_names_that_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), name


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for_in_one_line(name: str) -> None:
    first = (importlib.import_module(name).__doc__ or "").partition("\n")[0]
    assert first, name


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_in_a_module_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if getattr(thing, "__module__", None) != name or not (isinstance(thing, type) or inspect.isfunction(thing)):
            continue
        assert (thing.__doc__ or "").strip(), public
        for method, function in vars(thing).items() if isinstance(thing, type) else ():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert (function.__doc__ or "").strip(), f"{public}.{method}"

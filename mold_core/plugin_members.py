"""Checks that an object of a plugin has the members of its protocol, and adds defaults for missing optional ones."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast

from mold_core.deprecated import MEMBERS, warn_renamed

__all__ = ["completed", "member_faults"]

_Protocol = TypeVar("_Protocol")


def completed(item: object, protocol: type[_Protocol]) -> _Protocol:
    """Return an object with every optional member of a protocol: its own, one with an old name, or the default.

    An object that inherits from the protocol, or has all members, is returned as it is.
    """
    if not _renamed_members(item, protocol) and all(hasattr(item, name) for name in _members(protocol)):
        return cast(_Protocol, item)
    for new, old in _renamed_members(item, protocol).items():
        warn_renamed(f"{type(item).__name__}.{old}", new)
    return cast(_Protocol, _Completed(item, protocol))


def member_faults(item: object, protocol: type) -> list[str]:
    """Return what is wrong with the members of an object: required ones missing, names misspelt, wrong arguments."""
    renamed = _renamed_members(item, protocol)
    lacking = {name for name in _members(protocol) if _is_default(item, name, protocol)} - renamed.keys()
    own = [name for name in dir(item) if not name.startswith("_") and name not in _members(protocol)]
    misspelt = dict(_misspelt(own, lacking, set(renamed.values())))
    faults = [
        f"{name} is not a member of {protocol.__name__} (did you mean {near}?)" for name, near in misspelt.items()
    ]
    missing = sorted(lacking & _required(protocol) - set(misspelt.values()))
    faults += [f"{name} is missing, which {protocol.__name__} requires" for name in missing]
    for name in sorted(_members(protocol) - lacking):
        fault = _signature_fault(item, renamed.get(name, name), getattr(protocol, name, None))
        faults += [fault] if fault else []
    return faults


class _Completed:
    """An object of a plugin, with the defaults of a protocol for the members that it lacks."""

    __slots__ = ("_item", "_protocol")

    def __init__(self, item: object, protocol: type) -> None:
        object.__setattr__(self, "_item", item)
        object.__setattr__(self, "_protocol", protocol)

    def __getattr__(self, name: str) -> Any:
        item, protocol = self._item, self._protocol
        old = _renamed_members(item, protocol).get(name)
        if old is not None or hasattr(item, name):
            return getattr(item, old or name)
        default = inspect.getattr_static(protocol, name, None)
        if isinstance(default, property) and default.fget is not None:
            return default.fget(self)
        if isinstance(default, FunctionType) and name not in _required(protocol):
            return MethodType(default, self)
        return getattr(item if name in _required(protocol) or default is None else protocol, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._item, name, value)

    def __repr__(self) -> str:
        return repr(self._item)


def _members(protocol: type) -> frozenset[str]:
    """Return the names of the members of a protocol."""
    names = {*vars(protocol), *getattr(protocol, "__annotations__", {})}
    return frozenset(name for name in names if not name.startswith("_"))


def _required(protocol: type) -> frozenset[str]:
    """Return the names of the members without a default."""
    abstract: frozenset[str] = getattr(protocol, "__abstractmethods__", frozenset())
    return abstract | {name for name in _members(protocol) if not hasattr(protocol, name)}


def _renamed_members(item: object, protocol: type) -> dict[str, str]:
    """Return new → old name of the members that an object has only under their old names."""
    old_names = MEMBERS.get(protocol.__name__, {})
    return {new: old for new, old in old_names.items() if _is_default(item, new, protocol) and hasattr(type(item), old)}


def _is_default(item: object, name: str, protocol: type) -> bool:
    """Return whether an object has no member of that name, or only the default."""
    if not hasattr(item, name):
        return True
    return name in vars(protocol) and inspect.getattr_static(item, name, None) is vars(protocol)[name]


def _misspelt(names: Iterable[str], lacking: set[str], known: set[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        near = difflib.get_close_matches(name, lacking, n=1, cutoff=0.75)
        if near and name not in known:
            yield name, near[0]


def _signature_fault(item: object, name: str, expected: Any) -> str | None:
    if not isinstance(expected, FunctionType):
        return None
    wanted = [parameter for parameter in inspect.signature(expected).parameters if parameter != "self"]
    member = getattr(item, name)
    if not callable(member):
        return f"{name} is not a method: {name}({', '.join(wanted)}) is expected"
    try:
        signature = inspect.signature(member)
    except (TypeError, ValueError):  # a C function without a signature
        return None
    try:
        signature.bind(*wanted)
    except TypeError:
        given = ", ".join(str(parameter).partition(":")[0] for parameter in signature.parameters.values())
        return f"{name}({given}) does not take the arguments ({', '.join(wanted)})"
    return None

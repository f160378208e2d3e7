"""What ties the class of a request to the class of its result, for type checkers.

``class GenerateRequest(Request["GenerateResponse"])`` lets `Engine.submit`, `run` and `stream` and their like return
what this request gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with a default, which the standard library has since Python 3.13

    Result = TypeVar("Result", covariant=True, default=Any)
else:
    from typing import TypeVar

    Result = TypeVar("Result", covariant=True)

__all__ = ["Request", "Result"]


class Request(Generic[Result]):
    """A request whose result is of one class."""

    __slots__ = ()

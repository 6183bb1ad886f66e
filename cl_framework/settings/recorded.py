"""Recorded constructor arguments of objects, from which a config makes them again. Needs no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

_PLACE = "_made_with"
_Made = TypeVar("_Made", bound="Recorded")


class _Arguments:
    """Arguments of one construction, outside of the object's attributes."""

    __slots__ = ("_named", "_positional")

    def __init__(self, positional: Sequence[Any], named: Mapping[str, Any]) -> None:
        self._positional, self._named = positional, named

    def of(self, kind: type) -> dict[str, Any]:
        takes = inspect.signature(kind.__init__)  # type: ignore[misc]  # the very class, no instance
        given = takes.bind(None, *self._positional, **self._named).arguments
        _, *names = takes.parameters.values()
        arguments: dict[str, Any] = {}
        for p in names:
            if p.kind is p.VAR_KEYWORD:
                arguments |= given.get(p.name, {})
            elif p.name in given:
                arguments[p.name] = given[p.name]
        return arguments


class _Signature:
    """The signature of a class, read from its ``__init__``; `Recorded.__new__` would hide it."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        whole = inspect.signature(owner.__init__)  # type: ignore[misc]  # the very class, no instance
        return whole.replace(parameters=list(whole.parameters.values())[1:])


class Recorded:
    """Base of all classes that a config can name: objects keep their constructor arguments."""

    __signature__ = _Signature()

    def __new__(cls: type[_Made], *args: Any, **kwargs: Any) -> _Made:
        """Store the arguments before ``__init__`` checks them."""
        instance = super().__new__(cls)
        instance.__dict__[_PLACE] = _Arguments(args, kwargs)
        return instance


def arguments(instance: Recorded) -> dict[str, Any]:
    """Return the arguments that an object was made with, by name; defaults that were not given are left out.

    >>> class Mine(Recorded):
    ...     def __init__(self, width: int, depth: int = 2) -> None:
    ...         pass
    >>> arguments(Mine(3)), arguments(Mine(3, depth=1))
    ({'width': 3}, {'width': 3, 'depth': 1})
    """
    kept: _Arguments = instance.__dict__[_PLACE]
    return kept.of(type(instance))

"""Tensors filed by class and experience, so that they can be erased by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from cl_framework.memory.erasure import Erasure

COUNT = "count"
"""Name of the entry with the number of samples behind the others."""

PRISTINE = "pristine"
"""Name of an entry that was measured on the backbone without adapters."""


class Key(NamedTuple):
    """Where a tensor is filed: the class and the experience it came from, and a name among its like."""

    cls: int | None = None
    experience: str | None = None
    name: str = ""


@final
class TensorStore(nn.Module):
    """Tensors by key; saved and moved like buffers, but their number may change.

    >>> old, new = TensorStore(), TensorStore()
    >>> old[Key(cls=3, experience="task-0")] = torch.ones(2)
    >>> _ = new.load_state_dict(old.state_dict())
    >>> new[Key(3, "task-0")]
    tensor([1., 1.])
    >>> new.erase(Erasure(classes=frozenset({3})))
    >>> len(new)
    0

    Attributes:
        version: Increases with every change, so that what is derived from the tensor store knows when to be derived
            again.
    """

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.version = 0
        self._stacked: dict[object, Tensor] = {}
        self.register_load_state_dict_pre_hook(self._grow_to_match)  # type: ignore[no-untyped-call]

    def __getitem__(self, entry: Key) -> Tensor:
        """Return the tensor under ``entry``."""
        if entry not in self:
            raise KeyError(f"Nothing is filed under {entry}; the tensor store holds {list(self)[:20]}.")
        tensor: Tensor = self.get_buffer(_spell(entry))
        return tensor

    def stacked(self, classes: tuple[int, ...], experience: str | None = None) -> Tensor:
        """Return the tensors ``(classes, ...)`` filed under each class, stacked once until something changes."""
        key = classes, experience
        if key not in self._stacked:
            self._stacked[key] = torch.stack([self[Key(c, experience)] for c in classes])
        return self._stacked[key]

    def __setitem__(self, entry: Key, value: Tensor) -> None:
        """Store a tensor, detached from any graph."""
        self._changed()
        self.register_buffer(_spell(entry), value.detach().clone())

    def __delitem__(self, entry: Key) -> None:
        """Erase a tensor."""
        self._changed()
        delattr(self, _spell(entry))

    def __contains__(self, entry: object) -> bool:
        """Tell whether something is filed under ``entry``."""
        return isinstance(entry, Key) and _spell(entry) in self._buffers

    def __iter__(self) -> Iterator[Key]:
        """Iterate over entries, oldest first."""
        return map(_parse, list(self._buffers))

    def named(self) -> Iterator[tuple[str, Key]]:
        """Iterate over entries with the name of each in the state."""
        return ((name, _parse(name)) for name in list(self._buffers))

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._buffers)

    def erase(self, erasure: Erasure) -> None:
        """Erase whatever the erased classes and experiences left here."""
        for entry in list(self):
            if erasure.hits(entry.cls, entry.experience):
                del self[entry]

    def _changed(self) -> None:
        self.version += 1
        self._stacked.clear()  # what leaves the tensor store leaves memory

    def _apply(self, fn: Any, recurse: bool = True) -> TensorStore:
        self._changed()  # another device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _grow_to_match(self, _: nn.Module, state: Mapping[str, Any], prefix: str, *__: object) -> None:
        """Create the entries of the tensors to be loaded, in their shapes."""
        self._changed()
        self._buffers.clear()
        for key, value in state.items():
            if key.startswith(prefix):
                self.register_buffer(key[len(prefix) :], torch.empty_like(value))


def key_of(tensor: str) -> Key:
    """Return where a tensor is filed, from its name in a state.

    >>> key_of("strategy.prototypes.|3|task-0")
    Key(cls=3, experience='task-0', name='')
    """
    return _parse(tensor.rpartition(".")[2])


def _spell(entry: Key) -> str:
    cls = "" if entry.cls is None else str(entry.cls)
    return f"{entry.name}|{cls}|{(entry.experience or '').replace('.', '·')}"


def _parse(key: str) -> Key:
    name, cls, experience = key.split("|", 2)
    return Key(int(cls) if cls else None, experience.replace("·", ".") or None, name)

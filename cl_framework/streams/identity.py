"""Register of class names: the id of each name while a stream is resolved. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import final

from cl_framework.errors import UserError
from cl_framework.streams.identifiers import KEYED, keyed_digest, spoken


@final
class Register:
    """What each class id is called, and which classes are alive; an id is never given twice.

    >>> register = Register(["cat", "dog"])
    >>> register.learned([0, 1], "task-0")
    >>> register.ids_for(["dog", "fox"], "more-0-task-0")
    [1, 2]
    >>> register.forgotten([1])
    >>> register.ids_for(["dog"], "more-1-task-0"), register.names
    ([3], ['cat', 'dog', 'fox', 'dog'])

    Args:
        names: What the ids are called that a scenario gives by itself.
        hide: What stands for a name once its class is forgotten, as far as that can be told.

    Attributes:
        names: What each id is called.
        alive: Ids of the classes that live now, oldest first.
    """

    def __init__(self, names: Sequence[str], hide: Callable[[str], Iterable[str]] = lambda name: ()) -> None:
        """Start with classes of which none was learned yet."""
        self.names, self.alive, self._hide = list(names), list[int](), hide
        self._ever = set[int]()

    def copy(self, hide: Callable[[str], Iterable[str]]) -> Register:
        """Return a register that knows the same and goes on by itself.

        Args:
            hide: What stands for a name once its class is forgotten, in place of what did so far.
        """
        register = Register(self.names, hide)
        register.alive, register._ever = [*self.alive], {*self._ever}
        return register

    def ids_for(self, names: Iterable[str], experience: str) -> list[int]:
        """Return the id of each class that an experience brings by name.

        A class that is alive is the same class; a name that no class has borne yet takes the id that was set aside for
        it; a new name, and that of a forgotten class, gets a new id.

        Raises:
            UserError: If several live classes bear a name.
        """
        return [self._id_for(name, experience) for name in names]

    def _id_for(self, name: str, experience: str) -> int:
        same = [c for c in self.alive if self.names[c] == name]
        if len(same) > 1:
            raise UserError(
                f"{experience!r} brings class {name!r}, and {spoken(same)} are both called so; forget one of them by "
                "its id, or bring it under another name with --as_new PREFIX."
            )
        unused = [c for c, n in enumerate(self.names) if n == name and c not in self._ever]
        if not (same or unused):
            self.names.append(name)
            unused = [len(self.names) - 1]
        return (same or unused)[0]

    def given(self, ids: Sequence[int], names: Sequence[str], experience: str) -> list[int]:
        """Take up ids that an experience's classes were given when it was asked for, whatever they are called now.

        Raises:
            UserError: If there cannot be such ids.
        """
        for c, name in zip(ids, names, strict=False):
            self.names += [name] if c == len(self.names) else []
        if len(ids) != len(names) or not all(0 <= c < len(self.names) for c in ids):
            raise UserError(f"The run's record of {experience!r} gives ids that no class has; restore it from a copy.")
        return list(ids)

    def before(self, classes: Collection[int]) -> dict[int, int]:
        """Return those of the new ``classes`` whose name a forgotten class bore, and the id that it had last."""
        old = {self.names[c]: c for c in sorted(self._ever.difference(self.alive)) if self.names[c]}
        borne, earlier = {self.names[c] for c in self.alive}, {}
        for c in classes:
            name = self.names[c]
            same = [old[n] for n in (name, *self._hide(name)) if n in old]
            if same and c not in self._ever and name not in borne:
                earlier[c] = max(same)
        return earlier

    def learned(self, classes: Iterable[int], experience: str, unique: bool = True) -> None:
        """Note that an experience brought classes.

        Raises:
            UserError: If two live classes now have one name and must not.
        """
        self.alive = list(dict.fromkeys([*self.alive, *classes]))
        self._ever.update(self.alive)
        by: dict[str, int] = {}
        for c in self.alive if unique else ():
            if self.names[c] and (other := by.setdefault(self.names[c], c)) != c:
                raise UserError(
                    f"After {experience!r} {spoken([other, c])} would both be called {self.names[c]!r}, and a class is "
                    "its name: give one of them another name in the data."
                )

    def forgotten(self, classes: Collection[int]) -> None:
        """Note that a request took classes."""
        self.alive = [c for c in self.alive if c not in classes]


def hidden_as(name: str, key: bytes | None, prefixes: Iterable[str] = ()) -> list[str]:
    """Return what stands for a class's name where a run has forgotten the class, under its key.

    >>> [len(spelling) for spelling in hidden_as("lab-cat", b"k", ["lab-", "x"])]
    [38, 42]

    Args:
        name: The name.
        key: The run's key; without it nothing can be told.
        prefixes: What stands before names of classes that were learned as new ones.
    """
    if key is None:
        return []
    own = [p for p in ("", *prefixes) if name.startswith(p)]
    return [prefix + KEYED + keyed_digest(key, "class", name.removeprefix(prefix)) for prefix in own]

"""A class is its name: which id each name has while a stream is walked. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import final

from cl_framework.errors import UserError


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

    Attributes:
        names: What each id is called.
        alive: Ids of the classes that live now, oldest first.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Start with classes of which none was learned yet."""
        self.names, self.alive = list(names), list[int]()
        self._ever = set[int]()

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

    def before(self, classes: Collection[int]) -> dict[int, int]:
        """Return those of the new ``classes`` whose name a forgotten class bore, and the id that it had last."""
        old = {self.names[c]: c for c in sorted(self._ever.difference(self.alive))}
        borne = {self.names[c] for c in self.alive}
        names = {c: self.names[c] for c in classes if c not in self._ever}
        return {c: old[name] for c, name in names.items() if name in old and name not in borne}

    def learned(self, classes: Iterable[int], experience: str, unique: bool = True) -> None:
        """Note that an experience brought classes.

        Raises:
            UserError: If two live classes now bear one name and must not.
        """
        self.alive = list(dict.fromkeys([*self.alive, *classes]))
        self._ever.update(self.alive)
        by: dict[str, int] = {}
        for c in self.alive if unique else ():
            if (other := by.setdefault(self.names[c], c)) != c:
                raise UserError(
                    f"After {experience!r} {spoken([other, c])} would both be called {self.names[c]!r}, and a class is "
                    "its name: give one of them another name in the data."
                )

    def forgotten(self, classes: Collection[int]) -> None:
        """Note that a request took classes."""
        self.alive = [c for c in self.alive if c not in classes]


def spoken(ids: Iterable[int]) -> str:
    """Return class ids as a person types them.

    >>> spoken([3, 9])
    'id:3 and id:9'
    """
    return " and ".join(f"id:{c}" for c in ids)

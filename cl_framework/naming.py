"""From what a person writes to ids: classes by id or name, samples by id, by file, or by keyed hash.

A run keeps no sample id that a request named: it writes ``keyed:<hash>`` instead, under its own key, and finds the
sample again by hashing those there are.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from cl_framework.errors import UserError, did_you_mean

KEYED = "keyed:"


def class_ids(asked: Iterable[int | str], names: Sequence[str]) -> list[int]:
    """Resolve class names, or ids as numbers or text; a name wins over the id it looks like.

    >>> class_ids(["cat", "1", 0], ["dog", "cat"])
    [1, 1, 0]

    Raises:
        UserError: If there is no such class.
    """
    found, places = [], {name: i for i, name in reversed(list(enumerate(names)))}
    for a in asked:
        if isinstance(a, str) and a in places:
            found.append(places[a])
        elif str(a).isdecimal() and int(a) < len(names):
            found.append(int(a))
        else:
            raise UserError(f"There is no class {a!r}. {did_you_mean(str(a), names)}")
    return found


def sample_ids(asked: str | Iterable[int | str], there: Collection[int] = (), key: bytes | None = None) -> list[int]:
    """Resolve sample ids, given as a file of them or one by one; keyed hashes are looked for among those ``there``.

    Args:
        asked: Path of a text file of ids separated by spaces, commas or line ends; or ids and keyed hashes.
        there: The ids that a keyed hash may stand for.
        key: The key that the hashes were made with.

    Raises:
        UserError: If the file is missing, something is no id, or hashes are given without their key.
    """
    words = _words(asked) if isinstance(asked, str) else list(asked)
    hidden = {w.removeprefix(KEYED) for w in words if isinstance(w, str) and w.startswith(KEYED)}
    plain = [w for w in words if not (isinstance(w, str) and w.startswith(KEYED))]
    if wrong := [w for w in plain if not str(w).isdecimal()]:
        where = asked if isinstance(asked, str) else "The request"
        raise UserError(f"{where} holds {str(wrong[0])!r} among the sample ids; write whole numbers only.")
    if hidden and key is None:
        raise UserError("These sample ids are hidden under a run's key; only that run can read them.")
    return [int(w) for w in plain] + ([i for i in there if digest(key, "sample", i) in hidden] if key else [])


def hide(ids: Iterable[int], key: bytes) -> list[str]:
    """Return what stands for sample ids where they must not be readable.

    >>> hidden = hide([7], b"k")
    >>> sample_ids(hidden, [5, 6, 7], b"k"), "7" in hidden
    ([7], False)
    """
    return [KEYED + digest(key, "sample", i) for i in sorted(ids)]


def digest(key: bytes, kind: str, name: object) -> str:
    """Return half of an HMAC-SHA-256, which is plenty to tell names apart."""
    return hmac.new(key, f"{kind}:{name}".encode(), "sha256").hexdigest()[:32]


def _words(path: str) -> list[int | str]:
    try:
        return list(Path(path).expanduser().read_text(encoding="utf-8").replace(",", " ").split())
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"Cannot read sample ids from {path} ({e}); give a text file of numbers.") from e

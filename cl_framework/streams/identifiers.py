"""Ids from what a user types: classes by id or name, samples by id, by file, or by keyed hash.

A run keeps no sample id that a request named: it writes ``keyed:<hash>`` instead, under its own key, and finds the
sample again by hashing those there are.
"""

from __future__ import annotations

import hmac
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings.ranges import LARGEST
from cl_framework.terminal.safe_text import printable

KEYED = "keyed:"


def class_ids(
    asked: Iterable[int | str],
    names: Sequence[str],
    alive: Collection[int] = (),
    hide: Callable[[str], Iterable[str]] = lambda name: (),
) -> list[int]:
    """Resolve classes: a number is an id, a word a name before anything else, ``id:2`` an id.

    A word of digits that is no name is an id, too, unless a class has such a word for its name.

    >>> class_ids(["cat", "1", 0, "id:1"], ["dog", "cat"])
    [1, 1, 0, 1]
    >>> class_ids(["2", "id:2"], ["0", "1", "10", "2"])
    [3, 2]
    >>> class_ids(["cat"], ["cat", "dog", "cat"], alive=[1, 2])
    [2]

    Args:
        asked: Names and ids.
        names: Name of each class id. A class learned again has the name of the forgotten one.
        alive: Ids that a name stands for first; without one that lives it stands for the newest, or the first if none
            is given.
        hide: The name shown for a forgotten class.

    Raises:
        UserError: If there is no such class, or a word may mean several.
    """
    by: dict[str, list[int]] = {}
    for c, name in enumerate(names):
        by.setdefault(name, []).append(c)
    return [a if type(a) is int and 0 <= a < len(names) else _class_id(str(a), by, names, alive, hide) for a in asked]


def _class_id(
    word: str,
    by: Mapping[str, Sequence[int]],
    names: Sequence[str],
    alive: Collection[int],
    hide: Callable[[str], Iterable[str]],
) -> int:
    same = [c for name in dict.fromkeys((word, *hide(word))) for c in by.get(name, ())]
    living = [c for c in same if c in alive]
    if len(living) > 1:
        raise UserError(
            f"{word!r} is the name of {len(living)} classes: {spoken(living)}; write which of them is meant."
        )
    if same:
        return living[0] if living else max(same) if alive else min(same)
    number = word.removeprefix("id:")
    if number.isdecimal() and int(number) < len(names):
        if number == word and any(name.isdecimal() for name in names):
            raise UserError(
                f"No class is called {word!r}, and classes here have numbers for names; write id:{word} for "
                f"{called(int(word), names)}, or the name of another class."
            )
        return int(number)
    raise UserError(f"There is no class {word!r}. {did_you_mean(word, [n for n in names if n and KEYED not in n])}")


def spoken(ids: Iterable[int]) -> str:
    """Return class ids as a person types them.

    >>> spoken([3, 9])
    'id:3 and id:9'
    """
    return " and ".join(f"id:{c}" for c in ids)


def called(cls: int, names: Sequence[str]) -> str:
    """Return the words for a class in messages: its name, if it has one, and its id.

    >>> called(1, ["dog", "cat"]), called(0, ["keyed:0f"]), called(5, [])
    ('cat (id:1)', 'id:0', 'id:5')
    """
    name = names[cls] if cls < len(names) else ""
    return f"{printable(name)} (id:{cls})" if name and KEYED not in name else f"id:{cls}"


def as_typed(cls: int, names: Sequence[str], alive: Collection[int] = ()) -> str:
    """Return the word that means a class on a command line: its name, quoted where a shell needs that, or its id.

    >>> as_typed(3, ["0", "1", "10", "2"]), as_typed(0, ["guinea pig"]), as_typed(0, ["-x"])
    ('2', "'guinea pig'", 'id:0')
    """
    name = names[cls] if cls < len(names) else ""
    plain = name and name == printable(name) and KEYED not in name and not name.startswith("-")
    return shlex.quote(name) if plain and [c for c in alive if names[c] == name] in ([], [cls]) else f"id:{cls}"


def sample_ids(asked: str | Iterable[int | str], known: Collection[int] = (), key: bytes | None = None) -> list[int]:
    """Resolve sample ids, given as a file of them or one by one; keyed hashes are looked for among those ``known``.

    Args:
        asked: Path of a text file of ids separated by spaces, commas or line ends; or ids and keyed hashes.
        known: The ids that a keyed hash may stand for.
        key: The key that the hashes were made with.

    Raises:
        UserError: If the file is missing, something is no id, or hashes are given without their key.
    """
    words = _words(asked) if isinstance(asked, str) else list(asked)
    hidden = {w.removeprefix(KEYED) for w in words if isinstance(w, str) and w.startswith(KEYED)}
    plain = [w for w in words if not (isinstance(w, str) and w.startswith(KEYED))]
    if wrong := [w for w in plain if not (str(w).isdecimal() and int(w) < LARGEST)]:
        where = asked if isinstance(asked, str) else "The request"
        raise UserError(f"{where} holds {str(wrong[0])!r} among the sample ids; write whole numbers only.")
    if hidden and key is None:
        raise UserError("These sample ids are hidden under a run's key; only that run can read them.")
    unhidden = [i for i in known if keyed_digest(key, "sample", i) in hidden] if key and hidden else []
    return [int(w) for w in plain] + unhidden


def hide(ids: Iterable[int], key: bytes) -> list[str]:
    """Return keyed hashes in place of sample ids.

    >>> hidden = hide([7], b"k")
    >>> sample_ids(hidden, [5, 6, 7], b"k"), "7" in hidden
    ([7], False)
    """
    return [KEYED + keyed_digest(key, "sample", i) for i in sorted(ids)]


def concealed(config: str, names: Sequence[str], key: bytes) -> str:
    r"""Return a config, as YAML, in which forget requests tell classes by id and samples by keyed hash.

    A request is a mapping that says ``after`` (or ``forget_after``), and ``classes`` or ``samples``.

    >>> concealed("requests: [{after: 1, classes: [cat]}]", ["dog", "cat"], b"k")
    'requests:\n- after: 1\n  classes:\n  - 1\n'
    >>> concealed("requests: [{after: 1, samples: [4711]}]", [], b"k").count("keyed:")
    1

    Args:
        config: The config.
        names: What each class id is called.
        key: The run's key.
    """
    import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

    settings = yaml.safe_load(config)
    hidden = _concealed(settings, names, key)
    return config if hidden == settings else str(yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True))


def _concealed(node: Any, names: Sequence[str], key: bytes) -> Any:
    if isinstance(node, list):
        return [_concealed(n, names, key) for n in node]
    if not isinstance(node, dict):
        return node
    if not {"after", "forget_after"} & node.keys() or not {"classes", "samples"} & node.keys():
        return {k: _concealed(v, names, key) for k, v in node.items()}
    shown = dict(node)
    if node.get("classes"):
        shown["classes"] = class_ids(node["classes"], names)
    if node.get("samples"):
        shown["samples"] = _hidden_again(node["samples"], key)
    return shown


def _hidden_again(samples: str | Iterable[int | str], key: bytes) -> list[str]:
    """Hash the ids that are not hashed yet."""
    words = _words(samples) if isinstance(samples, str) else list(samples)
    already = [w for w in words if isinstance(w, str) and w.startswith(KEYED)]
    return already + hide(sample_ids([w for w in words if w not in already]), key)


def keyed_digest(key: bytes, kind: str, name: object) -> str:
    """Return half of an HMAC-SHA-256, which suffices to tell names apart."""
    return hmac.new(key, f"{kind}:{name}".encode(), "sha256").hexdigest()[:32]


def _words(path: str) -> list[int | str]:
    try:
        return list(Path(path).expanduser().read_text(encoding="utf-8").replace(",", " ").split())
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"Cannot read sample ids from {path} ({e}); give a text file of numbers.") from e

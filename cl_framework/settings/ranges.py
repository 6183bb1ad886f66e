"""Ranges of the numbers of a config. A setting has one range wherever it occurs.

Other numbers must be finite, and integers fit 64 bits. All errors are reported at once, before anything runs. Nothing
heavy is imported.
"""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from cl_framework.threads import MOST_THREADS

from cl_framework.errors import UserError
from cl_framework.settings.recorded import Recorded, arguments


@dataclass(frozen=True, slots=True)
class Range:
    """Range of a setting.

    Attributes:
        says: The range in words, after "must be".
        low: The least number.
        high: The greatest number.
        above: Whether ``low`` itself is excluded.
        below: Whether ``high`` itself is excluded.
        also: Numbers outside that have a meaning of their own.
    """

    says: str
    low: float = 0.0
    high: float = math.inf
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()

    def takes(self, value: float) -> bool:
        """Tell whether ``value`` is in range."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return value in self.also or (low and high)


_COUNT = Range("at least 1", 1)
NONE_OR_MORE = Range("at least 0")
ABOVE = Range("above 0", above=True)
SEED = Range("from 0 to 4294967295", high=2**32 - 1)
SHARE = Range("from 0 to 1", high=1)
_LIMIT = Range("a share above 0 and up to 1, or a whole number of batches", above=True)
_WORDS = {
    _COUNT: "width rank tokens size length batch batch_size expansion draws group horizon noises copies increment "
    "times window image_size max_tokens devices num_nodes accumulate_grad_batches log_every_n_steps",
    NONE_OR_MORE: "r epochs align_epochs later_epochs warmup noise_steps impair repair ascents refinements per_class "
    "lr align_lr weight_decay align_decay weight weight_l2 strength gradient_clip_val cache toward contrast pull "
    "push preserve diversify shrinkage identity patience alpha beta gamma gamma1 gamma2 slow balance",
    ABOVE: "temperature ridge eps top tukey lora_alpha features_limit largest",
    SHARE: "share dropout lora_dropout shrink threshold threshold_end label_smoothing",
    Range("at least 0 and below 1", high=1, below=True): "momentum validation",
    SEED: "order_seed",
    Range(f"from 1 to {MOST_THREADS}", 1, MOST_THREADS): "threads",
}
BY_WORD = {word: range_ for range_, words in _WORDS.items() for word in words.split()}
BY_PLACE = {
    "seed_everything": SEED,
    "trainer.max_epochs": _COUNT,
    "trainer.max_steps": Range("at least 1, or -1 for no limit", 1, also=(-1,)),
    "trainer.limit_train_batches": _LIMIT,
    "trainer.overfit_batches": Range(
        "0: it reads other samples than a plan names; trainer.limit_train_batches makes a run short", high=0
    ),
}
"""Settings with another meaning in a section."""
NEEDED = {"trainer.max_epochs"}
"""Settings that have to be numbers: without this one training never ends."""
LARGEST = 2**63
"""The first whole number that no sample id and no tensor size can be."""


def check_numbers(config: Mapping[str, Any], where: str = "") -> None:
    """Require that every number in a config is in its range.

    Args:
        config: Nested mappings and lists; other values are ignored.
        where: Prefix of every setting's name.

    Raises:
        UserError: If some are not, naming all of them.
    """
    if wrong := list(_faults(config, where)):
        count = f"{len(wrong)} settings are out of range: " if len(wrong) > 1 else ""
        raise UserError(f"{count}{'; '.join(wrong)}.")


def check_parts(parts: Mapping[str, object]) -> None:
    """Require the same of objects built in Python, for settings that they store.

    Raises:
        UserError: If a number is not in its range.
    """
    for role, part in parts.items():
        _check_kinds(f"{role} {type(part).__name__}", part)
    check_numbers({f"{role} {type(part).__name__}": settings_of(part) for role, part in parts.items()})


def _check_kinds(where: str, part: object) -> None:
    """Refuse a word where a part takes a number, and a fraction where it takes a whole one."""
    takes = inspect.signature(type(part).__init__).parameters
    for name, value in arguments(part).items() if isinstance(part, Recorded) else ():
        kind = getattr(takes.get(name), "annotation", None)
        if (kind in ("int", "float") and isinstance(value, str)) or (kind == "int" and isinstance(value, float)):
            article = "whole number" if kind == "int" else "number"
            raise UserError(f"{where}.{name} must be a {article}; found {value!r}.")


def settings_of(part: object) -> dict[str, Any]:
    """Return an object's settings by name, as far as it or a part of it stores them."""
    names = [p for p in inspect.signature(type(part).__init__).parameters if p != "self"]
    own = getattr(part, "__dict__", {})
    parts = [*own.values(), *own.get("_modules", {}).values()]
    settings = {n: getattr(p, n) for p in reversed([part, *parts]) for n in names if hasattr(p, n)}
    for held in parts:
        settings |= asdict(held) if is_dataclass(held) and not isinstance(held, type) else {}
    return {n: v if isinstance(v, bool | int | float | str | None) else str(v) for n, v in settings.items()}


def fault(place: str, value: object) -> str | None:
    """Return the problem of a setting's value; None if it is valid.

    >>> fault("model.adapter.width", 0), fault("model.adapter.width", 4)
    ('model.adapter.width must be at least 1; found 0', None)
    >>> fault("model.optimizer.lr", float("nan"))
    'model.optimizer.lr must be a finite number; found nan'
    """
    if value is None and place in NEEDED:
        return f"{place} must be {BY_PLACE[place].says}; found null"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return f"{place} must be a finite number; found {value}"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return f"{place} must be below 2^63; found {value}"
    kind = range_of(place)
    return None if kind is None or kind.takes(value) else f"{place} must be {kind.says}; found {value}"


def range_of(place: str) -> Range | None:
    """Return the range of a setting's numbers; None if every finite number will do."""
    return BY_PLACE.get(place) or BY_WORD.get(place.rpartition(".")[2].partition("[")[0])


def count(text: str) -> int:
    """Read a count of at least 1 from a command line.

    >>> count("3")
    3

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value < LARGEST:
        raise argparse.ArgumentTypeError(f"it must be a whole number of at least 1; found {text}")
    return value


def _faults(node: Any, place: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _faults(value, place if key == "init_args" else f"{place}.{key}".lstrip("."))
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        for i, value in enumerate(node):
            yield from _faults(value, f"{place}[{i}]")
    elif sentence := fault(place, node):
        yield sentence

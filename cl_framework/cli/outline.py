"""Summary of a forget request: the forget set, the treatment of artifacts by kind, and the cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cl_framework.engine.sample_index import ids_of, pooled
from cl_framework.evaluation import staying
from cl_framework.runs.forget_plan import Case, ForgetEffect

ORDER = ("delete", "retrain", "subtract", "edit", "rewrite", "redact", "keep")
"""Words for actions, largest change first."""
_SHOWN = 6
"""Most classes that are named; further ones are counted."""


def outline(case: Case, planned: Sequence[ForgetEffect], called: Callable[[int], str] = str) -> list[tuple[str, str]]:
    """Return the lines: a heading each, with its text.

    Args:
        case: The request.
        planned: Treatment of every artifact.
        called: Returns the name of a class.
    """
    classes = _number(len(case.event.classes), "class") if case.event.classes else "no class as a whole"
    tested = f", {_number(len(ids_of(case.tested)), 'test sample')}" if case.tested else ""
    names = [called(c) for c in case.event.classes]
    which = f": {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}" if names else ""
    lines = [("goes", f"{classes}, {_number(len(ids_of(case.taken)), 'training sample')}{tested}{which}")]
    if case.event.stays:
        lines.append(("stays", staying.staying_sentence(case.event.stays, called)))
    for action in ORDER:
        kinds: dict[str, int] = {}
        some = [f.treatment.artifact for f in planned if f.treatment.action == action]
        for a in some:
            kinds[a.kind] = kinds.get(a.kind, 0) + a.count
        size = sum(a.bytes for a in some)
        if counts := ", ".join(f"{kind} ({n:,})" for kind, n in kinds.items() if n):
            lines.append((action, counts + (f": {_number(size, 'byte')}" if size else "")))
    return [*lines, ("cost", cost(case, planned))]


def cost(case: Case, planned: Sequence[ForgetEffect]) -> str:
    """Say what is learned or trained, and from how many samples."""
    left = sum(len(e.data) for e in case.event.remaining)
    if case.unlearner.acts in ("edit", "stack"):
        read = {"forget": _number(len(ids_of(case.taken)), "sample"), "retain": _number(left, "sample")}
        return "an edit is trained; it may read " + " and ".join(
            f"{read[need]} to {need}" for need in sorted(case.unlearner.needs)
        )
    again = pooled(f.made for f in planned if f.treatment.action == "retrain")
    remain = {cell: ids - case.taken.get(cell, frozenset()) for cell, ids in again.items()}
    remain = {cell: ids & case.now.alive.get(cell, frozenset()) for cell, ids in remain.items()}
    if not any(remain.values()):
        return "nothing is learned again"
    experiences = len({experience for (experience, _), ids in remain.items() if ids})
    return f"{_number(experiences, 'experience')} learned again, from {_number(len(ids_of(remain)), 'sample')}"


def _number(n: int, noun: str) -> str:
    """Return a number and its noun.

    >>> _number(1, "class"), _number(1200, "class"), _number(0, "byte")
    ('1 class', '1,200 classes', '0 bytes')
    """
    return f"{n:,} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"

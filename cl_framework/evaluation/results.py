"""Results as a value: the dictionary that docs/results.md documents, and its files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from cl_framework.evaluation.measurements import Measurements
from cl_framework.metrics import continual
from cl_framework.metrics.cost import total_cost
from cl_framework.metrics.unlearning import erosion_staying, h_mean, relapse_max_later, spillover_exams
from cl_framework.storage import files
from cl_framework.storage.typed_records import typed

_SCHEMA = 1
GONE = "(forgotten)"
"""What stands in the results for the name of a forgotten class."""
LENIENT = ("top_5", "within_experience", "experience")
"""Other rules by which a prediction counts as right."""


class EventResult(msgspec.Struct, frozen=True):
    """One event of a run: its measurements and its cost.

    Attributes:
        measurements: The measurements after it.
        seconds: Wall time of carrying it out and examining it.
        trainable_parameters: Most parameters that were trained at once.
        steps: Optimiser steps.
        passes_train: Images sent through the backbone while training.
        passes_statistics: The same, for prototypes and other statistics.
        passes_evaluate: The same, for exams.
        peak_memory_bytes: Highest memory in use.
        stored_bytes: What the learner holds beyond the frozen backbone after it.
        features_found: Features that other runs had left in a shared store, hence passes that were not made.
    """

    measurements: Measurements = msgspec.field(name="marks")  # as files of all versions call them
    seconds: float
    trainable_parameters: int
    steps: int
    passes_train: int
    passes_statistics: int
    passes_evaluate: int
    peak_memory_bytes: int
    stored_bytes: int
    features_found: int = 0

    @property
    def cost(self) -> dict[str, Any]:
        """Every number but the measurements, by name."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "measurements"}

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"marks": self.measurements.to_dict(), **self.cost}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], place: Path | str = "The record of an event") -> EventResult:
        """Return the record that `to_dict` was given.

        Args:
            data: The decoded JSON.
            place: The file it was in, for the message.

        Raises:
            UserError: If a field is missing or of another type.
        """
        return typed(data, cls, place)


def results(
    strategy: str,
    exams: Sequence[tuple[str, Sequence[int]]],
    records: Sequence[EventResult],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Compute everything that `docs/results.md` lists.

    Args:
        strategy: Name of the method.
        exams: Name and classes of each experience learned so far, in order.
        records: One per event, in order.
        class_names: Name of each class id.
    """
    days = [r.measurements for r in records]
    matrix = [[continual.micro_accuracy(d.exams.get(name, {}).values()) for name, _ in exams] for d in days]
    curve = [continual.micro_accuracy(d.hits.values()) for d in days]
    hits = days[-1].hits if days else {}
    selection = [d.selected and continual.micro_accuracy([d.selected]) for d in days]
    ages = _newest_and_earlier(days)
    return {
        "schema": _SCHEMA,
        "strategy": strategy,
        "events": [_event(r) for r in records],
        "exams": [{"name": name, "classes": list(classes)} for name, classes in exams],
        "class_names": {str(c): class_names[c] for c in sorted({c for _, classes in exams for c in classes})},
        "accuracy_matrix": matrix,
        "curve": curve,
        "average_incremental_accuracy": continual.average_incremental_accuracy(curve),
        "final_accuracy": continual.final_accuracy(curve),
        "mean_class_accuracy": continual.mean_class_accuracy(hits.values()),
        "forgetting_max_past": continual.forgetting_max_past(matrix),
        "forgetting_max_all": continual.forgetting_max_all(matrix),
        "forgetting_diag": continual.forgetting_diag(matrix),
        "backward_transfer": continual.backward_transfer(matrix),
        "plasticity": continual.plasticity(matrix),
        "per_class_accuracy": {str(c): continual.micro_accuracy([hits[c]] if c in hits else []) for c in _alive(days)},
        "adapter_selection_accuracy": selection if any(d.selected for d in days) else None,
        "newest_accuracy": [newest for newest, _ in ages],
        "earlier_accuracy": [earlier for _, earlier in ages],
        **{f"{rule}_accuracy": _leniently(days, rule) for rule in LENIENT},
        "overlap": _overlap(days),
        "forget": [_forget(i, days, curve[i], r.seconds) for i, r in enumerate(records) if r.measurements.forget],
        "cost": total_cost([r.cost for r in records]),
    }


def run_report(strategy: str, records: Sequence[EventResult], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the results of a run; forgotten classes have no name in them.

    Args:
        strategy: Name of the method.
        records: One per event, in order.
        class_names: What each class id is called.
    """
    learned, gone = [], set[int]()
    for day in (r.measurements for r in records):
        learned += [(day.event, day.classes)] if day.kind == "learn" else []
        gone = gone - set(day.classes) if day.kind == "learn" else gone | set(day.classes)
    names = [GONE if c in gone else name for c, name in enumerate(class_names)]
    return results(strategy, learned, records, names)


def _alive(days: Sequence[Measurements]) -> list[int]:
    """Return the classes learned and not forgotten, tested or not."""
    alive: set[int] = set()
    for day in days:
        alive = alive | set(day.classes) if day.kind == "learn" else alive - set(day.classes)
    return sorted(alive | (days[-1].hits.keys() if days else set()))


def _newest_and_earlier(days: Sequence[Measurements]) -> list[tuple[float | None, float | None]]:
    """Return, after each event, the accuracy on the exam learned last and on all earlier ones, pooled."""
    newest, accuracies = "", []
    for day in days:
        newest = day.event if day.kind == "learn" else newest
        new = day.exams.get(newest, {}).values()
        old = [hits for name, exam in day.exams.items() if name != newest for hits in exam.values()]
        accuracies.append((continual.micro_accuracy(new), continual.micro_accuracy(old)))
    return accuracies


def _leniently(days: Sequence[Measurements], rule: str) -> list[float | None] | None:
    """Return the accuracy over all live classes after each event by another rule; None where it was not counted."""
    totals = [sum(total for _, total in day.hits.values()) for day in days]
    hits = [(day.lenient.get(rule), total) for day, total in zip(days, totals, strict=True)]
    shares = [None if right is None else continual.micro_accuracy([(right, total)]) for right, total in hits]
    return shares if any(rule in day.lenient for day in days) else None


def _overlap(days: Sequence[Measurements]) -> dict[str, Any] | None:
    """Return how far the subspaces of adapters meet, pair by pair and on average; None without a pair."""
    pairs: dict[tuple[str, str], tuple[float, float]] = {}
    for day in days:
        if day.kind == "forget":  # adapters may have gone or changed, and all pairs were measured anew
            pairs = {}
        pairs |= {(old, new): met for new, row in day.overlap.items() for old, met in row.items()}
    if not pairs:
        return None
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    overlap: dict[str, Any] = {"adapters": names}
    for i, side in enumerate(("input", "output")):
        met = {frozenset(pair): value[i] for pair, value in pairs.items()}
        overlap[side] = [[met.get(frozenset((a, b))) for b in names] for a in names]
        overlap[f"mean_{side}"] = fmean(met.values())
    return overlap


def _event(record: EventResult) -> dict[str, Any]:
    day = record.measurements
    back = {"relearned": {str(new): old for new, old in day.relearned.items()}} if day.kind == "learn" else {}
    return {"name": day.event, "kind": day.kind, "classes": list(day.classes), **back, **record.cost}


def _forget(i: int, days: Sequence[Measurements], retain: float | None, seconds: float) -> dict[str, Any]:
    """Return the effect of request ``i``, right after it and after later events.

    Where every class stayed, a right answer about a forgotten sample is no trace of it: what is weighed against it (H)
    or asked of it later (relapse) has no meaning, and is None.
    """
    name, forgotten, before_it = days[i].event, days[i].forget, days[i - 1] if i else None
    assert forgotten is not None
    before, after, pristine = forgotten.accuracy_before, forgotten.accuracy_after, _before_any(i, days)
    single = not days[i].classes
    asked = {d.event: continual.micro_accuracy([d.old[name]]) for d in days[i + 1 :] if name in d.old and not single}
    later = {event: accuracy for event, accuracy in asked.items() if accuracy is not None}
    relapse = relapse_max_later(after, list(later.values()))
    spilled = spillover_exams(before_it.exams, days[i].exams) if before_it else {}

    def h(then: float | None) -> float | None:
        return None if single or retain is None or then is None or after is None else h_mean(retain, then, after)

    return {
        "event": name,
        "samples": forgotten.samples,
        "went": forgotten.went,
        "stays": {str(c): list(experiences) for c, experiences in forgotten.stays.items()},
        "accuracy_forget": after,
        "accuracy_forget_before": before,
        "accuracy_forget_before_any": pristine,
        "accuracy_unseen": forgotten.unseen,
        "accuracy_retain": retain,
        "accuracy_old": forgotten.accuracy_old,
        "h_mean": h(before),
        "h_mean_pre": h(pristine),
        "relapse": relapse,
        "relapse_event": None if relapse is None else max(later, key=lambda e: later[e]),
        "erosion": erosion_staying(before_it.cells, days[i].cells) if before_it else None,
        "spillover": fmean(spilled.values()) if spilled else None,
        "spillover_exams": spilled,
        "seconds": seconds,
        "notes": forgotten.notes,
    }


def _before_any(i: int, days: Sequence[Measurements]) -> float | None:
    """Return the accuracy on the classes of request ``i`` as it was before any request since each was learned."""
    hits: dict[int, continual.Hits] = {}
    settled: set[int] = set()
    for day in days[:i]:
        if day.kind == "forget":
            settled |= hits.keys()
        else:
            hits |= {c: h for c, h in day.hits.items() if c in days[i].classes and c not in settled}
    return continual.micro_accuracy(hits.values())


def write_results(results: Mapping[str, Any], directory: Path) -> Path:
    """Write results.json, results.csv and the figure, each atomically; return the figure's path.

    Raises:
        ValueError: If a number is not finite.
    """
    from cl_framework.evaluation.plots import accuracy_figure  # matplotlib takes a second to import

    figure = directory / "figures" / "accuracy.png"
    files.make(figure.parent)
    files.replace(directory / "results.json", as_json(results).encode())
    files.replace(directory / "results.csv", as_csv(results).encode())
    files.replace(figure, accuracy_figure(results))
    return figure


def as_json(results: Mapping[str, Any]) -> str:
    """Return valid JSON, laid out for reading: one line for each event, exam and row of the matrix."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    def rows(value: Any) -> str:
        nested = isinstance(value, list) and value and isinstance(value[0], list | dict)
        return "[\n    " + ",\n    ".join(map(text, value)) + "\n  ]" if nested else text(value)

    return "{\n" + ",\n".join(f"  {text(key)}: {rows(value)}" for key, value in results.items()) + "\n}\n"


def as_csv(results: Mapping[str, Any]) -> str:
    """Return one line per event and exam; the accuracy is empty where the matrix holds None."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["event", "kind", "exam", "accuracy", "curve"])
    for event, row, overall in zip(results["events"], results["accuracy_matrix"], results["curve"], strict=True):
        for exam, accuracy in zip(results["exams"], row, strict=True):
            writer.writerow([_cell(event["name"]), event["kind"], _cell(exam["name"]), accuracy, overall])
    return out.getvalue()


def _cell(name: str) -> str:
    """Return a name as spreadsheets show it: after an apostrophe where they would compute it.

    >>> _cell("task-0"), _cell("=cmd()")
    ('task-0', "'=cmd()")
    """
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name

"""`clf plan-forget`: the effect of a request on every artifact of a run, without carrying it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from cl_framework.cli.outline import outline
from cl_framework.engine.lineage import Artifact
from cl_framework.engine.sample_index import Contents, ids_of, pooled
from cl_framework.runs import copies
from cl_framework.runs.forget_plan import Case, ForgetEffect
from cl_framework.runs.open_run import OpenRun
from cl_framework.streams.identifiers import called
from cl_framework.terminal import grid
from cl_framework.terminal.safe_text import printable

STYLES = {"keep": "dim", "delete": "red", "retrain": "yellow", "edit": "yellow", "subtract": "green"}


def print_plan(run: OpenRun, console: Console, each: bool = False) -> None:
    """Print the effect in a line for each action.

    Args:
        run: In the state before the last step of its timeline, which is the request.
        console: Where to print.
        each: Also print artifacts of one kind and fate on a line each, with what went into them and why.
    """
    case, names = Case(run.directory, run.learner, run.steps), run.timeline.class_names
    planned = _all(case)
    policy = "exact" if case.unlearner.exact else "approximate"
    head = f"{case.event.name} with {type(case.unlearner).__name__} ({policy}): what would be done; nothing is done yet"
    for sentence in copies.of_request(run.directory, case.step).told:
        console.print(Text(printable(sentence), "yellow"), soft_wrap=True)
    rows: list[grid.Row] = [
        ((word, STYLES.get(word, "cyan")), words) for word, words in outline(case, planned, lambda c: called(c, names))
    ]
    grid.print_table(console, (), rows, texts=2, title=printable(head))
    if each:
        heads = ("action", "artifact", "made from", "why", "that go", "bytes")
        grid.print_table(console, heads, _rows(case, planned, names), texts=4, title="artifact by artifact")
    else:
        console.print(Text("--all shows every artifact, what went into it, and why", "dim"), soft_wrap=True)


def _rows(case: Case, planned: Sequence[ForgetEffect], names: Sequence[str]) -> list[grid.Row]:
    """Return artifacts of one kind and fate on one row."""
    alike: dict[tuple[str, str, str], list[ForgetEffect]] = {}
    for f in planned:
        alike.setdefault((f.treatment.artifact.kind, f.treatment.action, f.treatment.why), []).append(f)
    rows: list[grid.Row] = []
    for (kind, action, why), some in alike.items():
        size, style = sum(f.treatment.artifact.bytes for f in some), STYLES.get(action, "cyan")
        trained, examined = (pooled(parts) for parts in zip(*((f.made, f.examined) for f in some), strict=True))
        rows.append(
            (
                (action, style),
                _called(kind, [_artifact(f.treatment.artifact, names) for f in some]),
                "\n".join(
                    [*_made_from(trained, "samples", case, names), *_made_from(examined, "test samples", case, names)]
                ),
                why,
                _counted(len(_both(trained, case.taken)), len(_both(examined, case.tested))),
                f"{size:,}" if size else "",
            )
        )
    return rows


def plan_as_json(run: OpenRun, ids: bool = False) -> dict[str, Any]:
    """Return the same for a program, artifact by artifact; samples are counted, and named only if ``ids``."""
    case, names = Case(run.directory, run.learner, run.steps), run.timeline.class_names
    return {
        "request": case.event.name,
        "unlearner": type(case.unlearner).__name__,
        "policy": "exact" if case.unlearner.exact else "approximate",
        "classes": list(case.event.classes),
        "class_names": {str(c): names[c] for c in run.learner.model.classes},
        "samples": len(ids_of(case.taken)),
        "stays": {str(c): list(experiences) for c, experiences in case.event.stays.items()},
        "test_samples": len(ids_of(case.tested)),
        **copies.of_request(run.directory, case.step).as_json(),
        "artifacts": [_told(f, case, ids) for f in _all(case)],
    }


def _all(case: Case) -> list[ForgetEffect]:
    return [*case.in_learner(), *case.in_store(), *case.in_files()]


def _told(f: ForgetEffect, case: Case, ids: bool) -> dict[str, Any]:
    a, trained, examined = f.treatment.artifact, ids_of(f.made), ids_of(f.examined)
    before = ids_of(pooled(case.now.taken.values()))
    return {
        "kind": a.kind,
        "name": a.name,
        "action": f.treatment.action,
        "why": f.treatment.why,
        "bytes": a.bytes,
        "samples": len(trained),
        "samples_that_go": len(_both(f.made, case.taken)),
        "samples_forgotten_before": len(trained & before),
        "test_samples": len(examined),
        "test_samples_that_go": len(_both(f.examined, case.tested)),
        "made_from": _by_experience(f.made, ids),
        "examined_on": _by_experience(f.examined, ids),
    }


def _by_experience(contents: Contents, ids: bool) -> dict[str, dict[str, int | list[int]]]:
    by_experience: dict[str, dict[str, int | list[int]]] = {}
    for (experience, c), some in sorted(contents.items()):
        by_experience.setdefault(experience, {})[str(c)] = sorted(some) if ids else len(some)
    return by_experience


def _both(contents: Contents, gone: Contents) -> frozenset[int]:
    return ids_of(contents) & ids_of(gone)


def _counted(trained: int, tested: int) -> str:
    return "\n".join([*([f"{trained:,}"] if trained else []), *([f"{tested:,} test"] if tested else [])])


def _called(kind: str, names: Sequence[str]) -> str:
    return f"{kind} {', '.join(map(printable, names[:3]))}" + (f", ... ({len(names)})" if len(names) > 3 else "")


def _artifact(a: Artifact, names: Sequence[str]) -> str:
    """Return the name of an artifact, with its class by name."""
    return a.name if a.cls is None else a.name.replace(str(a.cls), called(a.cls, names), 1)


def _made_from(contents: Contents, unit: str, case: Case, names: Sequence[str]) -> list[str]:
    """Return a line for each experience, four at most, and how many samples had been forgotten before."""
    by: dict[str, dict[int, frozenset[int]]] = {}
    for (experience, c), ids in contents.items():
        by.setdefault(experience, {})[c] = ids
    lines = [
        f"{printable(e)}: {_few(sorted(classes), names)} ({sum(map(len, classes.values())):,} {unit})"
        for e, classes in by.items()
    ]
    more = [f"... {len(lines)} experiences, {len(ids_of(contents)):,} {unit}"] if len(lines) > 4 else []
    old = len(_both(contents, pooled(case.now.taken.values()))) if unit == "samples" else 0
    return lines[:4] + more + ([f"{old:,} of them forgotten before"] if old else [])


def _few(classes: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(called(c, names) for c in classes[:6]) + (" ..." if len(classes) > 6 else "")

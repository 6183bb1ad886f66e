"""`clf plan-forget`: what a request would do to every artifact of a run, without doing it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cl_framework.learner import Learner
from cl_framework.lineage import Artifact, Treatment, treatments
from cl_framework.run import Run
from cl_framework.stream import ForgetRequest

STYLES = {"keep": "dim", "delete": "red", "retrain": "yellow", "edit": "yellow", "subtract": "green"}


def plan(run: Run, learner: Learner, event: ForgetRequest) -> list[Treatment]:
    """Resolve a request against what a learner holds and what its run directory keeps.

    Raises:
        UserError: If the unlearner cannot honour the request.
    """
    inside = treatments(learner, event, learner.able(event))
    return [*inside, *_features(learner, event, inside), *_files(run, learner, inside)]


def show(run: Run, learner: Learner, event: ForgetRequest, console: Console) -> None:
    """Print what would be done, artifacts of one kind and fate on one line."""
    title = f"{event.name} with {type(learner.unlearner).__name__}: what would be done; nothing is done yet"
    table = Table(title=title, title_justify="left")
    for head in ("artifact", "made from", "bytes", "action", "why"):
        table.add_column(head, justify="right" if head == "bytes" else "left")
    alike: dict[tuple[str, str, str], list[Artifact]] = {}
    for t in plan(run, learner, event):
        alike.setdefault((t.artifact.kind, t.action, t.why), []).append(t.artifact)
    for (kind, action, why), some in alike.items():
        size, style = sum(a.bytes for a in some), STYLES.get(action, "cyan")
        table.add_row(
            _called(kind, some), _made_from(some), f"{size:,}" if size else "", f"[{style}]{action}[/{style}]", why
        )
    console.print(table)


def _features(learner: Learner, event: ForgetRequest, inside: Sequence[Treatment]) -> list[Treatment]:
    """What becomes of stored features: rows of samples that go are deleted, those under a changed adapter all."""
    store, size = learner.model.store, learner.model.backbone.width * 4
    changed = [
        t.artifact.name
        for t in inside
        if (t.artifact.kind == "adapter" and t.action != "keep") or (t.artifact.kind == "edit" and t.action == "delete")
    ]
    why = "measured with an adapter that changes or goes; measured again where they are needed"
    fates = (
        (sum(store.count(p.key, p.ids) for p in event.reference.sources), "of samples that go"),
        (sum(store.rows_of(d) for d in learner.model.digests(changed)), why),
    )
    found = [
        Treatment(Artifact("stored features", f"{n} rows", (), bytes=n * size), "delete", why) for n, why in fates if n
    ]
    return found or [Treatment(Artifact("stored features", "all", ()), "keep", "none is of a sample that goes")]


def _files(run: Run, learner: Learner, inside: Sequence[Treatment]) -> list[Treatment]:
    """What becomes of the files of a run: earlier checkpoints lose what is replaced, results lose names."""
    changed = {n for t in inside if t.action != "keep" for n in t.artifact.tensors}
    found = [
        Treatment(Artifact("derived", name, ()), "rewrite", "never stored: worked out again from what is left")
        for name in learner.strategy.derived
    ]
    for e in run.events():
        hit = sorted(changed & e.tensors.keys())
        artifact = Artifact("checkpoint", e.folder, tuple(hit), bytes=e.files[e.data]["bytes"])
        why = "tensors that are deleted or replaced are taken out" if hit else "holds nothing that changes"
        found.append(Treatment(artifact, "rewrite" if hit else "keep", why))
    for kind, name, action, why in (
        ("results", "results.json results.csv", "redact", "names of forgotten classes go; numbers stay, by class id"),
        ("figures", "figures/", "rewrite", "drawn again from the new results"),
        ("event metrics", "metrics.json", "keep", "counts by class id; no names, no sample ids"),
        ("config", "config.yaml", "keep", "requests in it hold class ids and keyed hashes only"),
        ("receipts", "receipts.jsonl", "keep", "one line is added; keyed hashes, no names"),
        ("logs", "trainer loggers", "keep", "losses by step; no names, no sample ids"),
    ):
        found.append(Treatment(Artifact(kind, name, ()), action, why))  # type: ignore[arg-type]
    return found


def _called(kind: str, some: Sequence[Artifact]) -> str:
    names = ", ".join(a.name for a in some[:3])
    return f"{kind} {names}" + (f", ... ({len(some)})" if len(some) > 3 else "")


def _made_from(some: Sequence[Artifact]) -> str:
    origins: dict[str, set[int]] = {}
    for a in some:
        for experience, classes in a.origin.items():
            origins.setdefault(experience, set()).update(classes)
    shown = [f"{e}: {', '.join(map(str, sorted(c)[:6]))}{' ...' if len(c) > 6 else ''}" for e, c in origins.items()]
    return "\n".join(shown[:4] + ([f"... {len(shown)} experiences"] if len(shown) > 4 else []))

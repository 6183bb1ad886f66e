"""Probes beyond the head: on features, with the old head rows restored, and by relearning.

The representation of a model is what its features are under each adapter alone, side by side, each scaled to length 1:
under every adapter of the bank with the stack of edits on top, or the backbone with its stack where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cl_framework.auditing.attacks import Measured, probabilities, right
from cl_framework.auditing.subjects import Subject, few, join_samples
from cl_framework.engine.learner import Learner
from cl_framework.memory.tensor_store import TensorStore
from cl_framework.metrics import recovery
from cl_framework.metrics.membership import Floats
from cl_framework.models.model import Model, Using
from cl_framework.streams.samples import Samples, Subset

STEPS, BATCH, ASKED = 30, 16, 100
"""Steps of relearning, samples of each side in a step, and about how many are tested in between."""
ASK_AFTER = frozenset({*range(11), 15, 20, 25, STEPS})
RELEARN_STEPS = (1, 5, 10)
"""Steps after which relearning is reported."""
SCALE = 10.0
"""Scale of cosines when relearning begins."""

PROBES = ("probe_ridge_accuracy", "ncm_1_accuracy", "ncm_5_accuracy", "ncm_all_accuracy", "knn_5_accuracy")


def spaces(model: Model) -> list[Using]:
    """Return the adapters of each block of the representation."""
    return [*model.adapters.learned] or [()]


@torch.no_grad()
def represent(model: Model, samples: Samples) -> Floats:
    """Return the representation ``(n, blocks * width)``, read from the feature store where known."""
    blocks = [normalize(model.embed(samples, using)[0].double(), dim=1).cpu() for using in spaces(model)]
    return torch.cat(blocks, 1).numpy()


def probes(model: Model, about: Subject) -> Measured:
    """Return accuracies of probes on the forgotten classes; None throughout if only samples were forgotten."""
    exam = about.unseen.of(about.vanished)
    if not len(exam):
        return dict.fromkeys(PROBES)
    train = join_samples([about.retained, few(about.gone.of(about.vanished))])
    given = represent(model, train), train.labels.numpy(), represent(model, exam), exam.labels.numpy()
    accuracies: list[float | None] = [recovery.ridge_probe_accuracy(*given)]
    accuracies += [recovery.ncm_accuracy(*given, k=k) for k in (1, 5, None)]
    return dict(zip(PROBES, [*accuracies, recovery.knn_accuracy(*given)], strict=True))


def accuracy_with_rows_back(
    learner: Learner, about: Subject, original: Mapping[str, Tensor], knew: Mapping[int, str]
) -> float | None:
    """Return the accuracy on unseen samples of the forgotten classes with the original's head rows restored.

    Changes ``learner``: head rows and stored prototypes of those classes come from the ``original`` model.

    Args:
        learner: A copy to change.
        about: What is audited.
        original: The original's tensors, as `checkpoint.tensors` names them.
        knew: Its classes and their experiences.

    Returns:
        None where nothing can be restored: only samples were forgotten, or stored state was computed with an adapter
        that has changed.
    """
    lost = [c for c in about.vanished if c in knew]
    if not lost or learner.strategy.isolates == "experience" or learner.strategy.trains_first_only:
        return None
    source = TensorStore()
    for name, part in learner.named_modules():
        if isinstance(part, TensorStore):
            start = f"{name}."
            source.load_state_dict({k.removeprefix(start): v for k, v in original.items() if k.startswith(start)})
            for entry in [e for e in source if e.cls in lost and e not in part]:
                part[entry] = source[entry].to(learner.model.device)
    model = learner.model
    rows = original["model.head.rows"].tolist()
    if missing := [c for c in lost if c in rows and c not in model.head.classes]:
        model.head.grow(missing)
        model.head.to(model.device)
        names = {"weight", "bias", "sigma"}
        classifier = {n: original[f"model.head.{n}"] for n in names if f"model.head.{n}" in original}
        model.head.adopt({c: rows.index(c) for c in missing}, classifier)
    for c in lost:
        model.know(knew[c], [c])
    exam = about.unseen.of(lost)
    return right(learner, probabilities(learner, exam), exam)


def relearn(learner: Learner, about: Subject, seed: int) -> dict[int, float]:
    """Learn the forget set again; return steps -> accuracy on it, 0 being before the first step.

    Changes ``learner``. A new head over the representation starts from the retained classes' means, with the mean of
    those for every vanished class; head and adapters then follow Adam on batches of as many forgotten as retained
    training samples. It does not depend on the model's own head.

    Args:
        learner: A copy to change.
        about: What is audited.
        seed: Of the order of the batches.
    """
    model, gone, retained = learner.model, about.gone, about.retained
    classes = sorted({*gone.labels.tolist(), *retained.labels.tolist()})
    asked = few(gone, max(1, ASKED // len(set(gone.labels.tolist()))))
    head = _first_head(model, retained, classes)
    adapters = list(model.adapters.parameters())
    model.adapters.eval()
    model.adapters.requires_grad_(True)
    groups = [{"params": [head.weight], "lr": 0.03}, *([{"params": adapters, "lr": 0.001}] if adapters else [])]
    adam, rng = torch.optim.Adam(groups), torch.Generator().manual_seed(seed)
    curve = {0: _taught(model, head, asked, classes)}
    for step in range(1, STEPS + 1):
        batch = _batch([gone, retained], rng)
        columns = torch.tensor([classes.index(c) for c in batch.labels.tolist()], device=model.device)
        loss = cross_entropy(head(_blocks(model, batch)), columns)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if step in ASK_AFTER:
            curve[step] = _taught(model, head, asked, classes)
    return curve


def _first_head(model: Model, retained: Samples, classes: Sequence[int]) -> nn.Linear:
    z = represent(model, retained) if len(retained) else np.zeros((0, model.backbone.width * len(spaces(model))))
    known = sorted(set(retained.labels.tolist()))
    means: dict[int, Floats] = {c: recovery.unit(z[retained.labels.numpy() == c].mean(0)[None])[0] for c in known}
    neutral: Floats = np.stack(list(means.values())).mean(0) if means else np.zeros(z.shape[1])
    head = nn.Linear(z.shape[1], len(classes), bias=False).to(model.device)
    rows = np.stack([means.get(c, neutral) for c in classes])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(SCALE * rows))
    return head


def _batch(sides: Sequence[Samples], rng: torch.Generator) -> Samples:
    return join_samples(Subset(s, torch.randint(len(s), (BATCH,), generator=rng)) for s in sides if len(s))


def _blocks(model: Model, samples: Samples) -> Tensor:
    """Return the representation as it is now, with gradients; where no adapter can change it, from the store."""
    if not list(model.adapters):
        return torch.from_numpy(represent(model, samples)).float().to(model.device)
    x = samples[list(range(len(samples)))].x.to(model.device)
    return torch.cat([normalize(model.features(x, using), dim=1) for using in spaces(model)], 1)


@torch.no_grad()
def _taught(model: Model, head: nn.Linear, samples: Samples, classes: Sequence[int]) -> float:
    rows = torch.split(torch.arange(len(samples)), 256)
    answers = [head(_blocks(model, Subset(samples, r))).argmax(1).cpu() for r in rows]
    return float((torch.tensor(classes)[torch.cat(answers)] == samples.labels).float().mean())

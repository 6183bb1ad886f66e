"""Distances between the outputs of two models, and probes of features without the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl_framework.metrics.membership import TINY, Floats

Labels = NDArray[np.int64]


def softmax(scores: Floats) -> Floats:
    """Return probabilities ``(n, classes)`` of scores, in double precision.

    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    e = np.exp(scores - scores.max(1, keepdims=True))
    p: Floats = e / e.sum(1, keepdims=True)
    return p


def spread_over(p: Floats, classes: Sequence[int], union: Sequence[int]) -> Floats:
    """Return ``p`` over the columns ``union``; a class without an output has probability 0.

    >>> spread_over(np.array([[0.25, 0.75]]), [7, 2], [2, 5, 7]).tolist()
    [[0.75, 0.0, 0.25]]
    """
    out: Floats = np.zeros((len(p), len(union)))
    at = {c: i for i, c in enumerate(union)}
    out[:, [at[c] for c in classes]] = p
    return out


def activation_distance_l2(p: Floats, q: Floats) -> float | None:
    """Mean Euclidean distance between two models' softmax outputs ``(n, classes)``: ``mean_i |p_i - q_i|_2``.

    >>> activation_distance_l2(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])) == 2**0.5 / 2
    True
    """
    return float(np.sqrt(((p - q) ** 2).sum(1)).mean()) if len(p) else None


def js_divergence_nats(p: Floats, q: Floats) -> float | None:
    """Mean Jensen-Shannon divergence: ``mean_i [KL(p_i | m_i) + KL(q_i | m_i)] / 2`` with ``m = (p + q) / 2``.

    At most ln 2.

    >>> js_divergence_nats(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    0.6931471805599453
    """
    if not len(p):
        return None
    m = (p + q) / 2
    halves = [(a * np.log(np.clip(a, TINY, None) / np.clip(m, TINY, None))).sum(1) for a in (p, q)]
    return max(float((halves[0] + halves[1]).mean() / 2), 0.0)


def accuracy(answers: NDArray[Any], truth: NDArray[Any]) -> float | None:
    """Share of right answers; None without samples."""
    return float((answers == truth).mean()) if len(truth) else None


def ridge_probe_accuracy(z: Floats, y: Labels, exam: Floats, truth: Labels) -> float | None:
    """Accuracy of a linear probe in closed form: ridge regression onto one-hot labels, features standardised.

    ``W = (X'X / n + lambda I)^-1 X'Y / n`` with ``lambda = 0.01`` on standardised features: no steps, no seed.

    Args:
        z: ``(n, width)`` training features.
        y: ``(n,)`` class ids, retained and forgotten ones.
        exam: ``(m, width)`` test features of forgotten classes.
        truth: ``(m,)`` their class ids.
    """
    if not len(truth):
        return None
    mean, scale = z.mean(0), z.std(0)
    scale[scale < 1e-9] = 1.0
    x, e = (np.hstack([(a - mean) / scale, np.ones((len(a), 1))]) for a in (z, exam))
    classes = np.unique(y)
    onehot = (y[:, None] == classes).astype(np.float64)
    w = np.linalg.solve(x.T @ x / len(x) + 0.01 * np.eye(x.shape[1]), x.T @ onehot / len(x))
    return accuracy(classes[(e @ w).argmax(1)], truth)


def ncm_accuracy(
    z: Floats, y: Labels, exam: Floats, truth: Labels, k: int | None = None, draws: int = 5
) -> float | None:
    """Accuracy of nearest class mean by cosine, means of forgotten classes computed from ``k`` samples of each.

    Args:
        z: ``(n, width)`` training features.
        y: ``(n,)`` class ids; the means of those that are not in ``truth`` come from all their samples.
        exam: ``(m, width)`` test features of forgotten classes.
        truth: ``(m,)`` their class ids.
        k: Samples of each class; None for all.
        draws: Random choices of the ``k`` samples, with fixed seeds, over which the accuracy is averaged.
    """
    if not len(truth):
        return None
    classes, gone = np.unique(y), set(truth.tolist())
    accuracies: list[float] = []
    for draw in range(1 if k is None else draws):
        rng, means = np.random.default_rng(draw), []
        for c in classes:
            own = z[y == c]
            few = k is not None and int(c) in gone
            means.append((own[rng.permutation(len(own))[:k]] if few else own).mean(0))
        accuracies.append(float((classes[(unit(exam) @ unit(np.stack(means)).T).argmax(1)] == truth).mean()))
    return float(np.mean(accuracies))


def knn_accuracy(z: Floats, y: Labels, exam: Floats, truth: Labels, k: int = 5) -> float | None:
    """Accuracy of the ``k`` nearest training samples by cosine; each votes for its class with its cosine.

    Args:
        z: ``(n, width)`` training features.
        y: ``(n,)`` class ids.
        exam: ``(m, width)`` test features of forgotten classes.
        truth: ``(m,)`` their class ids.
        k: Neighbours, at most all.
    """
    if not len(truth):
        return None
    classes, neighbours, answers = np.unique(y), unit(z).T, []
    for row in unit(exam):
        cosines = row @ neighbours
        near = np.argsort(-cosines, kind="stable")[:k]
        votes = (y[near][:, None] == classes).T @ (1 + cosines[near])
        answers.append(classes[votes.argmax()])
    return accuracy(np.array(answers), truth)


def unit(z: Floats) -> Floats:
    """Return rows scaled to length 1; a row of zeros is kept."""
    out: Floats = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), TINY)
    return out

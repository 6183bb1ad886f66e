"""Membership inference: attacks that tell from a model's outputs what it was trained on and then told to forget.

Members are the forgotten training samples, non-members unseen samples of the same classes. Every attack gives each
sample a score, higher meaning "was trained on"; an attack is reported as its AUC: 0.5 is chance, 1 separates perfectly.
Below 0.5 the sign is reversed but the trace is there: forgotten samples score worse than unseen ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TINY = 1e-12
"""Distance of probabilities from 0 and 1 where a logarithm is taken."""


def auc(members: NDArray[Any], others: NDArray[Any]) -> float | None:
    """Area under the ROC curve: ``P(member > other) + P(member = other) / 2``; None if either side is empty.

    >>> auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])), auc(np.ones(3), np.ones(5))
    (1.0, 0.5)
    """
    if not len(members) or not len(others):
        return None
    ranked = np.sort(others)
    below, upto = np.searchsorted(ranked, members, "left"), np.searchsorted(ranked, members, "right")
    return float((below + upto).sum() / 2 / len(members) / len(others))


def tpr_at_fpr(members: NDArray[Any], others: NDArray[Any], fpr: float = 0.01) -> float | None:
    """Share of members above the highest threshold that lets at most ``fpr`` of the others pass (low-FPR regime).

    >>> tpr_at_fpr(np.array([1.0, 4.0, 5.0, 6.0]), np.arange(4.0), fpr=0.25)
    0.75
    """
    if not len(members) or not len(others):
        return None
    allowed = int(fpr * len(others))
    return float((members > np.sort(others)[-1 - allowed]).mean())


def true_class_probability(p: Floats, columns: NDArray[np.int64]) -> Floats:
    """Probability ``(n,)`` of each sample's own class, whose column is given.

    >>> true_class_probability(np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([1, 0])).tolist()
    [0.75, 0.5]
    """
    own: Floats = p[np.arange(len(p)), columns]
    return own


def loss_attack(p: Floats, columns: NDArray[np.int64]) -> Floats:
    """Score ``log p_y``, the negative loss. Ranks as the probability of the true class does, hence has its AUC too."""
    score: Floats = np.log(np.clip(true_class_probability(p, columns), TINY, None))
    return score


def correctness_attack(p: Floats, columns: NDArray[np.int64]) -> Floats:
    """Score 1 for a right answer, 0 for a wrong one."""
    score: Floats = (p.argmax(1) == columns).astype(np.float64)
    return score


def confidence_max_attack(p: Floats) -> Floats:
    """Score ``max_k p_k``: confidence in the predicted class; needs no label and no output for it.

    Others call the probability of the true class confidence; that is `loss_attack` here.
    """
    score: Floats = p.max(1)
    return score


def entropy_attack(p: Floats) -> Floats:
    """Score ``-H(p)``: training samples get predictions of low entropy. Needs no label.

    >>> entropy_attack(np.array([[1.0, 0.0], [0.5, 0.5]])).round(3).tolist()
    [0.0, -0.693]
    """
    score: Floats = (p * np.log(np.clip(p, TINY, None))).sum(1)
    return score


LABELLED: dict[str, Callable[[Floats, NDArray[np.int64]], Floats]] = {
    "mia_loss_auc": loss_attack,
    "mia_correctness_auc": correctness_attack,
}
"""Attacks that need the output of the true class."""

UNLABELLED: dict[str, Callable[[Floats], Floats]] = {
    "mia_confidence_max_auc": confidence_max_attack,
    "mia_entropy_auc": entropy_attack,
}


def logistic_5fold_accuracy(members: NDArray[Any], others: NDArray[Any], seed: int = 0) -> float | None:
    """Accuracy of logistic regression on one score, five stratified folds, sides of equal size (SCRUB's attack).

    ``(right calls of members and others) / all``: 0.5 is chance. Kurmanji et al., NeurIPS 2023, attack the loss,
    clipped at 400 nats; folds of 20 % replace their five random tenths, so that every sample is judged once.

    Returns:
        None with fewer than five samples on either side.

    >>> logistic_5fold_accuracy(np.linspace(5, 6, 20), np.linspace(0, 1, 30))
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    size = min(len(members), len(others))
    if size < 5:
        return None
    rng = np.random.default_rng(seed)
    x = np.concatenate([s[np.sort(rng.permutation(len(s))[:size])] for s in (members, others)])
    x = np.clip(x, -400, 400)[:, None]
    y = np.repeat([1, 0], size)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed).split(x, y)
    right = [LogisticRegression().fit(x[a], y[a]).predict(x[b]) == y[b] for a, b in folds]
    return float(np.concatenate(right).mean())


def logit_scaled(p: Floats) -> Floats:
    """Return ``log(p / (1 - p))``, in which confidences are roughly Gaussian (Carlini et al., 2022).

    >>> logit_scaled(np.array([0.5])).tolist()
    [0.0]
    """
    q = np.clip(p, TINY, 1 - TINY)
    scaled: Floats = np.log(q) - np.log1p(-q)
    return scaled


def log_likelihood_ratio(observed: Floats, unlearned: Floats, retrained: Floats, sd: tuple[float, float]) -> Floats:
    """Return ``log N(o; mean_u, sd_u) - log N(o; mean_r, sd_r)`` for each observation ``(n,)``.

    Args:
        observed: Logit-scaled confidences of the model under attack.
        unlearned: ``(n,)`` mean over the shadow models that were trained on the sample and forgot it.
        retrained: ``(n,)`` mean over those that never met it.
        sd: Standard deviations of both, pooled over samples: few shadows do not allow one for each sample.
    """
    u, r = ((observed - mean) / s for mean, s in zip((unlearned, retrained), sd, strict=True))
    ratio: Floats = (r**2 - u**2) / 2 + np.log(sd[1] / sd[0])
    return ratio


def u_lira(confidence: Floats, met: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Attack each shadow model with all others (U-LiRA, Hayes et al., 2024); return scores of members and of others.

    For each sample, shadows that met it are paired with shadows that did not; a pair is scored by the means over all
    pairs but itself, so that neither side has the advantage of one more observation.

    Args:
        confidence: ``(shadows, samples)`` logit-scaled confidence in the true class, after forgetting.
        met: ``(shadows, samples)`` whether the shadow was trained on the sample before it forgot.

    Returns:
        Two arrays of log-likelihood ratios. Empty where fewer than three pairs exist.
    """
    sd = pooled_sd(confidence, met), pooled_sd(confidence, ~met)
    ins, outs = [np.empty(0)], [np.empty(0)]
    for values, member in zip(confidence.T, met.T, strict=True):
        pairs = min(int(member.sum()), int((~member).sum()))
        if pairs < 3:
            continue
        a, b = values[member][:pairs], values[~member][:pairs]
        means = (a.sum() - a) / (pairs - 1), (b.sum() - b) / (pairs - 1)
        ins.append(log_likelihood_ratio(a, *means, sd))
        outs.append(log_likelihood_ratio(b, *means, sd))
    return np.concatenate(ins), np.concatenate(outs)


def pooled_sd(values: Floats, where: NDArray[np.bool_]) -> float:
    """Return the standard deviation around each column's own mean, over all entries ``where`` holds; at least 1e-6.

    >>> pooled_sd(np.array([[0.0, 9.0], [2.0, 11.0]]), np.ones((2, 2), dtype=bool))
    1.4142135623730951
    """
    columns = [column[mask] for column, mask in zip(values.T, where.T, strict=True)]
    squares = sum(float(((c - c.mean()) ** 2).sum()) for c in columns if len(c) > 1)
    freedom = sum(len(c) - 1 for c in columns if len(c) > 1)
    return max(float(np.sqrt(squares / freedom)), 1e-6) if freedom else 1e-6

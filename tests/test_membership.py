"""Attacks against slow loops, and at the ends where the answer is known."""

import doctest

import numpy as np
import pytest

from cl_framework.metrics import membership
from cl_framework.metrics.membership import (
    auc,
    confidence_max_attack,
    correctness_attack,
    entropy_attack,
    log_likelihood_ratio,
    logistic_5fold_accuracy,
    logit_scaled,
    loss_attack,
    tpr_at_fpr,
    u_lira,
)
from cl_framework.metrics.recovery import softmax


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_auc_is_the_share_of_pairs_that_are_in_order_and_ties_count_half(rng):
    members, others = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 25).astype(float)
    slow = np.mean([(m > o) + 0.5 * (m == o) for m in members for o in others])
    assert auc(members, others) == pytest.approx(slow)
    assert auc(members, others) + auc(others, members) == pytest.approx(1)


def test_equal_distributions_tell_nothing_and_separate_ones_tell_all(rng):
    a, b = rng.normal(size=4000), rng.normal(size=4000)
    assert auc(a, b) == pytest.approx(0.5, abs=0.02)
    assert logistic_5fold_accuracy(a, b) == pytest.approx(0.5, abs=0.03)
    assert tpr_at_fpr(a, b) == pytest.approx(0.01, abs=0.01)
    assert auc(a + 100, b) == logistic_5fold_accuracy(a + 100, b) == tpr_at_fpr(a + 100, b) == 1


def test_without_samples_there_is_no_attack():
    none, some = np.empty(0), np.arange(9.0)
    for formula in (auc, tpr_at_fpr, logistic_5fold_accuracy):
        assert formula(none, some) is None
        assert formula(some, none) is None
    assert logistic_5fold_accuracy(some, some[:4]) is None  # too few for five folds


def test_at_most_one_in_a_hundred_others_passes(rng):
    members, others = rng.normal(1, 1, 500), rng.normal(size=500)
    passes = [(float((members > t).mean()), float((others > t).mean())) for t in others]
    assert tpr_at_fpr(members, others) == max(tpr for tpr, fpr in passes if fpr <= 0.01)


def test_scores_against_slow_loops(rng):
    p, y = softmax(rng.normal(size=(30, 4))), rng.integers(0, 4, 30)
    for i in range(30):
        assert loss_attack(p, y)[i] == pytest.approx(np.log(p[i, y[i]]))
        assert correctness_attack(p, y)[i] == (max(range(4), key=lambda k: p[i, k]) == y[i])
        assert confidence_max_attack(p)[i] == max(p[i])
        assert entropy_attack(p)[i] == pytest.approx(sum(v * np.log(v) for v in p[i]))


def test_certainty_gives_finite_scores():
    p, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1])
    assert all(np.isfinite(s).all() for s in (loss_attack(p, y), entropy_attack(p), logit_scaled(p[:, 0])))


def test_the_logistic_attack_has_fixed_dice_and_ignores_that_there_are_more_of_one_side(rng):
    members, others = rng.normal(size=30), rng.normal(size=600)
    assert logistic_5fold_accuracy(members, others) == logistic_5fold_accuracy(members, others)
    assert logistic_5fold_accuracy(members, others) < 0.75  # answering "not a member" always would give 0.95


def test_the_likelihood_ratio_is_that_of_two_gaussians():
    from scipy.stats import norm

    o, u, r = np.array([0.3, -1.0]), np.array([0.0, 1.0]), np.array([2.0, -1.5])
    expected = norm.logpdf(o, u, 0.5) - norm.logpdf(o, r, 2.0)
    assert log_likelihood_ratio(o, u, r, (0.5, 2.0)) == pytest.approx(expected)


def test_u_lira_finds_what_a_sample_left_behind_and_nothing_where_nothing_is(rng):
    met = rng.random((16, 400)) < 0.5
    clean = rng.normal(size=met.shape) + rng.normal(size=400)
    members, others = u_lira(clean, met)
    assert len(members) == len(others) > 400
    assert auc(members, others) == pytest.approx(0.5, abs=0.03)
    members, others = u_lira(clean + 8 * met, met)
    assert auc(members, others) > 0.99
    assert tpr_at_fpr(members, others) > 0.9


def test_too_few_shadows_give_no_scores(rng):
    members, others = u_lira(rng.normal(size=(4, 9)), np.array([True, True, False, False])[:, None].repeat(9, 1))
    assert len(members) == len(others) == 0


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(membership)
    assert found.attempted
    assert not found.failed

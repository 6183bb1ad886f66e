"""What is gone and what stayed: formulas against slow loops and at their ends."""

import doctest

import numpy as np
import pytest

from cl_framework.metrics import recovery, unlearning
from cl_framework.metrics.recovery import (
    activation_distance_l2,
    js_divergence_nats,
    knn_accuracy,
    ncm_accuracy,
    ridge_probe_accuracy,
    softmax,
    spread_over,
)
from cl_framework.metrics.unlearning import (
    anamnesis_index,
    clpu_ratio,
    erosion_staying,
    gap_to_retrain,
    recovery_over_pristine,
    relapse_max_later,
    relearn_steps,
    spillover_exams,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def blobs(rng, classes, n, width=6, noise=0.3):
    centres = np.random.default_rng(7).normal(size=(10, width)) * 3
    y = np.repeat(list(classes), n)
    return centres[y] + noise * rng.normal(size=(len(y), width)), y


def test_equal_outputs_have_no_distance_and_opposite_ones_the_largest(rng):
    p = softmax(rng.normal(size=(20, 5)))
    assert activation_distance_l2(p, p) == js_divergence_nats(p, p) == 0
    one, other = np.eye(2)[[0, 0]], np.eye(2)[[1, 1]]
    assert activation_distance_l2(one, other) == pytest.approx(2**0.5)
    assert js_divergence_nats(one, other) == pytest.approx(np.log(2))
    assert js_divergence_nats(p[:0], p[:0]) is activation_distance_l2(p[:0], p[:0]) is None


def test_distances_against_slow_loops(rng):
    p, q = softmax(rng.normal(size=(20, 5))), softmax(rng.normal(size=(20, 5)))
    kl = lambda a, b: sum(x * np.log(x / y) for x, y in zip(a, b, strict=True))  # noqa: E731
    slow = np.mean([(kl(a, (a + b) / 2) + kl(b, (a + b) / 2)) / 2 for a, b in zip(p, q, strict=True)])
    assert js_divergence_nats(p, q) == pytest.approx(slow)
    assert js_divergence_nats(p, q) == js_divergence_nats(q, p)
    assert activation_distance_l2(p, q) == pytest.approx(np.mean([np.linalg.norm(a - b) for a, b in zip(p, q)]))  # noqa: B905


def test_a_class_without_output_has_probability_zero(rng):
    p = softmax(rng.normal(size=(3, 2)))
    wide = spread_over(p, (8, 3), (3, 5, 8))
    assert np.array_equal(wide[:, [2, 0]], p)
    assert not wide[:, 1].any()


PROBES = [ridge_probe_accuracy, ncm_accuracy, knn_accuracy, lambda *a: ncm_accuracy(*a, k=1)]


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_finds_classes_that_are_apart_and_guesses_those_that_are_not(probe, rng):
    (z, y), (exam, truth) = blobs(rng, range(6), 20), blobs(rng, (1, 4), 30)
    assert probe(z, y, exam, truth) == 1.0
    flat, flat_exam = rng.normal(size=z.shape), rng.normal(size=exam.shape)
    assert probe(flat, y, flat_exam, truth) == pytest.approx(1 / 6, abs=0.15)
    assert probe(z, y, exam[:0], truth[:0]) is None


def test_the_ridge_probe_is_scikit_learns(rng):
    from sklearn.linear_model import Ridge

    (z, y), (exam, truth) = blobs(rng, range(4), 25, noise=3.0), blobs(rng, (0, 2), 40, noise=3.0)
    mean, scale = z.mean(0), z.std(0)
    onehot = np.eye(4)[y]
    ridge = Ridge(alpha=0.01 * len(z), fit_intercept=True).fit((z - mean) / scale, onehot)
    said = ridge.predict((exam - mean) / scale).argmax(1)
    assert 0.5 < ridge_probe_accuracy(z, y, exam, truth) < 1.0
    assert ridge_probe_accuracy(z, y, exam, truth) == pytest.approx(float((said == truth).mean()), abs=0.03)


def test_nearest_class_mean_and_neighbours_against_slow_loops(rng):
    (z, y), (exam, truth) = blobs(rng, range(5), 12, noise=3.0), blobs(rng, (1, 3), 30, noise=3.0)
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    means = {c: z[y == c].mean(0) for c in range(5)}
    said = [max(means, key=lambda c: cosine(e, means[c])) for e in exam]
    assert ncm_accuracy(z, y, exam, truth) == pytest.approx(np.mean(said == truth))
    votes = []
    for e in exam:
        near = sorted(range(len(z)), key=lambda i: -cosine(e, z[i]))[:5]
        votes.append(max(range(5), key=lambda c: sum(1 + cosine(e, z[i]) for i in near if y[i] == c)))
    assert knn_accuracy(z, y, exam, truth) == pytest.approx(np.mean(np.array(votes) == truth))


def test_more_images_make_better_means(rng):
    (z, y), (exam, truth) = blobs(rng, range(8), 40, noise=3.0), blobs(rng, range(4), 50, noise=3.0)
    one, five, whole = (ncm_accuracy(z, y, exam, truth, k) for k in (1, 5, None))
    assert one < five < whole
    assert ncm_accuracy(z, y, exam, truth, 40) == pytest.approx(whole)


def test_the_gap_skips_what_either_side_lacks():
    assert gap_to_retrain({"a": 0.9, "b": 0.1}, {"a": 0.7, "b": 0.5}) == pytest.approx(0.3)
    assert gap_to_retrain({"a": None, "b": 0.1}, {"a": 0.7}) is None
    same = {"a": 0.25, "b": None}
    assert gap_to_retrain(same, same) == 0


def test_relearning_counts_steps_until_close_enough():
    curve = {0: 0.0, 1: 0.3, 2: 0.96, 3: 0.9, 4: 0.99}
    assert relearn_steps(curve, 1.0) == 2
    assert relearn_steps(curve, 1.0, tolerance=0.1) == 2
    assert relearn_steps(curve, 1.0, tolerance=0.01) == 4
    assert relearn_steps(curve, 0.0) == 0
    assert relearn_steps({0: 0.0, 1: 0.3}, 1.0) is None


def test_the_anamnesis_index_is_one_for_equals_and_a_bound_where_one_side_never_arrives():
    assert [anamnesis_index(k, k, 30) for k in (0, 1, 30)] == [1, 1, 1]
    assert anamnesis_index(3, 12, 30) == 0.25
    assert anamnesis_index(0, 12, 30) == 0
    assert anamnesis_index(None, 10, 29) == 3
    assert anamnesis_index(None, None, 30) is anamnesis_index(4, 0, 30) is None


def test_recovery_is_nought_like_the_pristine_backbone_and_one_like_the_original():
    assert recovery_over_pristine(0.6, 0.6, 0.9) == 0
    assert recovery_over_pristine(0.9, 0.6, 0.9) == 1
    assert recovery_over_pristine(0.5, 0.6, 0.9) < 0  # worse than never trained
    assert recovery_over_pristine(0.5, 0.9, 0.6) is None  # training added nothing


def test_the_ratio_to_the_seed_spread():
    assert clpu_ratio(0.2, 0.2) == 0
    assert clpu_ratio(0.3, 0.2) == pytest.approx(0.5) == clpu_ratio(0.1, 0.2)
    assert clpu_ratio(0.3, 0.0) is None


def test_relapse_is_the_worst_later_day_and_may_be_negative():
    assert relapse_max_later(0.1, [0.1, 0.4, 0.2]) == pytest.approx(0.3)
    assert relapse_max_later(0.4, [0.1]) == pytest.approx(-0.3)
    assert relapse_max_later(0.4, [None]) is relapse_max_later(None, [0.3]) is None


def test_erosion_looks_at_staying_classes_only_and_spillover_at_whole_exams():
    before = {0: (10, 10), 1: (0, 10), 2: (8, 10)}
    assert erosion_staying(before, {0: (9, 10), 2: (8, 10)}) == pytest.approx(0.05)
    assert erosion_staying(before, {}) is None
    then = {"a": {0: (10, 10), 1: (5, 10)}, "b": {2: (8, 10)}, "c": {3: (1, 1)}}
    now = {"a": {0: (9, 10)}, "b": {2: (6, 10)}}
    assert spillover_exams(then, now) == {"b": pytest.approx(0.2)}


@pytest.mark.parametrize("module", [recovery, unlearning])
def test_the_examples_in_the_docstrings_hold(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed

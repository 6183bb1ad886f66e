"""Statistics of features: equal to torch's own, and exact to take apart again."""

import pytest
import torch

from cl_framework.functional.class_statistics import Moments, class_means, mahalanobis
from cl_framework.functional.ridge import RandomFeatures, discriminants, ridge_weights
from cl_framework.memory.feature_sums import Sums


def test_class_means_are_means_of_classes():
    z, y = torch.randn(20, 3), torch.tensor([4, 9, 4, 7] * 5)
    means = class_means(z, y, (9, 4))
    assert list(means) == [9, 4]
    assert all(means[c].dtype == z.dtype for c in means)
    for c in means:
        torch.testing.assert_close(means[c], torch.stack([v for v, k in zip(z, y, strict=True) if k == c]).mean(0))


def test_class_means_do_not_lose_small_differences_in_long_sums():
    z = torch.full((100_000, 1), 16_777.217)
    assert class_means(z, torch.zeros(100_000), (0,))[0].item() == z[0].item()


def test_moments_agree_with_torch():
    z = torch.randn(50, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 5
    moments = Moments.of(z)
    torch.testing.assert_close(moments.mean(), z.double().mean(0))
    torch.testing.assert_close(moments.covariance(), torch.cov(z.double().T))


def test_pooled_moments_are_those_of_all_samples():
    a, b = torch.randn(7, 3), torch.randn(5, 3)
    pooled, whole = Moments.of(a) + Moments.of(b), Moments.of(torch.cat([a, b]))
    assert pooled.count == 12
    torch.testing.assert_close(pooled.covariance(), whole.covariance())


def test_samples_taken_out_again_leave_what_was_there():
    a, b = torch.randn(7, 3), torch.randn(5, 3)
    left = Moments.of(a) + Moments.of(b) - Moments.of(b)
    assert left.count == 7
    torch.testing.assert_close(left.mean(), Moments.of(a).mean())
    torch.testing.assert_close(left.covariance(), Moments.of(a).covariance())


def test_features_that_are_whole_numbers_are_subtracted_without_any_error():
    a, b = torch.randint(-99, 99, (7, 3)).float(), torch.randint(-99, 99, (5, 3)).float()
    left, alone = Moments.of(a) + Moments.of(b) - Moments.of(b), Moments.of(a)
    assert torch.equal(left.total, alone.total)
    assert torch.equal(left.outer, alone.outer)


def test_one_sample_has_no_spread():
    assert not Moments.of(torch.randn(1, 3)).covariance().any()


@pytest.mark.parametrize(("n", "classes"), [(3, 5), (1, 1), (300, 40)])
def test_distances_to_many_classes_at_once_equal_the_loop(n, classes):
    rng = torch.Generator().manual_seed(0)
    u, v = torch.randn(n, 200, generator=rng), torch.randn(classes, 200, generator=rng)
    inverses = [torch.randn(200, 200, generator=rng) for _ in range(classes)]
    found = mahalanobis(u, v, inverses)  # 300 x 200 x 40 numbers are three blocks
    assert found.shape == (n, classes)
    for c in range(classes):
        away = u - v[c]
        torch.testing.assert_close(found[:, c], (away @ inverses[c] * away).sum(1), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
def test_discriminants_equal_a_slow_loop(shrinkage):
    torch.manual_seed(0)
    z, y = torch.randn(40, 3).double(), torch.arange(40) % 4
    sums = Sums()
    sums.add(z[:25].float(), y[:25])
    sums.add(z[25:].float(), y[25:])
    z = z.float().double()
    within = torch.zeros(3, 3).double()
    for row, c in zip(z, y, strict=True):
        away = row - z[y == c].mean(0)
        within += torch.outer(away, away) / len(z)
    inverse = torch.linalg.inv((1 - shrinkage) * within + shrinkage * torch.eye(3).double())
    weights, biases = discriminants(*sums.of([2, 0, 1, 3]), shrinkage)
    for i, c in enumerate([2, 0, 1, 3]):
        mean = z[y == c].mean(0)
        torch.testing.assert_close(weights[:, i], inverse @ mean)
        torch.testing.assert_close(biases[i], -mean @ inverse @ mean / 2)


def test_ridge_weights_minimise_the_penalised_squares_whatever_the_order():
    torch.manual_seed(0)
    h, y = torch.randn(30, 5), torch.arange(30) % 3
    one, other = Sums(), Sums()
    one.add(h, y)
    for i in torch.randperm(30).split(7):
        other.add(h[i], y[i])
    weights = ridge_weights(*one.of([0, 1, 2])[:2], 0.7)
    torch.testing.assert_close(weights, ridge_weights(*other.of([0, 1, 2])[:2], 0.7))
    errors = h.double() @ weights - torch.nn.functional.one_hot(y).double()
    torch.testing.assert_close(h.double().T @ errors + 0.7 * weights, torch.zeros(5, 3).double())  # the gradient


def test_answers_after_subtracting_random_features_are_those_of_what_remains():
    """A tiny penalty amplifies rounding: features in single precision flip answers, and double precision alone errs."""
    rng, y, random = torch.Generator().manual_seed(0), torch.arange(420) % 12, RandomFeatures(400)
    z = torch.randn(12, 160, generator=rng)[y] + 2 * torch.randn(420, 160, generator=rng)
    gone, exam = torch.arange(360) % 5 == 0, random(z[360:])
    sums, alone = Sums(), Sums()
    for rows in torch.arange(360).split(60):
        sums.add(random(z[rows]), y[rows])
    for rows in torch.arange(360)[gone].split(30):  # in other company than when they came
        sums.subtract(random(z[rows]), y[rows])
    alone.add(random(z[:360][~gone]), y[:360][~gone])
    one, other = (exam @ ridge_weights(*s.of(range(12))[:2], ridge=1e-8) for s in (sums, alone))
    assert torch.equal(one.argmax(1), other.argmax(1))
    assert float((one - other).abs().max()) <= 1e-3 * float(other.abs().max())

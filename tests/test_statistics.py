"""Statistics of features: equal to torch's own, and exact to take apart again."""

import torch

from cl_framework.statistics import Moments, class_means


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

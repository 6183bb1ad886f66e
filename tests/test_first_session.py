"""APER, RanPAC and FeCAM against slow loops written down from the formulas, in their limits, and forgetting."""

from functools import partial

import pytest
import torch
from torch.nn.functional import normalize, one_hot

from cl_framework.engine import checkpoint, loop
from cl_framework.errors import UserError
from cl_framework.functional.ridge import (
    FLOOR,
    SHARES,
    RandomFeatures,
    gcv_errors,
    gcv_ridge,
    holdout_errors,
    holdout_ridge,
    ridge_weights,
)
from cl_framework.memory.feature_sums import Sums
from cl_framework.memory.tensor_store import Key
from cl_framework.methods.adapter_tuning import tuned
from cl_framework.methods.compatibility import objection
from cl_framework.streams.events import forget_request
from strategies.learning.acil import ACIL
from strategies.learning.aper import APER
from strategies.learning.fecam import FeCAM, correlations
from strategies.learning.ranpac import RIDGES, RanPAC
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain
from strategies.unlearning.subtract import Subtract

TUNED = partial(FeCAM, tune=True)


@pytest.fixture
def random_rows():
    rng = torch.Generator().manual_seed(0)

    def get(n, width, classes):
        h = torch.randn(n, width, generator=rng, dtype=torch.float64)
        return h, torch.randint(classes, (n,), generator=rng)

    return get


@pytest.mark.parametrize(("n", "width"), [(12, 30), (40, 7)], ids=["fewer samples than features", "more"])
def test_one_eigendecomposition_gives_the_error_of_every_ridge(n, width, random_rows):
    (h, y), (g, z) = random_rows(n, width, 3), random_rows(9, width, 3)
    targets, wanted = one_hot(y, 3).double(), one_hot(z, 3).double()
    ridges = [10.0**k for k in range(-4, 9)]
    errors = holdout_errors((h, targets), (g, wanted), ridges)
    for ridge, error in zip(ridges, errors, strict=True):
        weights = torch.linalg.solve(h.T @ h + ridge * torch.eye(width, dtype=torch.float64), h.T @ targets)
        torch.testing.assert_close(error, ((g @ weights - wanted) ** 2).mean(), rtol=1e-6, atol=1e-9)


def test_the_ridge_chosen_is_the_one_a_literal_search_finds(random_rows):
    h, y = random_rows(50, 60, 4)
    h = h + 2 * one_hot(y, 60)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(5))
    fit, held = order[:40], order[40:]
    best, least = 0.0, float("inf")
    for ridge in RIDGES:
        weights = ridge_weights(h[fit].T @ h[fit], h[fit].T @ one_hot(y[fit], 4).double(), ridge)
        if (error := float(((h[held] @ weights - one_hot(y[held], 4)) ** 2).mean())) < least:
            best, least = ridge, error
    assert 1e-7 < best < 1e7
    assert float(holdout_ridge(h, y, RIDGES, seed=5)) == best


def test_a_single_sample_is_enough_to_choose_a_ridge():
    assert float(holdout_ridge(torch.ones(1, 4), torch.tensor([3]), RIDGES, seed=0)) in RIDGES


@pytest.mark.parametrize(("n", "width"), [(12, 30), (40, 7)], ids=["fewer samples than features", "more"])
def test_generalised_cross_validation_from_sums_is_the_literal_formula(n, width, random_rows):
    h, y = random_rows(n, width, 3)
    targets = one_hot(y, 3).double()
    ridges = [10.0**k for k in range(-2, 5)]
    errors = gcv_errors(h.T @ h, h.T @ targets, targets.sum(0), ridges)
    for ridge, error in zip(ridges, errors, strict=True):
        hat = h @ torch.linalg.solve(h.T @ h + ridge * torch.eye(width, dtype=torch.float64), h.T)
        literal = ((targets - hat @ targets) ** 2).sum() / n / (1 - hat.trace() / n) ** 2
        torch.testing.assert_close(error, literal, rtol=1e-9, atol=0)


@pytest.mark.parametrize("twice", [False, True], ids=["all differ", "one twice"])
def test_generalised_cross_validation_is_no_rounding_where_samples_are_few_and_penalties_small(twice, random_rows):
    """The formula's differences are then differences of nearly equal numbers: 0, infinite, and anything between."""
    h, y = random_rows(30, 200, 2)
    h, y = (torch.cat([h, h[:1]]), torch.cat([y, 1 - y[:1]])) if twice else (h, y)
    targets = one_hot(y, 2).double()
    gram, ridges = h.T @ h, [share * float((h.T @ h).trace()) for share in SHARES]
    kernel, eye = h @ h.T, torch.eye(len(h), dtype=torch.float64)
    literal = []
    for ridge in ridges:  # the same in terms of samples, where what is left is no difference
        left = torch.linalg.inv(kernel / ridge + eye)
        literal.append((left @ targets).square().mean() * 2 / left.diagonal().mean() ** 2)
    errors = gcv_errors(gram, h.T @ targets, targets.sum(0), ridges)
    torch.testing.assert_close(errors, torch.stack(literal), rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", range(6))
def test_what_was_subtracted_does_not_change_the_penalty_that_is_chosen(seed):
    rng = torch.Generator().manual_seed(seed)
    means, y = torch.randn(2, 20, generator=rng), torch.arange(30) % 2
    h = RandomFeatures(300)(means[y] + torch.randn(30, 20, generator=rng))
    sums, fresh, gone = Sums(), Sums(), torch.arange(30) % 5 == 4
    sums.add(h, y)
    sums.subtract(h[gone], y[gone])
    fresh.add(h[~gone], y[~gone])
    chosen = [gcv_ridge(*s.of((0, 1))) / float(s.of((0, 1))[0].trace()) for s in (sums, fresh)]
    assert chosen[0] == pytest.approx(chosen[1], rel=1e-9)
    assert chosen[0] > 1e-7  # a smaller one would do no better here, and amplify what subtraction left


def test_the_penalty_chosen_from_sums_does_not_collapse_where_samples_about_equal_features(random_rows):
    """As on Omniglot: the least error of a small experience is anywhere below, and answers then follow the noise."""
    z, y = random_rows(220, 20, 10)
    z = z + 1.5 * random_rows(10, 20, 2)[0][y]
    h = RandomFeatures(200)(z)
    gram, q = h[:200].T @ h[:200], h[:200].T @ one_hot(y[:200]).double()
    n = torch.bincount(y[:200]).double()

    def right(ridge):
        return float(((h[200:] @ ridge_weights(gram, q, ridge)).argmax(1) == y[200:]).double().mean())

    best = max(right(10.0**k) for k in range(-8, 9))
    assert right(1e-8) < best - 0.3
    assert right(gcv_ridge(gram, q, n)) >= best - 0.1


def test_a_penalty_below_rounding_is_raised_to_a_share_of_the_trace(random_rows):
    h, y = random_rows(12, 30, 3)
    gram, q = h.T @ h, h.T @ one_hot(y, 3).double()
    assert torch.equal(ridge_weights(gram, q, 0.0), ridge_weights(gram, q, FLOOR * float(gram.trace())))
    assert torch.isfinite(ridge_weights(0 * gram, 0 * q, 0.0)).all()  # no feature above zero


def test_ranpac_solves_the_ridge_regression_of_all_samples(world, stream):
    learner = world.learn(world.learner(RanPAC(expansion=40)), stream[:3])
    model = learner.model
    assert list(model.adapters) == ["task-0"]
    rows = [model.embed(e.reference, "task-0") for e in stream[:3]]
    z, y = torch.cat([z for z, _ in rows]), torch.cat([y for _, y in rows])
    rng = torch.Generator().manual_seed(0)
    projection = torch.randn(16, 40, generator=rng).double()
    h = torch.relu(z.double() @ projection)
    targets = torch.stack([y == c for c in model.classes], 1).double()
    ridge = gcv_ridge(h.T @ h, h.T @ targets, targets.sum(0))
    weights = torch.linalg.solve(h.T @ h + ridge * torch.eye(40, dtype=torch.float64), h.T @ targets)
    test = world.noise(range(8), 4, "test")
    h = torch.relu(model.embed(test, "task-0")[0].double() @ projection)
    torch.testing.assert_close(world.scores(learner, test).double(), h @ weights, rtol=1e-4, atol=1e-4)
    whole, learner = learner, world.learner(RanPAC(expansion=40, cosine_as_pilot=True))
    checkpoint.restore(learner, world.clone(checkpoint.tensors(whole)), checkpoint.facts(whole))
    cosines = normalize(h, dim=1) @ normalize(weights, dim=0)
    torch.testing.assert_close(world.scores(learner, test).double(), cosines, rtol=1e-4, atol=1e-4)


def test_ranpac_does_not_depend_on_the_order_of_experiences(world, stream):
    a, b = (
        world.learn(world.learner(RanPAC(tune=False, ridge=1.0)), events) for events in (stream, list(reversed(stream)))
    )
    assert a.model.classes != b.model.classes
    sums = [learner.strategy.sums.of(sorted(learner.model.classes)) for learner in (a, b)]
    for one, other in zip(*sums, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    test = world.noise(range(8), 4, "test")
    place = [b.model.classes.index(c) for c in a.model.classes]
    torch.testing.assert_close(world.scores(a, test), world.scores(b, test)[:, place], rtol=1e-5, atol=1e-5)


def test_ranpac_without_tuning_and_with_a_fixed_ridge_is_acil(world, stream):
    """Random features differ by a factor, the root of the width; squared it is the factor between the penalties."""
    one = world.learn(world.learner(RanPAC(tune=False, expansion=64, ridge=16.0)), stream)
    other = world.learn(world.learner(ACIL(expansion=64, ridge=1.0)), stream)
    test = world.noise(range(8), 4, "test")
    torch.testing.assert_close(world.scores(one, test), world.scores(other, test), rtol=1e-4, atol=1e-5)


def test_ranpac_has_as_many_features_as_the_paper_where_features_are_as_wide():
    class Wide:
        class backbone:
            width = 768

    assert RanPAC().random_features(Wide, torch.zeros(1, 768)).shape == (1, 10_000)


def test_random_features_are_the_same_every_time_and_for_every_instance():
    z = torch.randn(3, 5)
    features = RandomFeatures(7, seed=1)
    assert torch.equal(features(z), features(z))
    assert torch.equal(features(z), RandomFeatures(7, seed=1)(z))
    assert not torch.equal(features(z), RandomFeatures(7, seed=2)(z))


def test_the_penalty_of_the_newest_experience_alive_counts_and_is_chosen_anew_where_samples_went(world, stream):
    learner = world.learn(world.learner(RanPAC(ridge="published"), Subtract()), stream[:3])
    ridges = learner.strategy.ridges
    kept = float(ridges[Key(experience="task-1")])
    newest = forget_request("f", stream[:3], experiences=["task-2"])
    world.learn(learner, [newest], stream[:3])
    assert [e.experience for e in ridges] == ["task-0", "task-1"]
    assert float(ridges[Key(experience="task-1")]) == kept
    ridges[Key(experience="task-1")] = torch.tensor(7.0)  # would be seen again
    learner.model.store.drop("noise/train", stream[1].data.ids)
    before = learner.model.passes["statistics"]
    some = forget_request("g", newest.remaining, samples=[7001, 7002])
    world.learn(learner, [some], newest.remaining)
    assert float(ridges[Key(experience="task-1")]) in RIDGES
    assert learner.model.passes["statistics"] - before == 20  # two to subtract, eighteen to choose on


SETTINGS = [{"ridge": 1.0}, {"tune": False}, {"tune": False, "ridge": 1.0}, {"ridge": "published"}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("asked", [{"classes": [7]}, {"samples": [7001, 1002], "classes": [6]}], ids=str)
def test_ranpac_forgets_exactly_with_other_settings_too(settings, asked, world, stream):
    request = forget_request("f", stream[:3], **asked)
    learner = world.learn(world.learner(RanPAC(**settings), Subtract()), [*stream[:3], request, stream[3]])
    reference = world.learn(world.learner(RanPAC(**settings)), [*request.remaining, stream[3]])
    assert world.differences(learner, reference, 1e-6) == []


def test_ranpac_refuses_to_subtract_what_it_was_tuned_on_unless_it_was_not(world, stream):
    tuned_on = forget_request("f", stream[:2], samples=[2001])
    learner = world.learn(world.learner(RanPAC(), Subtract()), stream[:2])
    with pytest.raises(UserError, match=r"were tuned on 'task-0', and are no sum.*Retrain"):
        world.learn(learner, [tuned_on], stream[:2])
    pristine = world.learn(world.learner(RanPAC(tune=False), Subtract()), [*stream[:2], tuned_on])
    reference = world.learn(world.learner(RanPAC(tune=False)), tuned_on.remaining)
    assert world.differences(pristine, reference, 1e-6) == []


def test_ranpac_needs_what_is_left_of_an_experience_only_to_choose_anew(world, stream):
    past, chosen, fixed = stream[:2], RanPAC(ridge="published"), RanPAC(ridge=1.0)
    some, whole = (
        forget_request("f", past, **asked, missing=["retain"]) for asked in ({"classes": [7]}, {"classes": [7, 0]})
    )
    cases = ((chosen, some, True), (chosen, whole, False), (fixed, some, False), (RanPAC(), some, False))
    for strategy, request, refused in cases:
        learner = world.learn(world.learner(strategy, Subtract()), past)
        assert (objection(learner.model, learner.strategy, learner.unlearner, request) is not None) == refused


def test_aper_scores_by_one_cosine_over_both_features(world, stream):
    learner = world.learn(world.learner(APER()), stream[:3])
    model, test = learner.model, world.noise(range(8), 2, "test")
    scores = world.scores(learner, test)
    data = [(torch.cat([model.embed(e.reference, space)[0] for space in ((), "task-0")], 1), e) for e in stream[:3]]
    seen = torch.cat([model.embed(test, space)[0] for space in ((), "task-0")], 1)
    for j, c in enumerate(model.classes):
        z = next(z[e.reference.labels == c] for z, e in data if c in e.classes)
        mean = z.sum(0) / len(z)
        for i in range(len(test)):
            cosine = float(seen[i] @ mean) / float(seen[i].norm() * mean.norm())
            assert float(scores[i, j]) == pytest.approx(cosine, abs=1e-5)


def test_aper_with_an_adapter_that_learned_nothing_is_simplecil_on_doubled_features(world, stream):
    still = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}
    aper, simple = (world.learn(world.learner(s, **still), stream) for s in (APER(), SimpleCIL()))
    test = world.noise(range(8), 6, "test")
    torch.testing.assert_close(world.scores(aper, test), world.scores(simple, test), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", [APER, RanPAC, TUNED])
def test_only_the_first_experience_is_trained_on(strategy, world, stream):
    learner = world.learn(world.learner(strategy()), stream[:1])
    weights = world.clone(learner.model.adapters.state_dict())
    for i, event in enumerate(stream[1:], 1):
        loop.attach_memories(learner, stream[:i])
        assert loop.carry_out(learner, event, world.make_trainer, 8).steps == 0
    after = learner.model.adapters.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[k], after[k]) for k in weights)
    assert {name: set(o) for name, o in learner.model.adapters.origins.items()} == {
        "task-0": {("task-0", 5), ("task-0", 2)}
    }


@pytest.mark.parametrize("strategy", [RanPAC, FeCAM])
def test_without_tuning_nothing_is_trained(strategy, world, stream):
    learner = world.learner(strategy(tune=False))
    assert loop.carry_out(learner, stream[0], world.make_trainer, 8).steps == 0
    assert tuned(learner.model) is None


@pytest.mark.parametrize("strategy", [APER, TUNED])
def test_a_later_class_leaves_without_data_and_the_first_experience_takes_all_along(strategy, world, stream):
    later, first = (
        forget_request("f", stream[:3], **asked, missing=["retain"])
        for asked in ({"classes": [7]}, {"experiences": ["task-0"]})
    )
    learner = world.learn(world.learner(strategy(), DropAdapter()), stream[:3])
    with pytest.raises(UserError, match="learned again from its samples, which cannot be had"):
        world.learn(learner, [first], stream[:3])
    passes = dict(learner.model.passes)
    cost = loop.carry_out(learner, later, world.make_trainer, 8)
    assert (cost.steps, dict(learner.model.passes)) == (0, passes)
    again = forget_request("g", later.remaining, experiences=["task-0"])
    world.learn(learner, [again], later.remaining)
    assert list(learner.model.adapters) == ["task-1"]
    assert not any("task-0" in name for name in checkpoint.tensors(learner))
    assert world.differences(learner, world.learn(world.learner(strategy()), again.remaining)) == []


def slow_fecam(z, data, gamma1, gamma2, identity, tukey):
    """Class by class, sample by sample, with ``pinv``."""
    power = lambda v: v.sign() * v.abs() ** tukey  # noqa: E731
    scores = torch.zeros(len(z), len(data), dtype=torch.float64)
    for j, rows in enumerate(data):
        rows = power(rows.double())
        cov = torch.cov(rows.T)
        d = len(cov)
        v1 = sum(float(cov[i, i]) for i in range(d)) / d
        v2 = sum(float(cov[i, k]) for i in range(d) for k in range(d) if i != k) / (d * d - d)
        for i in range(d):
            for k in range(d):
                cov[i, k] += gamma1 * v1 + identity if i == k else gamma2 * v2
        std = cov.diagonal().sqrt()
        inverse = torch.linalg.pinv(cov / torch.outer(std, std))
        mean = rows.mean(0)
        for n in range(len(z)):
            u = power(z[n].double())
            apart = u / u.norm() - mean / mean.norm()
            scores[n, j] = -(apart @ inverse @ apart)
    return scores


SHRUNK = [{}, {"gamma1": 10.0, "gamma2": 10.0}, {"gamma1": 0.0, "identity": 100.0}, {"gamma2": 1.0, "tukey": 0.5}]


@pytest.mark.parametrize("settings", SHRUNK, ids=str)
def test_fecam_is_the_literal_loop(settings, world, stream):
    learner = world.learn(world.learner(FeCAM(tune=True, **settings)), stream[:3])
    model, test = learner.model, world.noise(range(8), 2, "test")
    embedded = {}
    for e in stream[:3]:
        z, y = model.embed(e.reference, "task-0")
        embedded |= {c: z[y == c] for c in e.classes}
    told = {"gamma1": 1.0, "gamma2": 0.0, "identity": 0.0, "tukey": 1.0} | settings
    wanted = slow_fecam(model.embed(test, "task-0")[0], [embedded[c] for c in model.classes], **told)
    torch.testing.assert_close(world.scores(learner, test).double(), wanted, rtol=1e-4, atol=1e-5)


def test_fecam_as_pilot_sets_it_is_nearly_a_nearest_mean_of_normalised_features(world, stream):
    learner = world.learn(world.learner(FeCAM(tune=True, gamma1=0.0, identity=1e6)), stream[:3])
    model, test = learner.model, world.noise(range(8), 6, "test")
    means = normalize(learner.strategy.gaussians.means(model.classes), dim=1)
    near = -torch.cdist(normalize(model.embed(test, "task-0")[0], dim=1), means).square()
    torch.testing.assert_close(world.scores(learner, test), near, rtol=1e-3, atol=1e-5)


def test_a_class_of_one_sample_is_measured_by_plain_distance():
    assert torch.equal(correlations(torch.zeros(3, 3), 1.0, 0.0), torch.eye(3))


def test_fecam_inverts_a_class_once_and_again_only_when_it_changed(world, stream, monkeypatch):
    learner = world.learn(world.learner(FeCAM(tune=True), DropAdapter()), stream[:2])
    pinv, calls = torch.linalg.pinv, []
    monkeypatch.setattr(torch.linalg, "pinv", lambda *a, **k: calls.append(1) or pinv(*a, **k))
    test = world.noise(range(8), 2, "test")
    for past, events, inverted in (
        (stream[:2], [], 4), (stream[:2], [stream[2]], 2),
        (stream[:3], [forget_request("f", stream[:3], samples=[7001])], 1),
    ):  # fmt: skip
        world.learn(learner, events, past)
        calls.clear()
        world.scores(learner, test)
        world.scores(learner, test)
        assert len(calls) == inverted


@pytest.mark.parametrize("strategy", [APER, RanPAC, TUNED])
def test_retraining_forgets_the_first_experience_exactly(strategy, world, stream):
    request = forget_request("f", stream[:3], experiences=["task-0"])
    learner = world.learn(world.learner(strategy(), Retrain()), [*stream[:3], request])
    assert list(learner.model.adapters) == ["task-1"]
    assert world.differences(learner, world.learn(world.learner(strategy()), request.remaining)) == []

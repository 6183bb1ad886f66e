"""Classifier alignment: what is drawn has the moments that were filed, only the head learns from it."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from cl_framework.engine import loop
from cl_framework.errors import UserError
from cl_framework.memory.erasure import Erasure
from cl_framework.methods.adapter_routing import Routed
from cl_framework.methods.classifier_alignment import DrawnFeatures, Gaussians, align, by_age, factor, normalised
from cl_framework.streams.lazy_inputs import Inputs
from strategies.learning.finetune import Finetune
from strategies.learning.mos import MOS
from strategies.learning.slca import SLCA
from strategies.learning.ssiat import SSIAT


@pytest.fixture
def measured():
    """Features of two classes, far apart and differently spread, and their Gaussians."""
    rng = torch.Generator().manual_seed(0)
    spread = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.3, 0.1]])
    z = torch.cat([torch.randn(300, 3, generator=rng) @ spread.T + 5, torch.randn(80, 3, generator=rng)])
    return z, torch.tensor([7] * 300 + [4] * 80)


@pytest.mark.parametrize("diagonal", [False, True])
def test_draws_have_the_moments_of_the_samples(diagonal, measured):
    z, y = measured
    found = Gaussians(diagonal)
    found.measure(z, y, [4, 7], "shared")
    draws = DrawnFeatures({c: (found.of(c)[0], factor(found.of(c)[1], 1e-4).float()) for c in (4, 7)}, 20000)
    torch.manual_seed(1)
    batch = draws[list(range(len(draws)))]
    for c in (4, 7):
        mine, true = batch.x[batch.y == c], z[y == c]
        expected = true.T.cov() if not diagonal else true.var(0).diag()
        torch.testing.assert_close(mine.mean(0), true.mean(0), atol=0.06, rtol=0)
        torch.testing.assert_close(mine.T.cov(), expected, atol=0.12, rtol=0)


def test_everything_is_drawn_anew_once_all_was_read(measured):
    draws = DrawnFeatures({4: (torch.zeros(3), torch.eye(3)), 7: (torch.zeros(3), torch.ones(3))}, 4)
    one = [draws[[0, 5, 2]].x, draws[[1, 3, 4, 6, 7]].x]
    two = [draws[[0, 5, 2]].x, draws[[1, 3, 4, 6, 7]].x]
    assert len({tuple(row) for part in (*one, *two) for row in part.tolist()}) == 16
    assert (len(draws), draws.classes(), set(draws.ids.tolist())) == (8, [4, 7], {-1})


def test_a_factor_is_found_whatever_the_covariance():
    rng = torch.Generator().manual_seed(0)
    few = torch.randn(3, 8, generator=rng)  # three samples in eight dimensions: rank two
    eye = torch.eye(8, dtype=torch.float64)
    for covariance, e in (
        (torch.randn(50, 8, generator=rng).T.cov(), 1e-4),
        (few.T.cov(), 1e-4),
        (few.T.cov() - 5e-3 * torch.eye(8), 1e-2),  # rounding may leave it indefinite: eps grows tenfold as needed
    ):
        f = factor(covariance, 1e-4)
        assert f.dtype == torch.float64
        torch.testing.assert_close(f @ f.T, covariance.double() + e * eye)
    worst = torch.diag(torch.tensor([4.0, -9.0]))  # no eps up to 1 is enough
    torch.testing.assert_close(factor(worst, 1e-4) @ factor(worst, 1e-4).T, torch.diag(torch.tensor([4.0, 0])).double())
    torch.testing.assert_close(factor(torch.tensor([4.0, -1.0]), 0.0), torch.tensor([2.0, 0.0]).double())


def test_a_class_of_one_sample_is_a_point():
    found = Gaussians()
    found.measure(torch.tensor([[3.0, 4.0]]), torch.tensor([9]), [9], "shared")
    mean, covariance = found.of(9)
    assert (mean.tolist(), covariance.unique().tolist()) == ([3.0, 4.0], [0.0])
    torch.testing.assert_close(factor(covariance, 1e-4), 0.01 * torch.eye(2).double())


def test_what_is_filed_of_a_class_leaves_with_it_and_is_replaced_when_measured_anew(measured):
    z, y = measured
    found = Gaussians()
    found.measure(z, y, [4, 7], "task-0")
    found.measure(z + 1, y, [7], "task-1")
    assert {(e.cls, e.experience) for e in found.filed} == {(4, "task-0"), (7, "task-1")}
    torch.testing.assert_close(found.means([7])[0], z[y == 7].mean(0) + 1)
    found.filed.erase(Erasure(classes=frozenset({7})))
    assert (4 in found, 7 in found) == (True, False)
    with pytest.raises(KeyError, match="Class 7 has not been measured"):
        found.of(7)


def test_alignment_trains_the_head_alone_for_as_many_steps_as_classes_without_a_pass(world, stream):
    learner = world.learn(world.learner(Finetune()), stream[:2])
    model = learner.model
    found = Gaussians()
    for event in stream[:2]:
        found.measure(*model.embed(event.reference, "shared"), event.classes, "shared")
    settings = {"epochs": 6, "lr": 0.05, "draws": 32, "weight_decay": 0.0}
    plan = align(model, found, **settings)
    before, passes = world.clone(learner.state_dict()), dict(model.passes)
    learner.strategy.learn = lambda model, event: [plan]
    cost = loop.carry_out(learner, stream[0], world.make_trainer, 8)
    assert (cost.steps, dict(model.passes)) == (6 * 4, passes)
    moved = {k for k, v in learner.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"model.head.weight", "model.head.bias"}
    for event in stream[:2]:
        assert (learner.answer(event.reference) == event.reference.labels).float().mean() > 0.9
    batch = plan.data[[0, 40, 100]]
    torch.testing.assert_close(plan.loss(model, batch), cross_entropy(model.head(batch.x), torch.tensor([0, 1, 3])))
    assert batch.y.tolist() == [5, 2, 0]


def test_the_rate_of_an_alignment_falls_along_a_cosine_whatever_that_of_training_does(world, stream):
    def steps(optimizer):
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [18], gamma=0.1)

    learner, rates = world.learner(SLCA(align_epochs=4, align_lr=0.1), schedule=steps), []
    world.learn(learner, stream[:1])
    learner.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    world.learn(learner, [stream[1]], stream[:1])
    falling = [0.05 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]
    assert rates[-16:] == pytest.approx([rate for rate in falling for _ in range(4)])


LITERAL = {  # scores of the head's rows, factor on old means, and what is added to variances
    SSIAT: (lambda head, z, old: 20 * normalize(z, dim=1) @ normalize(head.weight, dim=1).T, 0.95, 1e-3),
    SLCA: (lambda head, z, old: _by_experience(head(z), old), 0.95, 1e-4),
    MOS: (lambda head, z, old: head(z), 1.0, 1e-4),
}


def _by_experience(logits, old):
    """Logits of two experiences, the first ``old`` columns and the rest, by the mean of their norms and by 0.1."""
    return torch.stack([row / ((row[:old].norm() + row[old:].norm()) / 2) / 0.1 for row in logits])


@pytest.mark.parametrize("strategy", LITERAL)
def test_what_a_strategy_aligns_on_is_written_down(strategy, world, stream):
    scores, shrink, eps = LITERAL[strategy]
    learner = world.learn(world.learner(strategy()), stream[:1])
    plan, model = planned(world, learner, stream[1])[1], learner.model
    for c, (mean, spread) in plan.data.gaussians.items():
        centre, covariance = learner.strategy.gaussians.of(c)
        torch.testing.assert_close(mean, centre * (shrink if c in stream[0].classes else 1.0))
        wanted = covariance.double() + eps * torch.eye(len(centre))
        torch.testing.assert_close((spread @ spread.T).double(), wanted, rtol=1e-4, atol=1e-5)
    batch = plan.data[[0, len(plan.data) // 2, len(plan.data) - 1]]
    right = torch.tensor([model.head.classes.index(c) for c in batch.y.tolist()])
    wanted = cross_entropy(scores(model.head, batch.x, len(stream[0].classes)), right)
    torch.testing.assert_close(plan.loss(model, batch), wanted)
    said = {SSIAT: (5, 256, 0.01, 5e-4), SLCA: (5, 256, 0.01, 5e-4), MOS: (30, 240, 0.005, 5e-4)}[strategy]
    (group,) = plan.optimizer(plan.params).param_groups
    assert (plan.epochs, plan.batch_size, group["lr"], group["weight_decay"]) == said
    assert group["momentum"] == 0.9


def test_an_alignment_factorises_each_class_once_however_long_it_trains(world, stream, monkeypatch):
    learner = world.learn(world.learner(Finetune()), stream[:2])
    model, found, calls, cholesky = learner.model, Gaussians(), [], torch.linalg.cholesky_ex
    for event in stream[:2]:
        found.measure(*model.embed(event.reference, "shared"), event.classes, "shared")
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda wide: calls.append(wide.dtype) or cholesky(wide))
    plan = align(model, found, epochs=6, lr=0.05, draws=32)
    learner.strategy.learn = lambda model, event: [plan]
    loop.carry_out(learner, stream[0], world.make_trainer, 8)
    assert calls == [torch.float64] * 4


@pytest.mark.parametrize("strategy", [MOS, SSIAT, SLCA])
def test_the_first_experience_is_not_aligned(strategy, world, stream):
    learner = world.learner(strategy())
    assert len(planned(world, learner, stream[0])) == 1
    plans = planned(world, learner, stream[1])
    assert [p.data.classes() for p in plans] == [[0, 7], [0, 2, 5, 7]]
    assert isinstance(plans[1].data, DrawnFeatures)


@pytest.mark.parametrize("strategy", [MOS, SSIAT, SLCA])
def test_classes_of_which_only_rows_are_known_are_refused(strategy, world, stream):
    learner = world.learner(strategy())
    with pytest.raises(UserError, match="needs more than its rows; use Finetune or Joint"):
        world.learn(learner, [replace(stream[0], inherited={5: 0, 2: 1})])
    assert learner.model.known == {}


def planned(world, learner, event):
    """Learn an experience and return its plans."""
    seen, begin = [], learner.begin
    learner.begin = lambda plan, request: (seen.append(plan), begin(plan, request))
    world.learn(learner, [event])
    learner.begin = begin
    return seen


def test_old_means_shrink_by_age(world, stream):
    model = world.learn(world.learner(Finetune()), stream[:4]).model
    assert by_age(model) == pytest.approx({5: 0.925, 2: 0.925, 7: 0.95, 0: 0.95, 1: 0.975, 6: 0.975, 4: 1.0, 3: 1.0})


def test_normalised_logits_equal_the_loop():
    logits, owner = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 2, 0, 1, 0])
    for row, found in zip(logits, normalised(logits, owner, 0.1), strict=True):
        norms = [sum(float(row[c]) ** 2 for c in range(6) if owner[c] == t) ** 0.5 for t in range(3)]
        torch.testing.assert_close(found, row / (sum(norms) / 3) / 0.1)


def test_each_row_passes_through_its_own_adapter_once(world, stream):
    model = world.learner(Finetune()).model
    for name in ("a", "b"):
        for p in model.adapters.add(name):
            torch.nn.init.normal_(p)
    model.eval()
    x = world.noise(range(5), 1, "test").x
    for given in (x, Inputs(lambda: x, torch.arange(5))):
        routed, before = Routed(model, given), sum(model.passes.values())
        with torch.no_grad():
            one, two = routed(["a", "b", "a", "a", "b"]), routed(["a", "a", "a", "b", "b"])
            expected = {name: model.features(x, name) for name in ("a", "b")}
        assert sum(model.passes.values()) - before == 5 + 2 + 10
        for got, names in ((one, "abaab"), (two, "aaabb")):
            torch.testing.assert_close(got, torch.stack([expected[n][i] for i, n in enumerate(names)]))

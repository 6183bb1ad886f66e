"""SSIAT and SLCA: shifts against a loop, losses among new classes, and the limits where they are something simpler."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from cl_framework.functional.class_statistics import semantic_shift
from cl_framework.memory.tensor_store import Key
from cl_framework.methods.base import Plan, Strategy
from cl_framework.methods.losses import classify_among
from cl_framework.streams.events import forget_request
from cl_framework.streams.lazy_inputs import inputs
from strategies.learning.slca import SLCA
from strategies.learning.ssiat import SSIAT
from strategies.unlearning.head_rows import HeadRows


def sgd(lr, **options):
    return lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9, **options)


@pytest.mark.parametrize("sigma", [0.5, 4.0])
def test_the_shift_equals_the_loop(sigma):
    rng = torch.Generator().manual_seed(0)
    means, before, after = (torch.randn(n, 4, generator=rng) for n in (3, 7, 7))
    for mean, found in zip(means.double(), semantic_shift(means, before, after, sigma), strict=True):
        weights = [torch.exp(-(b - mean).square().sum() / (2 * sigma**2)) + 1e-5 for b in before.double()]
        steps = [w * (a - b) for w, b, a in zip(weights, before.double(), after.double(), strict=True)]
        torch.testing.assert_close(found, sum(steps) / sum(weights))


def test_far_from_all_samples_the_shift_is_that_of_the_mean_sample():
    before, after = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    shift = semantic_shift(torch.full((1, 4), 1e4), before, after)[0]
    torch.testing.assert_close(shift, (after - before).double().mean(0))


@pytest.mark.parametrize("pairing", ["same_pictures", "shuffled_as_released"])
def test_features_that_stay_move_no_mean_unless_pictures_are_paired_wrongly(pairing, world, stream):
    learner = world.learner(SSIAT(pairing=pairing, align_epochs=0), optimizer=sgd(0.0))
    world.learn(learner, stream[:1])
    before = learner.strategy.gaussians.means([5, 2])
    world.learn(learner, stream[1:2], stream[:1])
    assert torch.equal(learner.strategy.gaussians.means([5, 2]), before) == (pairing == "same_pictures")


def test_old_means_follow_the_samples_near_them(world, stream):
    learner = world.learn(world.learner(SSIAT(sigma=6.0, align_epochs=0), optimizer=sgd(0.1)), stream[:1])
    means = learner.strategy.gaussians.means([5, 2])
    before = learner.model.embed(stream[1].reference, "shared")[0]
    world.learn(learner, stream[1:2], stream[:1])
    shift = semantic_shift(means, before, learner.model.embed(stream[1].reference, "shared")[0], 6.0)
    assert shift.norm(dim=1).min() > 0.01
    torch.testing.assert_close(learner.strategy.gaussians.means([5, 2]), means + shift.float())


def test_ssiat_scores_by_cosines_whatever_the_head(world, stream):
    test = world.noise(range(8), 2, "test")
    for head in ("linear", "cosine"):
        learner = world.learn(world.learner(SSIAT(align_epochs=1), head=head), stream[:2])
        z = torch.cat([learner.model.features(x, "shared") for x in inputs(test, 64)])
        with torch.no_grad():
            expected = [torch.cosine_similarity(z, w[None]) for w in learner.model.head.weight]
        torch.testing.assert_close(world.scores(learner, test), 20 * torch.stack(expected, 1))
        assert learner.model.head.bias is None or not learner.model.head.bias.any()


def test_ssiat_takes_the_margin_off_the_right_class(world, stream):
    learner = world.learn(world.learner(SSIAT(margin=0.3)), stream[:1])
    seen, begin = [], learner.begin
    learner.begin = lambda plan, request: (seen.append(plan), begin(plan, request))
    world.learn(learner, stream[1:2], stream[:1])
    model, batch = learner.model, stream[1].data[[0, 1, 2]]
    cosines = model.head.cosines(model.features(batch.x, "shared"))[:, 2:]
    target = torch.tensor([stream[1].classes.index(c) for c in batch.y.tolist()])
    cosines[torch.arange(3), target] -= 0.3
    torch.testing.assert_close(seen[0].loss(model, batch), cross_entropy(20 * cosines, target))


@pytest.mark.parametrize("strategy", [SSIAT, SLCA])
def test_old_rows_learn_nothing_from_new_classes(strategy, world, stream):
    learner = world.learn(world.learner(strategy(align_epochs=0), optimizer=sgd(0.05)), stream[:1])
    rows = learner.model.head.weight.detach().clone()
    world.learn(learner, stream[1:2], stream[:1])
    assert torch.equal(learner.model.head.weight[:2], rows)


class PerTask(Strategy):
    """Fine-tuning with cross-entropy over the classes of the experience, written down anew."""

    def learn(self, model, event):
        def loss(model, batch):
            columns = [model.head.classes.index(c) for c in event.classes]
            target = torch.tensor([event.classes.index(c) for c in batch.y.tolist()])
            return cross_entropy(model(batch.x)[:, columns], target)

        yield Plan(event.data, model.ready("shared", event.classes), loss)

    def predict(self, model, x):
        return model.head(model.features(x, "shared"))


def test_slca_without_alignment_is_fine_tuning_with_a_loss_per_task(world, stream):
    options = {"optimizer": sgd(0.05)}
    one = world.learn(world.learner(SLCA(slow=1.0, align_epochs=0), **options), stream[:3])
    two = world.learn(world.learner(PerTask(), **options), stream[:3])
    test = world.noise(range(8), 4, "test")
    torch.testing.assert_close(world.scores(one, test), world.scores(two, test), atol=1e-4, rtol=1e-4)


def test_slca_goes_on_from_the_head_as_it_was_before_alignment(world, stream):
    one = world.learn(world.learner(SLCA(align_epochs=0)), stream[:3])
    two = world.learn(world.learner(SLCA(align_epochs=2)), stream[:3])
    assert not torch.equal(one.model.head.weight, two.model.head.weight)
    for p, q in zip(one.model.adapters.params("shared"), two.model.adapters.params("shared"), strict=True):
        assert torch.equal(p, q)
    for i, c in enumerate(one.model.head.classes):
        row = two.strategy.rows[Key(c, "shared", "row0")]
        assert torch.equal(row, one.model.head.weight[i])
        torch.testing.assert_close(two.strategy.rows[Key(c, "shared", "row1")], one.model.head.bias[i].detach())


def test_slca_has_two_rates(world, stream):
    learner = world.learner(SLCA(), schedule="constant", optimizer=sgd(0.5))
    learner.trainer = world.BUILD()
    learner.plan = next(iter(learner.strategy.learn(learner.model, stream[0])))
    assert [g["lr"] for g in learner.configure_optimizers().param_groups] == [0.005, 0.5]


def test_cross_entropy_among_some_classes_equals_that_of_their_scores(world, stream):
    model = world.learn(world.learner(SLCA(align_epochs=0)), stream[:3]).model
    scores, y = torch.randn(6, 6, requires_grad=True), torch.tensor([7, 0, 0, 7, 0, 7])
    loss = classify_among(model, scores, y, (0, 7))
    torch.testing.assert_close(loss, cross_entropy(scores[:, [3, 2]], torch.tensor([1, 0, 0, 1, 0, 1])))
    loss.backward()
    assert not scores.grad[:, [0, 1, 4, 5]].any()


@pytest.mark.parametrize("strategy", [SSIAT, SLCA])
def test_it_goes_on_after_classes_and_whole_experiences_are_gone(strategy, world, stream):
    request = forget_request("f", stream[:2], classes=[5, 2, 7])
    learner = world.learn(world.learner(strategy(align_epochs=2), HeadRows()), [*stream[:2], request])
    assert not any(e.cls in (5, 2, 7) for e in learner.strategy.gaussians.filed)
    assert learner.model.classes == (0,)
    world.learn(learner, [stream[2]], request.remaining)
    assert learner.model.classes == (0, 1, 6)
    assert (learner.answer(stream[2].data) == stream[2].data.labels).float().mean() > 0.6

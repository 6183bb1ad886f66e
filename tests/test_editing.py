"""Parts and limit cases of approximate forgetting: where a method must equal another, or change nothing."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.engine import checkpoint
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.methods import forget_sets, losses, parameter_importance, unlearning
from cl_framework.methods.base import Plan, Unlearner
from cl_framework.methods.class_prototypes import distance, prototypes
from cl_framework.methods.group_sparsity import Average, SparseDelta, Sparsity
from cl_framework.streams.events import forget_request
from cl_framework.streams.samples import Batch, Rows
from strategies.learning.joint import Joint
from strategies.learning.l2p import L2P
from strategies.learning.mos import MOS
from strategies.learning.ssiat import SSIAT
from strategies.unlearning import boundary_shrink, scrub
from strategies.unlearning.fisher import FisherForgetting
from strategies.unlearning.gs_lora import GSLoRA
from strategies.unlearning.gs_lora_pp import GSLoRAPlusPlus
from strategies.unlearning.neg_grad import NegGradPlus
from strategies.unlearning.random_labels import RandomLabels
from strategies.unlearning.sal_un import SalUn
from strategies.unlearning.ssd import SSD
from strategies.unlearning.task_negation import TaskNegation
from strategies.unlearning.unsir import UNSIR


@pytest.fixture(scope="module")
def ready(world, stream):
    """A learner that knows six classes well, trained once; each call makes a copy."""
    options = {
        "adapter": LoRA(4, roles=["mlp_in", "value"]),
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    }
    whole = world.learn(world.learner(Joint(), **options), stream[:3])

    def make(unlearner=None):
        learner = world.learner(Joint(), unlearner, **options)
        checkpoint.restore(learner, world.clone(checkpoint.tensors(whole)), checkpoint.facts(whole))
        return learner

    return make


@pytest.fixture(scope="module")
def wanted(stream):
    return forget_request("f", stream[:3], classes=[2])


@pytest.fixture
def forgotten(world, stream, ready, wanted):
    """Carry a request out."""
    return lambda unlearner, request=wanted: world.learn(ready(unlearner), [request], stream[:3])


def adapters(learner):
    return {k: v for k, v in checkpoint.tensors(learner).items() if ".adapters." in k}


def same(one, two):
    one, two = adapters(one), adapters(two)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def predict(learner, x):
    return learner.strategy.predict(learner.model, x)


def test_neg_grad_that_only_retains_is_fine_tuning_on_what_stays(forgotten):
    class OnRetained(Unlearner):
        keep_rows = True

        def forget(self, model, strategy, event):
            pairs = forget_sets.Paired(forget_sets.retained(event), event.data)

            def loss(model, batch):
                stays = ~pairs.gone(batch)
                scores = strategy.predict(model, batch.x)[stays]
                return cross_entropy(scores, losses.columns(model, batch.y[stays]))

            yield Plan(pairs, unlearning.editable(model), loss, 2)

    assert same(forgotten(NegGradPlus(balance=1.0, epochs=2, share=1.0)), forgotten(OnRetained()))


def test_sal_un_on_all_weights_is_random_labels(forgotten):
    assert same(forgotten(SalUn(top=1.0, epochs=2)), forgotten(RandomLabels(epochs=2)))


@pytest.mark.parametrize("lr", [None, 1e-2])
def test_sal_un_leaves_what_is_not_salient_bit_identical_despite_momentum_and_decay(lr, ready, forgotten, wanted):
    before, after = ready(), forgotten(SalUn(top=0.3, epochs=2, lr=lr))
    params, loss = unlearning.editable(before.model), unlearning.learned(before.strategy)
    with parameter_importance.open_to_gradients(before.model, params):
        whole = Batch(*wanted.reference[list(range(len(wanted.reference)))])
        slope = torch.autograd.grad(loss(before.model, whole), params)  # a mean ranks as a sum does
    ranks = torch.cat([g.abs().flatten() for g in slope])
    old, new = (torch.cat([p.detach().flatten() for p in unlearning.editable(x.model)]) for x in (before, after))
    changed = old != new
    assert int(changed.sum()) <= round(0.3 * len(ranks))
    assert changed.any()
    assert ranks[changed].min() >= ranks.sort(descending=True).values[round(0.3 * len(ranks)) - 1] * 0.999


def test_ssd_with_an_infinite_threshold_changes_nothing(ready, forgotten):
    assert same(forgotten(SSD(a=1e300)), ready())


def test_ssd_dampens_what_matters_more_to_the_forgotten_as_the_formula_says(ready, forgotten, wanted):
    before, after = ready(), forgotten(SSD(a=2.0, strength=0.5, batch=1))
    params, loss = unlearning.editable(before.model), unlearning.learned(before.strategy)
    stays = forget_sets.reference_of(wanted, forget_sets.retained(wanted))

    def squares(*parts):
        total, count = [torch.zeros_like(p) for p in params], 0
        for part in parts:
            for i in range(len(part)):
                for t, g in zip(total, torch.autograd.grad(loss(before.model, part[[i]]), params), strict=True):
                    t += g**2
                count += 1
        return [t / count for t in total]

    with parameter_importance.open_to_gradients(before.model, params):
        gone, both = squares(wanted.reference), squares(wanted.reference, stays)
    dampened = 0
    for p, q, f, d in zip(params, unlearning.editable(after.model), gone, both, strict=True):
        expected = torch.where(f > 2 * d, p * torch.minimum(torch.ones_like(d), 0.5 * d / f), p)
        assert torch.allclose(q, expected, rtol=1e-4, atol=1e-7)
        dampened += int((q != p).sum())
    assert dampened > 0


def test_fisher_noise_of_strength_zero_changes_nothing(ready, forgotten):
    assert same(forgotten(FisherForgetting(a=0.0)), ready())


def test_fisher_noise_goes_where_what_stays_does_not_mind(ready, forgotten, wanted):
    before, after = ready(), forgotten(FisherForgetting(a=1e-4, most=1e3, share=1.0))
    params, stays = unlearning.editable(before.model), forget_sets.reference_of(wanted, forget_sets.retained(wanted))
    with parameter_importance.open_to_gradients(before.model, params):
        known = parameter_importance.fisher(lambda x: predict(before, x), params, [stays[list(range(len(stays)))]])
    noise = torch.cat([(q - p).flatten() for p, q in zip(params, unlearning.editable(after.model), strict=True)])
    sd = torch.cat([(1e-4 * (1 / f).clamp(max=1e3)).sqrt().flatten() for f in known])
    assert abs(float((noise / sd).std()) - 1) < 0.1


def test_fisher_information_is_that_of_a_slow_loop():
    w, x = nn.Parameter(torch.randn(3, 2)), torch.randn(4, 2)
    batch = Batch(x, torch.zeros(4), torch.zeros(4))
    (found,) = parameter_importance.fisher(lambda x: linear(x, w), [w], [batch])
    slow = torch.zeros_like(w)
    for row in x:
        for y in range(3):
            log_p = linear(row[None], w).log_softmax(1)[0]
            slow += log_p[y].exp().detach() * torch.autograd.grad(log_p[y], w)[0] ** 2 / 4
    assert torch.allclose(found, slow, atol=1e-6)


def test_summed_gradients_do_not_depend_on_the_batch_size():
    w, rows = nn.Parameter(torch.randn(2)), Rows(torch.randn(7, 2), torch.zeros(7, dtype=torch.int64))
    one, two = (
        parameter_importance.summed_gradient(
            lambda b: (b.x @ w).sin().sum(), [w], parameter_importance.batches(rows, n, w.device)
        )[0]
        for n in (2, 7)
    )
    assert torch.allclose(one, two)


def test_measuring_leaves_training_as_it_was(ready):
    model = ready().model
    params = unlearning.editable(model)
    with parameter_importance.open_to_gradients(model, params):
        assert all(p.requires_grad for p in params)
    assert not any(p.requires_grad for p in params)


def test_task_negation_of_scale_zero_changes_no_answer(world, ready, forgotten):
    test = world.noise(range(8), 4, "test")
    after = forgotten(TaskNegation(scale=0.0, keep_rows=True))
    assert after.model.adapters.stack == ("f",)
    assert torch.equal(world.scores(after, test), world.scores(ready(), test))


def test_task_negation_goes_back_what_learning_more_went_forward(forgotten):
    """At one map the change is ``-scale dW``, not ``-A`` and ``-B``, whose product is ``dW`` again."""
    forward, back = (
        forgotten(TaskNegation(scale=s, lr=1e-2)).model.adapters.rewrites["f"]["value"] for s in (-1.0, 2.0)
    )
    assert float((forward.b @ forward.a).norm()) > 0.01
    assert torch.allclose(back.b @ back.a, -2 * forward.b @ forward.a, atol=1e-6)


def test_task_negation_refuses_adapters_that_have_no_negative(world, stream, wanted):
    learner = world.learn(world.learner(Joint(), TaskNegation(), Bottleneck(4)), stream[:3])
    with pytest.raises(UserError, match=r"Bottleneck does more than add to a linear map.*LoRA"):
        world.learn(learner, [wanted], stream[:3])
    assert learner.model.adapters.stack == ()


def test_gs_lora_pp_without_prototypes_is_gs_lora(forgotten):
    settings = {"epochs": 2, "share": 0.5, "alpha": 1.0}
    assert same(forgotten(GSLoRAPlusPlus(push=0.0, pull=0.0, **settings)), forgotten(GSLoRA(**settings)))


def test_prototypes_are_class_means_of_the_model_before_the_request(ready, wanted):
    learner = ready()
    found = prototypes(learner.model, learner.strategy, wanted.reference)
    z, _ = learner.model.embed(wanted.reference, "shared")
    at = learner.model.classes.index(2)
    assert torch.allclose(found[at], z.mean(0), atol=1e-5)
    assert torch.equal(found[[i for i in range(6) if i != at]], torch.zeros(5, 16))


def test_prototypes_push_features_away_and_pull_them_back(ready, forgotten, wanted):
    def moved(samples, **weights):
        unlearner = GSLoRAPlusPlus(epochs=8, share=1.0, beta=0.0, alpha=0.0, push_bound=0.5, **weights)
        after, before = forgotten(unlearner), ready()
        home = prototypes(before.model, before.strategy, samples)[losses.columns(before.model, samples.labels)]
        z, _ = unlearning.with_features(after.model, after.strategy, samples[list(range(len(samples)))].x)
        return float(distance(z.detach(), home))

    stays = forget_sets.reference_of(wanted, forget_sets.retained(wanted))
    assert moved(wanted.reference, push=10.0) > 2 * moved(wanted.reference, push=0.0)
    assert moved(stays, push=0.0, pull=10.0) < moved(stays, push=0.0)


def test_features_are_those_that_the_head_scores(ready, wanted):
    learner = ready()
    x = wanted.reference[[0, 1]].x
    z, scores = unlearning.with_features(learner.model, learner.strategy, x)
    assert torch.equal(scores, predict(learner, x))
    assert torch.equal(learner.model.head(z), scores)
    assert not learner.model.exit._forward_hooks


@pytest.mark.parametrize("lengths", [torch.ones_like, lambda ids: 1 + ids % 2], ids=["one length", "two lengths"])
@pytest.mark.parametrize("strategy", [Joint, L2P, MOS, SSIAT])
def test_features_are_those_of_each_sample_however_many_passes_they_take(
    strategy, lengths, world, stream, wanted, monkeypatch
):
    learner, x = world.learn(world.learner(strategy()), stream[:2]), torch.cat([e.reference.x for e in stream[:2]])
    each = [unlearning.with_features(learner.model, learner.strategy, row) for row in x.split(1)]
    monkeypatch.setattr(learner.model.backbone, "lengths", lambda x: lengths(torch.arange(len(x))))
    z, scores = unlearning.with_features(learner.model, learner.strategy, x)
    assert torch.allclose(z, torch.cat([one for one, _ in each]), atol=1e-5)
    assert torch.allclose(scores, torch.cat([one for _, one in each]), atol=1e-4)


def test_the_average_of_a_delta_is_that_of_a_slow_loop(ready):
    delta = SparseDelta(ready().model, "f", Sparsity(0.0), size=4)
    average, p, slow = Average(delta, keep=0.9, start=1), delta.params[0], None
    for step in range(8):  # two batches an epoch
        delta.saw(2)
        with torch.no_grad():
            p.add_(1.0)
        average.step(None)
        if step % 2 and step >= 2:
            slow = 0.9 * (p.clone() if slow is None else slow) + 0.1 * p.clone()
    average.put()
    assert torch.allclose(p, slow)


def test_without_an_average_the_last_weights_stay(forgotten):
    settings = {"epochs": 2, "share": 1.0}
    assert same(forgotten(GSLoRAPlusPlus(ema=0.0, **settings)), forgotten(GSLoRAPlusPlus(**settings)))
    assert not same(forgotten(GSLoRAPlusPlus(ema=0.9, **settings)), forgotten(GSLoRAPlusPlus(**settings)))


def test_a_teacher_answers_as_the_model_once_did_and_leaves_no_trace(ready, forgotten, wanted):
    learner = ready()
    params, x = unlearning.editable(learner.model), wanted.reference[[0, 1, 2]].x
    teacher, then = unlearning.Teacher(learner.model, learner.strategy, params), predict(learner, x)
    with torch.no_grad():
        for p in params:
            p.add_(0.3)
    now = predict(learner, x)
    assert torch.equal(teacher(x), then)
    assert torch.equal(predict(learner, x), now)
    assert not torch.allclose(now, then)


def test_a_teacher_leaves_no_trace_in_mixed_precision_either(world, stream, wanted):
    """Autocast keeps a low-precision copy of each weight it meets; one of the teacher must not serve the student."""
    learner, x = world.learn(world.learner(Joint(), adapter=Bottleneck(4)), stream[:1]), wanted.reference[[0, 1, 2]].x
    teacher = unlearning.Teacher(learner.model, learner.strategy, params := unlearning.editable(learner.model))
    for p in params:
        p.requires_grad_(True)
        p.data.add_(0.3)
    with torch.autocast("cpu", torch.bfloat16):
        now = predict(learner, x)
    with torch.autocast("cpu", torch.bfloat16):
        old, again = teacher(x), predict(learner, x)
    assert torch.equal(again, now)
    assert not torch.equal(old, now)


def test_rewinding_returns_to_the_epoch_that_errs_as_held_out_samples_do(forgotten, stream, monkeypatch):
    request = forget_request("f", stream[:3], samples=[2001, 2004, 6003])

    def after(epochs, *errors):
        said = iter(errors)
        monkeypatch.setattr(scrub, "error", lambda *_: next(said))
        return forgotten(scrub.SCRUB(epochs=epochs, ascents=2, lr=1e-2, rewind=True), request)

    assert same(after(4, 0.9, 0.4, 0.1, 0.0, 0.5), after(2, 0.9, 0.4, 0.5))
    assert not same(after(4, 0.9, 0.4, 0.1, 0.0, 0.5), after(4, 0.9, 0.4, 0.1, 0.0, 0.0))


def test_rewinding_is_refused_where_no_sample_of_the_class_stays(forgotten):
    with pytest.raises(UserError, match="rewinding compares with samples of the same classes"):
        forgotten(scrub.SCRUB(rewind=True))


def test_held_out_samples_are_of_the_same_classes_and_not_trained_on(forgotten, stream, monkeypatch):
    request, held = forget_request("f", stream[:3], samples=[2001, 2004]), []
    monkeypatch.setattr(scrub, "error", lambda *given: held.append(given[2]) or 0.0)
    plans = []
    monkeypatch.setattr(scrub, "Plan", lambda *given: plans.append(given[0]) or Plan(*given))
    forgotten(scrub.SCRUB(epochs=1, ascents=0, rewind=True), request)
    assert held[-1].labels.tolist() == [2, 2]
    assert not set(held[-1].ids.tolist()) & {2001, 2004, *plans[0].ids.tolist()}
    forgotten(
        scrub.SCRUB(epochs=1, ascents=0, rewind=True), forget_request("f", stream[:3], samples=[2001, 6003, 6004])
    )
    assert sorted(held[-1].labels.tolist()) == [2, 6, 6], "of each class as many as go"
    assert held[-1].key == held[0].key == "noise/train", "both errors are of pictures as exams see them"


def test_the_neighbour_across_the_boundary_is_never_the_class_itself(ready, wanted, world):
    learner, x = ready(), world.noise([5, 2, 7], 10, "train")
    labels = boundary_shrink.neighbours(learner.model, learner.strategy, x.x, x.labels, 0.0)
    scores = predict(learner, x.x).detach()
    for i, y in enumerate(x.labels.tolist()):
        second = next(c for c in scores[i].argsort(descending=True).tolist() if learner.model.classes[c] != y)
        assert labels[i] == learner.model.classes[second]


def test_samples_under_other_labels_keep_their_pictures(wanted):
    made = forget_sets.WithLabels(wanted.data, wanted.data.labels + 40)
    batch = made[[3, 1]]
    assert torch.equal(batch.x, wanted.data[[3, 1]].x)
    assert (batch.y.tolist(), batch.ids.tolist()) == ([42, 42], wanted.data.ids[[3, 1]].tolist())


def test_what_learns_a_neighbours_label_has_still_met_the_class_itself(world, stream):
    known = replace(stream[0], inherited={5: 0, 2: 1})
    backbone = world.TinyBackbone()
    backbone.classifier = lambda: {"weight": torch.randn(2, 16), "bias": torch.zeros(2)}
    learner = Learner(backbone, Bottleneck(4), Joint(), boundary_shrink.BoundaryShrink(epochs=1))
    world.learn(learner, [known, forget_request("f", [known], classes=[2])])
    assert {c for e, c in learner.model.adapters.origins["shared"] if e == "task-0"} == {2, 5}


def test_noise_is_what_the_model_does_not_take_for_the_class(ready, wanted):
    learner = ready()
    like = wanted.reference[[0]].x
    torch.manual_seed(0)
    plain, shaped = (
        UNSIR(noises=16, noise_steps=n, copies=1).opposite(learner.model, learner.strategy, 2, like) for n in (0, 25)
    )
    at = learner.model.classes.index(2)

    def loss(samples):
        x, y, _ = samples[list(range(len(samples)))]
        assert set(y.tolist()) == {2}
        return float(cross_entropy(predict(learner, x), torch.full((len(x),), at)))

    assert loss(shaped) > loss(plain)


def test_a_share_is_taken_of_every_class_with_both_views_of_the_same_samples(wanted):
    some = forget_sets.retained(wanted, 0.3)
    assert some.labels.bincount().tolist() == [3, 3, 0, 0, 0, 3, 3, 3]
    view = forget_sets.reference_of(wanted, some)
    assert sorted(view.ids.tolist()) == sorted(some.ids.tolist())
    assert view.key == "noise/train"
    assert forget_sets.retained(wanted, 1e-9).labels.bincount().tolist() == [1, 1, 0, 0, 0, 1, 1, 1]


def test_one_optimiser_serves_all_plans_of_a_request_from_its_first_rate_on():
    p = nn.Parameter(torch.zeros(1))
    build = unlearning.adamw(0.1)
    one = build([p])
    one.param_groups[0]["lr"] = 0.0
    assert build([p]) is one
    assert one.param_groups[0]["lr"] == 0.1
    assert unlearning.adamw(0.1)([p]) is not one
    assert unlearning.adamw(None) is None


def test_the_error_counts_wrong_answers_by_column(ready, wanted):
    learner = ready()
    right = learner.answer(wanted.reference) == wanted.reference.labels
    assert unlearning.error(learner.model, learner.strategy, wanted.reference) == pytest.approx(
        1 - float(right.float().mean())
    )


def test_an_edit_needs_a_second_class(world, stream):
    one = stream[0].without([5])
    learner = world.learn(world.learner(Joint(), RandomLabels()), [one])
    with pytest.raises(UserError, match=r"there is only one class.*Use one that can: .*Retrain"):
        world.learn(learner, [forget_request("f", [one], samples=[2001])], [one])

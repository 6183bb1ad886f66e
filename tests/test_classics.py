"""Replay, DER++, LwF and EWC: in their limits they are finetuning or joint training; formulas against literal loops."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from cl_framework.engine import checkpoint, loop
from cl_framework.memory.erasure import Erasure, erase
from cl_framework.memory.tensor_store import Key
from cl_framework.methods.lessons import plans
from cl_framework.methods.logit_memory import Answers
from cl_framework.streams.events import forget_request
from strategies.learning.der_pp import DERPlusPlus
from strategies.learning.ewc import EWC
from strategies.learning.finetune import Finetune
from strategies.learning.joint import Joint
from strategies.learning.lwf import LwF
from strategies.learning.replay import Replay
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.head_rows import HeadRows
from strategies.unlearning.neg_grad import NegGradPlus


@pytest.fixture(scope="module")
def finetuned(world, stream):
    return world.learn(world.learner(Finetune()), stream)


def loss_of(learner, event, past, rows=(0, 3, 5, 8)):
    """The first plan for ``event``, and its loss on some rows with nothing dropped out."""
    loop.attach_memories(learner, past)
    plan = next(iter(plans(learner.model, learner.strategy, learner.unlearner, event)))
    learner.eval()
    torch.manual_seed(0)
    batch = plan.data[list(rows)]
    return plan, batch, plan.loss(learner.model, batch)


def test_simplecil_scores_are_cosines_to_the_mean_of_each_class(world, stream):
    learner, x = world.learn(world.learner(SimpleCIL()), stream[:2]), world.noise((5, 2, 7, 0), 3, "test")
    z, y = learner.model.embed(stream[0].reference, ())
    cosines = cosine_similarity(learner.model.embed(x, ())[0], z[y == 2].mean(0), dim=-1)
    torch.testing.assert_close(world.scores(learner, x)[:, learner.model.classes.index(2)], cosines)


def test_replay_of_everything_is_joint_training(world, stream):
    """Bit for bit: the past comes first, so that both draw the same batches."""
    all_, joint = (world.learn(world.learner(s), stream) for s in (Replay(per_class=None), Joint()))
    assert world.differences(all_, joint) == []


@pytest.mark.parametrize(
    "strategy", [EWC(strength=0.0), LwF(weight=0.0, over="seen")], ids=["EWC at strength 0", "LwF at weight 0"]
)
def test_without_its_term_it_is_finetuning(strategy, world, stream, finetuned):
    assert world.differences(world.learn(world.learner(strategy), stream), finetuned) == []


def test_der_plus_plus_without_its_terms_is_finetuning(world, stream, finetuned):
    learner = world.learn(world.learner(DERPlusPlus(alpha=0.0, beta=0.0)), stream)
    assert [d for d in world.differences(learner, finetuned) if "answers" not in d] == []


@pytest.mark.parametrize("strategy", [Replay(4), DERPlusPlus(4), LwF(), EWC()], ids=lambda s: type(s).__name__)
def test_with_its_term_it_is_not_and_remembers_better(strategy, world, stream):
    fast = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)}
    old = world.noise([c for e in stream[:3] for c in e.classes], 10, "test")
    kept, lost = (
        cross_entropy(world.scores(one, old), torch.tensor([one.model.classes.index(c) for c in old.labels.tolist()]))
        for one in (world.learn(world.learner(s, **fast), stream) for s in (strategy, Finetune()))
    )
    assert kept < lost


def test_replay_remembers_as_many_of_each_class_and_learns_with_them(world, stream):
    learner = world.learn(world.learner(Replay(3)), stream[:2])
    assert learner.strategy.memory.all().labels.bincount().tolist() == [3, 0, 3, 0, 0, 3, 0, 3]
    plan, *_ = loss_of(learner, stream[2], stream[:2])
    assert len(plan.data) == 12 + 20
    assert plan.data.classes() == [0, 1, 2, 5, 6, 7]


@pytest.fixture
def answers(world, stream):
    """Answers to three samples of each class, kept after each of three experiences, and the scores there were then."""
    learner, answers, then = world.learner(Finetune()), Answers(3), {}
    for i, event in enumerate(stream[:3]):
        world.learn(learner, [event], stream[:i])
        answers.keep(learner.model, event, "shared")
        for n, row in zip(event.reference.ids.tolist(), world.scores(learner, event.reference), strict=True):
            then[n] = dict(zip(learner.model.classes, row.tolist(), strict=True))
    return answers, then


def check(answers, then, classes):
    ids, scores = answers.table(classes)
    assert sorted(ids.tolist()) == sorted(i for e in answers.memory.ids for i in answers.memory.ids[e].tolist())
    wanted = [[then[n].get(c, float("nan")) for c in classes] for n in ids.tolist()]
    torch.testing.assert_close(scores, torch.tensor(wanted).view_as(scores), equal_nan=True, rtol=1e-5, atol=1e-6)


def test_answers_are_the_scores_there_were_in_any_order_of_classes(answers):
    check(*answers, [6, 5, 0, 2, 7, 1])
    assert int(answers[0].table([5])[1].isnan().sum()) == 0
    assert int(answers[0].table([1])[1].isnan().sum()) == 12  # nobody knew class 1 before the third experience


def test_rows_leave_with_samples_and_columns_with_classes(answers):
    kept, then = answers
    gone = kept.memory.ids[Key(2, "task-0")][:2].tolist() + kept.memory.ids[Key(7, "task-1")].tolist()
    erase(Erasure(classes=frozenset({0}), ids=frozenset(gone)), kept)
    check(kept, then, [5, 2, 7, 1, 6])
    assert len(kept.table([5])[0]) == 18 - 2 - 3 - 3
    assert bool(kept.table([0])[1].isnan().all())
    assert {e.cls for e in kept.filed} == {5, 2, 1, 6}
    erase(Erasure(everything=True), kept)
    assert len(kept.table([5, 2])[0]) == len(kept.filed) == 0


def test_der_plus_plus_adds_the_error_of_old_answers_and_the_entropy_of_old_labels(world, stream):
    learner = world.learn(world.learner(DERPlusPlus(4, alpha=0.3, beta=0.7)), stream[:2])
    answers = learner.strategy.answers
    _, batch, loss = loss_of(learner, stream[2], stream[:2])
    new, dark, labelled = batch.ids[:4].tolist(), batch.ids[4:8].tolist(), batch.ids[8:].tolist()
    assert {i // 1000 for i in new} <= {1, 6}
    assert {i // 1000 for i in dark + labelled} <= {5, 2, 7, 0}
    model = learner.model
    scores, loss = model.head(model.features(batch.x, "shared")).detach(), loss.detach()
    entropies = cross_entropy(scores, model.head.index(batch.y), reduction="none")
    ids, then = answers.table(model.classes)
    errors = []
    for row, n in enumerate(dark, 4):
        for j, old in enumerate(then[ids.tolist().index(n)].tolist()):
            if old == old:  # not NaN: the class was known
                errors.append((float(scores[row, j]) - old) ** 2)
    wanted = entropies[:4].mean() + 0.3 * sum(errors) / len(errors) + 0.7 * entropies[8:].mean()
    assert float(loss) == pytest.approx(float(wanted), rel=1e-4)


def test_lwf_holds_softened_scores_of_old_classes_to_what_they_were(world, stream):
    learner = world.learn(world.learner(LwF(weight=3.0)), stream[:1])
    x = stream[1].data[[0, 3, 5, 8]].x
    learner.eval()
    then = learner.model.head(learner.model.features(x, "shared")).detach()
    plan = next(iter(plans(learner.model, learner.strategy, learner.unlearner, stream[1])))
    with torch.no_grad():
        for p in plan.params:
            p.add_(0.3 * torch.randn_like(p))
    learner.eval()
    model, batch = learner.model, stream[1].data[[0, 3, 5, 8]]
    loss, scores = plan.loss(model, batch), model.head(model.features(x, "shared"))
    p, q = (then / 2).softmax(1), (scores[:, :2].detach() / 2).softmax(1)
    held = sum(float(p[n, c] * (p[n, c] / q[n, c]).log()) for n in range(4) for c in range(2)) / 4
    new = cross_entropy(scores[:, 2:], torch.tensor([(7, 0).index(c) for c in batch.y.tolist()]))
    assert held > 1e-3
    assert loss.item() == pytest.approx(new.item() + 3 * held, rel=1e-4)


def test_ewc_cuts_fisher_information_off_where_asked(world, stream):
    whole, cut = (world.learn(world.learner(EWC(50.0, largest)), stream[:1]).strategy.filed for largest in (None, 1e-3))
    assert any(float(whole[e][..., 0].max()) > 1e-3 for e in whole)
    for e in whole:
        torch.testing.assert_close(cut[e][..., 0], whole[e][..., 0].clamp_max(1e-3))
        assert torch.equal(cut[e][..., 1], whole[e][..., 1])


def test_ewc_ties_parameters_by_the_squared_gradient_of_each_sample(world, stream):
    """The first experience is finetuning; its Fisher information and each later penalty are written down literally."""
    learner = world.learn(world.learner(EWC(strength=50.0, largest=None)), stream[:2])
    model, filed = learner.model, learner.strategy.filed
    params = [*model.adapters.params("shared"), *model.head.parameters()]
    learner.eval()
    for p in params:
        p.requires_grad_(True)
    squares = [torch.zeros_like(p) for p in params]
    for n in range(len(stream[1].reference)):
        one = stream[1].reference[[n]]
        loss = cross_entropy(model.head(model.features(one.x, "shared")), model.head.index(one.y))
        for total, g in zip(squares, torch.autograd.grad(loss, params), strict=True):
            total += g**2 / len(stream[1].reference)
    for k, (p, fisher) in enumerate(zip(params, squares, strict=True)):
        if k < len(params) - 2:
            torch.testing.assert_close(filed[Key(None, "task-1", str(k))], torch.stack([fisher, p], -1))
        else:
            for row, c in enumerate(model.classes):
                torch.testing.assert_close(filed[Key(c, "task-1", str(k))], torch.stack([fisher[row], p[row]], -1))
    plan = next(iter(plans(learner.model, learner.strategy, learner.unlearner, stream[2])))
    learner.eval()
    params, batch = list(plan.params), stream[2].data[[1, 4, 6]]

    def literal():
        total = cross_entropy(model.head(model.features(batch.x, "shared")), model.head.index(batch.y))
        for entry in filed:
            p = params[int(entry.name)]
            now = p if entry.cls is None else p[model.classes.index(entry.cls)]
            total = total + 25.0 * (filed[entry][..., 0] * (now - filed[entry][..., 1]) ** 2).sum()
        return total

    with torch.no_grad():
        one, other = plan.loss(model, batch), literal()
        for p in params:
            p.add_(0.05 * torch.randn_like(p))
        moved, wanted = plan.loss(model, batch) - one, literal() - other  # they differ by a constant
    assert float(wanted) > 0.01
    assert float(moved) == pytest.approx(float(wanted), rel=1e-3)


def test_ties_leave_with_classes_and_with_experiences_that_lost_all(world, stream):
    learner = world.learn(world.learner(EWC(), HeadRows()), stream[:3])
    request = forget_request("f", stream[:3], experiences=["task-1"], classes=[5])
    world.learn(learner, [request], stream[:3])
    filed = learner.strategy.filed
    assert not {e.cls for e in filed} & {5, 7, 0}
    world.learn(learner, [stream[3]], request.remaining)
    assert {e.experience for e in filed} == {"task-0", "task-2", "task-3"}


@pytest.mark.parametrize("strategy", [Replay(3), DERPlusPlus(3), LwF(), EWC()], ids=lambda s: type(s).__name__)
def test_it_learns_on_after_classes_left_its_head(strategy, world, stream):
    learner = world.learn(world.learner(strategy, NegGradPlus(epochs=1)), stream[:3])
    request = forget_request("f", stream[:3], experiences=["task-1"], classes=[5], samples=[2001, 6003])
    world.learn(learner, [request, stream[3]], stream[:3])
    assert learner.model.classes == learner.model.head.classes == (2, 1, 6, 4, 3)
    assert bool(world.scores(learner, world.noise(range(8), 2, "test")).isfinite().all())
    named = {entry_class(name) for name in checkpoint.tensors(learner) if name.startswith("strategy.") and "|" in name}
    assert not named & {5, 7, 0}


def entry_class(name):
    cls = name.split("|")[1]
    return int(cls) if cls else None


@pytest.mark.parametrize("strategy", [Replay(3), DERPlusPlus(3), LwF(), EWC()], ids=lambda s: type(s).__name__)
def test_more_of_a_known_class_can_be_learned(strategy, world, stream):
    rows = stream[0].reference
    again = type(stream[0])(
        "task-0b", (5, 2), *(type(rows)(v.x + 0.1, v.labels, v.ids + 500, v.key) for v in (stream[0].data, rows))
    )
    learner = world.learn(world.learner(strategy), [*stream[:2], again, stream[2]])
    assert learner.model.classes == (5, 2, 7, 0, 1, 6)
    assert bool(world.scores(learner, world.noise(range(8), 2, "test")).isfinite().all())

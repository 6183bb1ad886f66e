"""EASE against slow loops written down from the formulas, and in the limits where it becomes something simpler."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from cl_framework.errors import UserError
from cl_framework.memory.tensor_store import Key
from cl_framework.methods.adapter_routing import complete
from cl_framework.streams.events import Experience
from cl_framework.streams.samples import Joined, Rows
from strategies.learning.ease import EASE
from strategies.learning.simplecil import SimpleCIL


def cos(u, v):
    return float(u @ v) / max(float(u.norm()) * float(v.norm()), 1e-12)


def slow_complete(prototypes, owner, newest):
    """Class by class: ``A_ij = softmax_j cos(P[i, t], P[j, t])`` for i of task t, j of the later classes; then mix."""
    filled = prototypes.clone()
    for s in range(len(prototypes)):
        for i, t in enumerate(owner.tolist()):
            if t >= s:
                continue
            later = [j for j, o in enumerate(owner.tolist()) if (o == s if newest else o >= s)]
            weights = [math.exp(cos(prototypes[t, i], prototypes[t, j])) for j in later]
            mixture = [w / sum(weights) * prototypes[s, j] for w, j in zip(weights, later, strict=True)]
            filled[s, i] = torch.stack(mixture).sum(0)
    return filled


def slow_scores(learner, samples):
    """Sample by sample, class by class: own space, others by ``alpha`` over their number, pristine by ``beta``."""
    model, ease = learner.model, learner.strategy
    spaces = list(model.experiences)
    owner = torch.tensor([spaces.index(model.known[c]) for c in model.classes])
    table = torch.full((len(spaces), len(owner), model.backbone.width), 7.7)  # missing rows must not be looked at
    for i, c in enumerate(model.classes):
        for s in range(int(owner[i]) + 1):
            table[s, i] = ease.prototypes[Key(c, spaces[s])]
    table = slow_complete(table, owner, ease.complement == "newest")
    out = torch.zeros(len(samples), len(owner))
    for n in range(len(samples)):
        x = samples[[n]].x
        f = [model.features(x, space)[0] for space in spaces]
        for i, c in enumerate(model.classes):
            t, b = int(owner[i]), len(spaces) - 1
            score = cos(f[t], table[t, i])
            for s in range(len(spaces)):
                if s != t:
                    score += ease.alpha / b * cos(f[s], table[s, i])
            if ease.use_init_ptm:
                score += ease.beta * cos(model.features(x, ())[0], ease.prototypes[Key(c)])
            out[n, i] = score
    return out


@pytest.fixture
def means():
    """Nearest class means by cosine, from scratch, in the space of one adapter."""

    def score(learner, space, events, samples):
        reference = Joined([e.reference for e in events])
        z = learner.model.features(reference.where(reference.labels > -1)[list(range(len(reference)))].x, space)
        rows = torch.stack([z[reference.labels == c].mean(0) for c in learner.model.classes])
        f = learner.model.features(samples[list(range(len(samples)))].x, space)
        return normalize(f, dim=1) @ normalize(rows, dim=1).T

    return score


@pytest.mark.parametrize("newest", [False, True], ids=["all later", "newest"])
@pytest.mark.parametrize("sizes", [(3,), (2, 2), (1, 4, 2), (2, 1, 3, 2)], ids=str)
def test_complements_equal_the_double_loop(sizes, newest):
    rng = torch.Generator().manual_seed(sum(sizes))
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    table = torch.randn(len(sizes), len(owner), 5, generator=rng) + 0.5
    filled = complete(table, owner, newest)
    torch.testing.assert_close(filled, slow_complete(table, owner, newest))
    true = owner[None] >= torch.arange(len(sizes))[:, None]
    assert torch.equal(filled[true], table[true])


def test_complements_do_not_depend_on_how_classes_are_ordered():
    owner, table = torch.tensor([0, 0, 1, 2, 2]), torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(complete(table[:, order], owner[order]), complete(table, owner)[:, order])


def test_what_stands_in_missing_rows_is_ignored():
    owner, table = torch.tensor([0, 0, 1, 2]), torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(2))
    missing = owner[None] < torch.arange(3)[:, None]
    other = torch.where(missing[..., None], torch.full_like(table, 1e3), table)
    assert torch.equal(complete(table, owner), complete(other, owner))


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"complement": "all_later_as_released"},
        {"alpha": 1.0, "use_init_ptm": True, "beta": 0.5},
        {"alpha": 0, "use_init_ptm": 1},
    ],
    ids=str,
)
def test_scores_equal_the_published_sum(settings, world, stream):
    learner = world.learn(world.learner(EASE(**settings)), stream[:3])
    test = world.noise(range(8), 2, "test")
    torch.testing.assert_close(world.scores(learner, test), slow_scores(learner, test), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_one_experience_is_nearest_class_mean_in_the_adapters_space(world, stream, means):
    learner = world.learn(world.learner(EASE()), stream[:1])
    test = world.noise((5, 2), 8, "test")
    torch.testing.assert_close(world.scores(learner, test), means(learner, "task-0", stream[:1], test))
    assert not torch.allclose(world.scores(learner, test), means(learner, (), stream[:1], test), atol=1e-4)


@torch.no_grad()
def test_without_alpha_a_class_is_scored_in_its_own_space_only(world, stream, means):
    learner = world.learn(world.learner(EASE(alpha=0)), stream[:3])
    test = world.noise(range(8), 4, "test")
    scores = world.scores(learner, test)
    for t, event in enumerate(stream[:3]):
        own = means(learner, event.name, stream[:3], test)[:, 2 * t : 2 * t + 2]
        torch.testing.assert_close(scores[:, 2 * t : 2 * t + 2], own)


def test_with_adapters_that_learn_nothing_it_is_simplecil(world, stream):
    still = world.learner(EASE(alpha=0), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    test = world.noise(range(8), 4, "test")
    torch.testing.assert_close(
        world.scores(world.learn(still, stream[:3]), test),
        world.scores(world.learn(world.learner(SimpleCIL()), stream[:3]), test),
    )


def test_prototypes_are_filed_by_class_and_space_for_the_spaces_up_to_their_own(world, stream):
    learner = world.learn(world.learner(EASE(use_init_ptm=True)), stream[:2])
    expected = {(c, space) for c in (5, 2, 7, 0) for space in (None, "task-0")} | {(7, "task-1"), (0, "task-1")}
    assert {(e.cls, e.experience) for e in learner.strategy.prototypes} == expected


def test_each_experience_trains_a_fresh_adapter_and_leaves_the_earlier_ones_alone(world, stream):
    learner = world.learn(world.learner(EASE()), stream[:1])
    first = world.clone(learner.model.adapters.state_dict())
    world.learn(learner, stream[1:3], stream[:1])
    after = learner.model.adapters.state_dict()
    assert list(learner.model.adapters) == ["task-0", "task-1", "task-2"]
    assert all(torch.equal(v, after[k]) for k, v in first.items())
    assert not learner.model.head.classes, "the head it trains under is thrown away"


def test_prototypes_come_from_the_test_transform(world, stream):
    """The training view of this world is brighter; an experience without it must give the same prototypes."""
    event = stream[0]
    dark = Rows(torch.zeros_like(event.data.x), event.data.labels, event.data.ids, None)
    one = world.learn(world.learner(SimpleCIL()), [event])
    two = world.learn(world.learner(SimpleCIL()), [Experience(event.name, event.classes, dark, event.reference)])
    assert world.differences(one, two) == []


def test_one_sample_is_scored_by_cosines_only(world, stream):
    learner = world.learn(world.learner(EASE(alpha=1.0)), stream[:2])
    scores = world.scores(learner, world.noise(range(8), 2, "test"))
    assert scores.abs().max() <= 2


# --- routes -----------------------------------------------------------------------------------------------------------


def slow_routed(learner, samples, k):
    """One sample at a time: the k experiences of its nearest plain means, and the score of each class among them."""
    model, ease = learner.model, learner.strategy
    out = torch.empty(len(samples), len(model.classes))
    for n, x in enumerate(samples.x):
        z = model.features(x[None], ())[0]
        near = {name: -2.0 for name in model.experiences}
        for c, name in model.known.items():
            near[name] = max(near[name], float(cos(z, ease.prototypes[Key(c)])))
        visited = sorted(near, key=near.get, reverse=True)[:k]
        table, _ = ease.subspaces(model)
        for i, c in enumerate(model.classes):
            seen = {name: cos(model.features(x[None], name)[0], table[model.experiences.index(name), i])
                    for name in visited}  # fmt: skip
            own = seen.pop(model.known[c], -1.0)
            out[n, i] = own + ease.alpha * (sum(seen.values()) / max(len(seen), 1))
    return out


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_routed_sample_is_scored_where_its_nearest_plain_means_are_and_passed_there_only(k, world, stream):
    learner = world.learn(world.learner(EASE(alpha=0.5, route=f"nearest:{k}")), stream)
    test = world.noise(range(8), 6, "test")
    before = learner.model.passes.total()
    scores = world.scores(learner, test)
    assert learner.model.passes.total() - before == (1 + k) * len(test)
    torch.testing.assert_close(scores, slow_routed(learner, test, k), atol=1e-5, rtol=1e-5)
    for batch in (1, 7):
        other = world.scores(learner, test, batch)
        assert torch.equal(other.argmax(1), scores.argmax(1))
        torch.testing.assert_close(other, scores, atol=1e-6, rtol=1e-6)


def test_a_route_through_all_subspaces_is_none(world, stream):
    test = world.noise(range(8), 4, "test")
    one, two, three = (
        world.learn(world.learner(EASE(route=route)), stream) for route in (None, "nearest:4", "nearest:9")
    )
    assert torch.equal(world.scores(one, test), world.scores(two, test))
    assert torch.equal(world.scores(one, test), world.scores(three, test))


@pytest.mark.parametrize("route", ["nearest", "nearest:0", "nearest:two", "far:2", ""])
def test_a_route_that_leads_nowhere_is_refused(route):
    with pytest.raises(UserError, match="nearest:k"):
        EASE(route=route)

"""MOS: retrieval against a loop over single samples, merging against its formula, and the limit of one experience."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from cl_framework.adapters.merging import pull
from cl_framework.errors import UserError
from cl_framework.memory.tensor_store import Key
from cl_framework.methods.competition import separation_loss
from cl_framework.methods.lessons import plans
from cl_framework.streams.events import forget_request
from strategies.learning.mos import MOS
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.head_rows import HeadRows


def sgd(lr, **options):
    return lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9, **options)


def slow_scores(learner, x, first="task-0"):
    """One sample through the published loop: the log of both softmaxes' sum, and the adapters it went to, in order."""
    model, mos, names = learner.model, learner.strategy, list(learner.model.experiences)
    task = [names.index(model.known[c]) for c in model.classes]
    z0 = model.features(x[None], first)[0]
    near = torch.stack([torch.cosine_similarity(z0, mos.prototypes[Key(c, first)], 0) for c in model.classes])
    tau, visited, times = task[int(near.argmax())], [first], 0
    while times < mos.refinements:
        logits = model.head(model.features(x[None], names[tau]))[0]
        visited.append(names[tau])
        times += 1
        after = task[int(logits.argmax())]
        if after == tau:
            break
        tau = after
    return (logits.softmax(0) + (len(names) * near).softmax(0)).log(), visited


@pytest.fixture
def torn(world, stream):
    """A learner whose adapters disagree so much that samples are sent on and back."""

    def make(**settings):
        learner = world.learn(world.learner(MOS(align_epochs=0, **settings)), stream)
        torch.manual_seed(3)
        for name in learner.model.adapters:
            for p in learner.model.adapters.params(name):
                torch.nn.init.normal_(p)
        torch.nn.init.normal_(learner.model.head.weight)
        return learner

    return make


@torch.no_grad()
@pytest.mark.parametrize("refinements", [1, 2, 4, 9])
def test_retrieval_equals_the_loop_over_samples_and_passes_only_where_they_went(refinements, torn, world):
    learner, test = torn(refinements=refinements), world.noise(range(8), 12, "test")
    learner.eval()
    slow = [slow_scores(learner, x) for x in test.x]
    before = sum(learner.model.passes.values())
    scores = world.scores(learner, test)
    torch.testing.assert_close(scores, torch.stack([s for s, _ in slow]), atol=1e-4, rtol=1e-4)
    assert sum(learner.model.passes.values()) - before == sum(len(set(visited)) for _, visited in slow)
    if refinements > 2:
        assert max(len(set(visited)) for _, visited in slow) > 2, "the test is too easy"


@torch.no_grad()
def test_one_experience_is_the_head_and_the_prototypes_together(world, stream):
    learner = world.learn(world.learner(MOS(toward=0.0)), stream[:1])
    model, test = learner.model, world.noise((5, 2), 8, "test")
    z, _ = model.embed(test, "task-0")
    seen, y = model.embed(stream[0].reference, "task-0")
    means = torch.stack([seen[y == c].mean(0) for c in model.classes])
    both = model.head(z).softmax(1) + (normalize(z, dim=1) @ normalize(means, dim=1).T).softmax(1)
    torch.testing.assert_close(world.scores(learner, test), both.log())


def test_a_merge_is_the_published_step():
    p, others = torch.nn.Parameter(torch.randn(3, 2)), [torch.randn(3, 2) for _ in range(4)]
    expected = 0.9 * p.detach() + 0.1 / 4 * sum(others)
    pull([p], [torch.stack(others).mean(0)], 0.1)
    torch.testing.assert_close(p.detach(), expected)
    thirteen = p.detach().clone()
    for _ in range(13):
        thirteen = 0.9 * thirteen + 0.1 * others[0]
    pull([p], [others[0]], 1 - 0.9**13)
    torch.testing.assert_close(p.detach(), thirteen)


def weights(model, name):
    return [p.detach().clone() for p in model.adapters.params(name)]


def test_an_adapter_starts_as_the_newest_and_is_drawn_to_the_mean_of_all(world, stream):
    learner = world.learn(world.learner(MOS(align_epochs=0), optimizer=sgd(0.0)), stream[:2])
    model = learner.model
    for p in model.adapters.params("task-1"):
        torch.nn.init.normal_(p)
    first, second = weights(model, "task-0"), weights(model, "task-1")
    world.learn(learner, stream[2:3], stream[:2])
    kept = 0.9**6  # two epochs of three steps without learning
    for a, b, c in zip(first, second, weights(model, "task-2"), strict=True):
        torch.testing.assert_close(c, kept * b + (1 - kept) * (a + b) / 2)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(model, "task-0"), strict=True))


def test_in_the_limit_of_released_merging_a_finished_adapter_is_the_mean_of_its_predecessors(world, stream):
    learner = world.learn(world.learner(MOS("reference_inplace", align_epochs=0), optimizer=sgd(0.1)), stream[:3])
    model, store = learner.model, learner.strategy.trained
    first, second, third = (weights(model, f"task-{t}") for t in range(3))
    for k, (a, b, c) in enumerate(zip(first, second, third, strict=True)):
        trained = store[Key(experience="task-1", name=str(k))]
        assert torch.equal(store[Key(experience="task-0", name=str(k))], a)
        assert torch.equal(a, b)
        torch.testing.assert_close(c, (a + trained) / 2)
    assert any((store[Key(experience="task-1", name=str(k))] - a).abs().max() > 0 for k, a in enumerate(first))
    gaussian = learner.strategy.gaussians.of(7)[0]  # a class of task-1, measured where it will be answered
    z, y = model.embed(stream[1].reference, "task-0")
    torch.testing.assert_close(gaussian, z[y == 7].mean(0))


def test_released_merging_keeps_less_of_each_step(world, stream):
    """Small steps add up times what merging keeps of them: 0.9, or 0.9 once and again for the only block."""
    far = {}
    for merge in ("once_per_step", "reference_inplace"):
        learner = world.learn(world.learner(MOS(merge=merge, align_epochs=0), optimizer=sgd(1e-3)), stream[:2])
        first, second = (learner.strategy.trained_weights(learner.model, f"task-{t}") for t in range(2))
        far[merge] = sum(float((a - b).norm()) for a, b in zip(first, second, strict=True))
    assert 0 < far["reference_inplace"] < 0.95 * far["once_per_step"]


def test_old_rows_learn_nothing_from_new_classes(world, stream):
    learner = world.learn(world.learner(MOS(align_epochs=0), optimizer=sgd(0.05)), stream[:1])
    rows = learner.model.head.weight.detach().clone()
    world.learn(learner, stream[1:2], stream[:1])
    assert torch.equal(learner.model.head.weight[:2], rows)


def test_the_released_contrast_asks_each_row_to_be_most_like_itself():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    losses = [cross_entropy(torch.stack([r @ other / 0.8 for other in rows])[None], torch.tensor([i]))
              for i, r in enumerate(rows)]  # fmt: skip
    torch.testing.assert_close(separation_loss(rows), torch.stack(losses).mean())


def test_the_contrast_is_among_the_batch_and_the_means_of_old_classes(world, stream):
    learner = world.learn(world.learner(MOS(contrast=0.1, align_epochs=0)), stream[:1])
    plan = next(iter(plans(learner.model, learner.strategy, learner.unlearner, stream[1])))
    learner.eval()
    model, batch = learner.model, stream[1].data[[0, 3, 5, 8]]
    z = model.features(batch.x, "task-1")
    old = [learner.strategy.gaussians.of(c)[0] for c in stream[0].classes]
    right = torch.tensor([(7, 0).index(c) for c in batch.y.tolist()])
    entropy = cross_entropy(model.head(z)[:, 2:], right)
    wanted = entropy + 0.1 * separation_loss(torch.stack([*old, *z]))
    assert not torch.isclose(separation_loss(torch.stack([*old, *z])), separation_loss(z))
    torch.testing.assert_close(plan.loss(model, batch), wanted)


def test_the_head_learns_at_a_tenth_of_the_rate(world, stream):
    learner = world.learner(MOS(), schedule="constant", optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    learner.trainer = world.BUILD()
    learner.plan = next(iter(learner.strategy.learn(learner.model, stream[0])))
    assert [g["lr"] for g in learner.configure_optimizers().param_groups] == [0.5, 0.05]


def test_the_released_contrast_is_part_of_training(world, stream):
    one, two = (world.learn(world.learner(MOS(contrast=c, align_epochs=0)), stream[:2]) for c in (0.0, 0.1))
    assert not torch.equal(weights(one.model, "task-0")[0], weights(two.model, "task-0")[0])
    assert (two.answer(stream[1].data) == stream[1].data.labels).float().mean() > 0.8


def test_diagonal_statistics_are_enough(world, stream):
    learner = world.learn(world.learner(MOS(diagonal=True, align_epochs=3)), stream[:3])
    assert {v.shape for v in learner.strategy.gaussians.filed.buffers()} == {(16,)}
    assert all((learner.answer(e.reference) == e.reference.labels).float().mean() > 0.8 for e in stream[:3])


def test_an_adapter_says_what_its_predecessors_met(world, stream):
    model = world.learn(world.learner(MOS(align_epochs=0)), stream[:3]).model
    met = {name: {e for e, _ in model.adapters.origins[name]} for name in model.adapters}
    assert met == {"task-0": {"task-0"}, "task-1": {"task-0", "task-1"}, "task-2": {"task-0", "task-1", "task-2"}}


@pytest.mark.parametrize("merge", ["once_per_step", "reference_inplace"])
def test_adapters_outlive_their_experience_but_no_sample_is_sent_to_them(merge, world, stream):
    request = forget_request("f", stream[:3], experiences=["task-0"], classes=[7])
    learner = world.learn(world.learner(MOS(merge, align_epochs=3), HeadRows()), [*stream[:3], request])
    assert list(learner.model.adapters) == ["task-0", "task-1", "task-2"]
    assert {e.cls for e in learner.strategy.prototypes} == {0, 1, 6}
    assert not any(e.cls in (5, 2, 7) for e in learner.strategy.gaussians.filed)
    learner.eval()
    test = world.noise(range(8), 3, "test")
    with torch.no_grad():
        slow = [slow_scores(learner, x) for x in test.x]
    torch.testing.assert_close(world.scores(learner, test), torch.stack([s for s, _ in slow]), atol=1e-4, rtol=1e-4)
    assert {name for _, visited in slow for name in visited[1:]} <= {"task-1", "task-2"}
    world.learn(learner, [stream[3]], request.remaining)
    assert list(learner.model.adapters) == ["task-0", "task-1", "task-2", "task-3"]
    assert (learner.answer(stream[3].data) == stream[3].data.labels).float().mean() > 0.8


def test_it_refuses_to_drop_what_later_adapters_were_made_of(world, stream):
    learner = world.learn(world.learner(MOS(align_epochs=0), DropAdapter()), stream[:2])
    with pytest.raises(UserError, match="MOS shares its trained state"):
        world.learn(learner, [forget_request("f", stream[:2], experiences=["task-0"])], stream[:2])


@torch.no_grad()
def test_adapters_that_samples_are_sent_to_share_their_passes(torn, world):
    """Each round sends 8 samples to up to four adapters: one chunk, where one by one would take as many as adapters."""
    learner, test = torn(), world.noise(range(8), 1, "test")
    counts = {}
    for batched in (True, False):
        learner.model.frozen.batched, sizes = batched, []
        hook = learner.model.backbone.mlp.register_forward_hook(lambda _, x, __, sizes=sizes: sizes.append(len(x[0])))
        scores = world.scores(learner, test)
        hook.remove()
        counts[batched] = scores, sizes
    torch.testing.assert_close(counts[True][0], counts[False][0], atol=1e-4, rtol=1e-4)
    assert set(counts[True][1]) == {64}
    assert len(counts[True][1]) < len(counts[False][1])

"""Subspaces: penalties against slow loops, what is remembered, and what strategies promise about where they write."""

import itertools

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.adapters.low_rank import LowRank, factors, frozen_weight, kept_off, overlaps, past_directions, total
from cl_framework.backbones.timm_sites import transformer_sites
from cl_framework.engine import lineage, loop
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.functional.subspaces import (
    Remembered,
    basis,
    diversity,
    interference,
    leading,
    off,
    overlap,
    preservation,
    remember,
    rotation,
    top_block,
)
from cl_framework.methods import adapter_chain
from cl_framework.methods.base import Plan, Strategy
from cl_framework.methods.losses import classify_among
from cl_framework.streams.events import Experience, forget_request
from cl_framework.streams.samples import Rows
from strategies.learning import inf_lora, osf
from strategies.learning.inf_lora import InfLoRA
from strategies.learning.o_lora import OLoRA
from strategies.learning.orthogonal_adaptation import OrthogonalAdaptation
from strategies.learning.osf import OSF
from strategies.learning.pego import PEGO
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain

METHODS = [PEGO, OLoRA, InfLoRA, OrthogonalAdaptation, OSF]
NORMS = {"squared": lambda v: v * v, "l1": abs}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(p, q, cosines):
    value = sum(x * y for x, y in zip(p.tolist(), q.tolist(), strict=True))
    return value / (float(p.norm()) * float(q.norm())) if cosines else value


def slow_interference(new, old, norm, cosines):
    """One factor against one factor."""
    entries = [NORMS[norm](dot(p, q, cosines)) for p in new for q in old]
    return sum(entries) / (len(entries) if cosines else 1)


@pytest.fixture
def adam():
    return lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1)


@pytest.mark.parametrize("cosines", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_penalties_are_what_slow_loops_say(norm, cosines):
    group, others, weight = drawn(3, 2, 6), drawn(4, 2, 6, seed=1), drawn(5, 6, seed=2)
    slow = sum(slow_interference(group[0], old, norm, cosines) for old in others)
    assert interference(group[0], others, norm, cosines).item() == pytest.approx(slow)

    size = 1 if cosines else sum(NORMS[norm](v) for v in weight.flatten().tolist())
    slow = sum(slow_interference(a, weight, norm, cosines) for a in group) / (3 * size)
    assert preservation(group, weight, norm, cosines).item() == pytest.approx(slow)

    pairs = [*itertools.combinations(group, 2), *itertools.product(group, others)]
    slow = sum(slow_interference(a, b, norm, cosines) for a, b in pairs) / len(pairs)
    assert diversity(group, others, norm, cosines).item() == pytest.approx(slow)
    slow = sum(slow_interference(a, b, norm, cosines) for a, b in itertools.combinations(group, 2)) / 3
    assert diversity(group, None, norm, cosines).item() == pytest.approx(slow)


def test_penalties_reach_the_factors_at_the_first_step_and_cosines_do_not_shrink_them():
    a = drawn(2, 2, 6).requires_grad_()
    (preservation(a, drawn(5, 6, seed=2)) + diversity(a)).backward()
    assert (a.grad.flatten(1).norm(dim=1) > 0).all()
    row = drawn(1, 6).requires_grad_()
    interference(row, drawn(3, 6, seed=1), cosines=True).backward()
    assert (row * row.grad).sum().item() == pytest.approx(0, abs=1e-12)  # at right angles to the row itself


def test_overlap_is_one_within_zero_apart_and_does_not_care_for_the_basis():
    q = rotation(8, 0)
    one, two = q[:, :3], q[:, 3:6]
    assert overlap(one, one) == pytest.approx(1)
    assert overlap(one, two) == pytest.approx(0, abs=1e-12)
    assert overlap(one, one[:, :2]) == pytest.approx(1)
    rows = torch.cat([one.T, one[:, :1].T])  # one direction twice
    assert basis(drawn(4, 4) @ rows).shape == (8, 3)
    assert overlap(basis(drawn(4, 4) @ rows), one) == pytest.approx(1)
    assert overlap(basis(torch.zeros(2, 8)), one) == 0


def test_rows_projected_off_a_basis_have_nothing_left_in_it():
    base = basis(drawn(3, 8))
    left = off(drawn(5, 8, seed=1), base)
    assert (left @ base).abs().max() < 1e-12
    assert torch.allclose(off(left, base), left)


def slow_dual_gpm(past, moment, threshold):
    """The released loop, with one rule for how many directions it takes and the exchange done right."""
    kind, base = past if past else ("remove", torch.zeros(len(moment), 0, dtype=moment.dtype))
    whole = sum(s**2 for s in torch.linalg.svdvals(moment).tolist())
    inside = base @ base.T @ moment
    u, s, _ = torch.linalg.svd(moment - inside if kind == "remove" else inside)
    explained, taken = (whole - sum(v**2 for v in s.tolist())) / whole, 0
    while explained < threshold - 1e-12:
        explained += s[taken].item() ** 2 / whole
        taken += 1
    if kind == "remove":
        base = torch.cat([base, u[:, :taken]], 1)
        if base.shape[1] > len(moment) / 2:
            kind, base = "retain", torch.linalg.svd(base)[0][:, base.shape[1] :]
    else:
        gone = u[:, :taken]
        base = torch.linalg.svd(base - gone @ gone.T @ base)[0][:, : base.shape[1] - taken]
    return kind, base


@pytest.mark.parametrize(
    "thresholds", [(0.5, 0.6, 0.7, 0.9), (0.9, 0.95, 0.99, 1.0), (0.999, 0.999, 1.0, 1.0)], ids=str
)
def test_dual_gpm_is_the_literal_loop_through_the_exchange(thresholds):
    now, slow, kinds = None, None, []
    for t, threshold in enumerate(thresholds):
        x = (
            drawn(40, 10, seed=t)
            * torch.logspace(0, -1.5, 10)[torch.randperm(10, generator=torch.Generator().manual_seed(t))]
        )
        moment = x.T @ x / 40
        now, slow = remember(now, moment, threshold), slow_dual_gpm(slow, moment, threshold)
        kinds.append(slow[0])
        assert ("retain" if now.free else "remove") == slow[0]
        assert now.base.shape == slow[1].shape
        assert now.base.shape[1] <= 5
        assert torch.allclose(now.base.T @ now.base, torch.eye(now.base.shape[1]).double(), atol=1e-10)
        assert torch.allclose(now.base @ now.base.T, slow[1] @ slow[1].T, atol=1e-8)
        lost = now.left(moment)
        assert lost.square().sum() <= (1 - threshold + 1e-9) * moment.square().sum()
    assert kinds[-1] == ("retain" if thresholds[-1] == 1 else "remove")


def test_what_is_remembered_never_shrinks_and_a_large_first_basis_is_exchanged():
    moment = torch.eye(6).double()
    first = remember(None, moment, 0.8)
    assert first.free
    assert first.base.shape == (6, 1)  # five of six directions hold 0.8 of the energy; the sixth stays free
    assert remember(first, moment, 0.8).base.shape == (6, 1)
    full = remember(first, moment, 1.0)
    assert full.base.shape == (6, 0)
    assert remember(full, moment, 1.0).base.shape == (6, 0)
    assert not leading(moment, 2, full).any()


def test_new_directions_are_the_strongest_outside_what_is_remembered():
    past = Remembered(torch.eye(5)[:, :2].double())
    moment = torch.diag(torch.tensor([9.0, 8.0, 1.0, 3.0, 2.0])).double()
    assert leading(moment, 2, past).abs().tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    thin = torch.outer(past.base[:, 0], past.base[:, 0])  # nothing outside: no arbitrary direction comes back
    assert not leading(thin, 2, past).any()
    assert leading(moment, 7).shape == (7, 5)


def test_a_fused_map_has_a_frozen_weight_for_each_part():
    body = VisionTransformer(img_size=32, patch_size=16, embed_dim=12, depth=1, num_heads=2, num_classes=0)
    sites = transformer_sites(body)
    parts = [frozen_weight(next(s for s in sites.values() if s.role == role)) for role in ("query", "key", "value")]
    assert torch.equal(torch.cat(parts), body.blocks[0].attn.qkv.weight)
    with pytest.raises(UserError, match="choose linear maps"):
        frozen_weight(next(s for s in sites.values() if s.role == "block_mlp"))


def test_input_moments_are_those_of_what_the_maps_read(world, stream):
    model = world.learner(OLoRA()).model
    seen = {"query": [], "value": []}
    for name, kept in seen.items():
        model.adapters.sites[name].module.register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0]))
    found = adapter_chain.input_moments(model, stream[0].data, batch=7)
    for name, kept in seen.items():
        x = torch.cat(kept).double()
        assert torch.allclose(found[name], sum(torch.outer(r, r) for r in x) / len(x))
    assert sum(map(len, seen["query"])) == len(stream[0].data)


@pytest.mark.parametrize("kind", METHODS)
def test_adapters_without_factors_are_refused_when_the_config_is_read(kind, world):
    with pytest.raises(UserError, match=rf"{kind.__name__} works on LowRank adapters.*set `model.adapter: .*LoRA"):
        world.learner(kind(), adapter=Bottleneck(4))


class _Sequential(Strategy):
    """Low-rank corrections one on top of the other, written down by hand."""

    def learn(self, model, event):
        model.ready(event.name, event.classes)
        names = list(model.adapters)
        params = [*model.adapters.params(event.name), *model.head.parameters()]
        old = [p.detach().clone() for p in model.head.parameters()]

        def put_back(model):
            with torch.no_grad():
                for p, was in zip(model.head.parameters(), old, strict=True):
                    p[: len(p) - len(event.classes)] = was[: len(p) - len(event.classes)]

        def loss(model, batch):
            return classify_among(model, model.head(model.features(batch.x, names)), batch.y, event.classes)

        yield Plan(event.data, params, loss, after_step=put_back)

    def predict(self, model, x):
        return model.head(model.features(x, list(model.adapters)))


@pytest.mark.parametrize(
    "kind", [OLoRA(weight=0), PEGO(preserve=0, diversify=0), OSF(effective_rank=0)], ids=lambda s: type(s).__name__
)
def test_without_its_constraint_each_is_plain_sequential_lora(kind, world, stream):
    plain = world.learn(world.learner(_Sequential(), adapter=LoRA(4)), stream[:3])
    assert world.differences(world.learn(world.learner(kind), stream[:3]), plain, 1e-6) == []


@pytest.mark.parametrize("compete", ["current", "all"])
def test_rows_of_earlier_classes_stay_unless_all_compete(compete, world, stream, adam):
    learner = world.learn(world.learner(OLoRA(compete=compete), optimizer=adam), stream[:1])
    before = [p.detach().clone() for p in learner.model.head.parameters()]
    world.learn(learner, stream[1:2], stream[:1])
    same = [torch.equal(p[:2], was) for p, was in zip(learner.model.head.parameters(), before, strict=True)]
    assert same == [compete == "current"] * 2


@pytest.mark.parametrize("kind", METHODS[:3] + METHODS[4:])
def test_a_class_may_come_again_from_another_domain(kind, world, stream):
    first = stream[0]
    again = Rows(first.data.x.flip(-1), first.data.labels, first.data.ids + 500)
    second = Experience("elsewhere", first.classes, again, again)
    learner = world.learn(world.learner(kind(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)), [first])
    world.learn(learner, [second], [first])
    assert list(learner.model.adapters) == ["task-0", "elsewhere"]
    assert learner.model.classes == first.classes
    assert (learner.answer(again) == again.labels).float().mean() > 0.8


def test_earlier_corrections_stay_bit_for_bit_and_in_use(world, stream, adam):
    for kind in METHODS:
        learner = world.learn(world.learner(kind(), optimizer=adam), stream[:1])
        first = world.clone(learner.model.adapters.rewrites["task-0"].state_dict())
        world.learn(learner, stream[1:3], stream[:1])
        after = learner.model.adapters.rewrites["task-0"].state_dict()
        assert all(torch.equal(after[k], first[k]) for k in first), kind
        x = stream[0].data
        scores = world.scores(learner, x)
        with torch.no_grad():
            learner.model.adapters.rewrites["task-0"]["value"].b.add_(1.0)
        assert not torch.allclose(world.scores(learner, x), scores), kind


SITES = LoRA(4, roles=("query", "value", "mlp_in"))  # three sites of two shapes


def begun(world, stream, strategy, make):
    """A learner in the middle of its third experience: its model, plan, and a batch."""
    learner = world.learn(world.learner(strategy, adapter=SITES, optimizer=make), stream[:2])
    learner.model.meet(stream[2])
    plan = next(iter(learner.strategy.learn(learner.model, stream[2])))
    with torch.no_grad():
        for p in learner.model.adapters.params("task-2"):
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4)))
    return learner.model, plan, stream[2].data[range(8)]


def slow_fit(model, batch, classes):
    """The cross-entropy over some classes, sample by sample."""
    columns, scores = [model.head.classes.index(c) for c in classes], model(batch.x).double()
    losses = [-scores[i, columns].softmax(0)[classes.index(c)].log().item() for i, c in enumerate(batch.y.tolist())]
    return sum(losses) / len(losses)


def rows_of(model, name, site, side):
    rewrite = model.adapters.rewrites[name][site]
    return rewrite.a if side == "input" else rewrite.b.T


@pytest.mark.parametrize(("norm", "side"), [("squared", "input"), ("l1", "input"), ("squared", "output")])
@torch.no_grad()
def test_the_loss_of_o_lora_sums_over_sites_and_earlier_experiences(norm, side, world, stream, adam):
    with torch.enable_grad():
        model, plan, batch = begun(world, stream, OLoRA(0.3, 0.2, norm, side), adam)
    apart = size = 0.0
    for site in ("query", "value", "mlp_in"):
        for old in ("task-0", "task-1"):
            for p in rows_of(model, old, site, side):
                apart += sum(NORMS[norm](dot(p, q, False)) for q in rows_of(model, "task-2", site, side))
        rewrite = model.adapters.rewrites["task-2"][site]
        size += sum(sum(v * v for v in p.flatten().tolist()) ** 0.5 for p in (rewrite.a, rewrite.b))
    assert min(0.3 * apart, 0.2 * size) > 0.01
    expected = slow_fit(model, batch, stream[2].classes) + 0.3 * apart + 0.2 * size
    assert plan.loss(model, batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("norm", "side"), [("squared", "input"), ("l1", "input"), ("squared", "output")])
@torch.no_grad()
def test_the_loss_of_pego_is_a_mean_over_sites_members_and_pairs(norm, side, world, stream, adam):
    with torch.enable_grad():
        model, plan, batch = begun(world, stream, PEGO(0.3, 0.2, group=2, norm=norm, side=side), adam)
    kept, apart, size = [], [], NORMS[norm]
    for site in ("query", "value", "mlp_in"):
        weight = frozen_weight(model.adapters.sites[site])
        weight = weight if side == "input" else weight.T
        old, older, mine = (rows_of(model, f"task-{t}", site, side).split(2) for t in (1, 0, 2))
        whole = sum(size(v) for v in weight.flatten().tolist())
        kept += [sum(size(dot(p, w, False)) for p in member for w in weight) / whole for member in mine]
        for one, two in [(mine[0], mine[1]), *itertools.product(mine, (*old, *older))]:
            apart.append(sum(size(dot(p, q, False)) for p in one for q in two))
    assert (len(kept), len(apart)) == (3 * 2, 3 * (1 + 2 * 4))
    preserve, diversify = 0.3 * sum(kept) / len(kept), 0.2 * sum(apart) / len(apart)
    assert min(preserve, diversify) > 0.001
    expected = slow_fit(model, batch, stream[2].classes) + preserve + diversify
    assert plan.loss(model, batch).item() == pytest.approx(expected, rel=1e-5)


def slow_moment(model, event, names):
    """What the map behind the gate reads, vector by vector, as the loop over training pictures sees it."""
    seen = []
    hook = model.backbone.mlp[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad(), model.adapters.using(*names):
        model.backbone(event.data.x)
    hook.remove()
    rows = torch.cat(seen).double()
    return sum(torch.outer(x, x) for x in rows) / len(rows)


def test_inf_lora_raises_its_threshold_and_remembers_inputs_as_training_left_them(world, stream, monkeypatch, adam):
    """Directions come from a pass before training, memories from another after it."""
    took = []

    def spied(past, moment, threshold):
        took.append((moment, threshold))
        return remember(past, moment, threshold)

    monkeypatch.setattr(inf_lora, "remember", spied)
    learner = world.learner(InfLoRA(0.8, 0.98, horizon=3), adapter=LoRA(2, roles=("value", "mlp_in")), optimizer=adam)
    names = [event.name for event in stream]
    for t, event in enumerate(stream):
        before = slow_moment(learner.model, event, names[:t])
        past = learner.strategy.past("mlp_in")
        world.learn(learner, [event], stream[:t])
        strongest = leading(before, 2, past)
        assert torch.allclose(factors(learner.model.adapters, event.name)["mlp_in"].a * 3**0.5, strongest.float())
        assert [threshold for _, threshold in took] == pytest.approx(2 * [(0.8, 0.86, 0.92, 0.98)[t]])
        after = slow_moment(learner.model, event, names[: t + 1])
        assert (after - before).norm() > 0.01 * before.norm()
        assert torch.allclose(took[1][0], after, atol=1e-5)  # of the map behind the gate, which corrections move
        took.clear()
    again = world.experience(3)
    world.learn(learner, [Experience("later", again.classes, again.data, again.reference)], stream)
    assert took[0][1] == pytest.approx(0.98), "the stream outlasts the horizon"


def mean_crossing(learner, names, side="input"):
    past = past_directions(learner.model.adapters, names, side)
    return sum(interference(r[1], r[:1], cosines=True).item() for rows in past.values() for r in rows)


@pytest.mark.parametrize("side", ["input", "output"])
def test_o_lora_keeps_new_directions_off_old_ones(side, world, stream):
    ends = []
    for weight in (0.0, 50.0):
        strategy = OLoRA(weight, side=side, cosines=side == "output")
        learner = world.learner(strategy, optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
        ends.append(mean_crossing(world.learn(learner, stream[:2]), ["task-0", "task-1"], side))
    assert ends[1] < 0.5 * ends[0]


def test_o_lora_shrinks_factors_and_survives_the_norm_of_zero(world, stream):
    learner = world.learn(world.learner(OLoRA(weight_l2=0.3)), stream[:1])
    plain = world.learn(world.learner(OLoRA()), stream[:1])
    sizes = [sum(float(p.norm()) for p in m.model.adapters.params("task-0")) for m in (learner, plain)]
    assert sizes[0] < sizes[1]


def test_pego_preserves_and_diversifies(world, stream):
    def measured(**weights):
        learner = world.learner(
            PEGO(cosines=True, top=2, **weights), adapter=LoRA(4), optimizer=lambda p: torch.optim.Adam(p, lr=0.02)
        )
        model = world.learn(learner, stream[:2]).model
        groups = [factors(model.adapters, n)["value"].a.reshape(4, 1, 16) for n in ("task-0", "task-1")]
        read = top_block(frozen_weight(model.adapters.sites["value"]), 2)[1].T.float()
        return preservation(groups[1], read, cosines=True).item(), diversity(groups[1], groups[0], cosines=True).item()

    plain, kept, apart = (measured(preserve=p, diversify=d) for p, d in ((0.0, 0.0), (20.0, 0.0), (0.0, 20.0)))
    assert kept[0] < 0.5 * plain[0]
    assert apart[1] < 0.7 * plain[1]
    with pytest.raises(UserError, match="make `rank` a multiple"):
        world.learn(world.learner(PEGO(), adapter=LoRA(10)), stream[:1])


def test_inf_lora_reads_only_free_directions_and_trains_only_the_output_side(world, stream):
    learner = world.learner(InfLoRA(0.5, 0.6, horizon=3), adapter=LoRA(2))
    for t, event in enumerate(stream):
        past = {site: learner.strategy.past(site) for site in ("query", "value")}
        world.learn(learner, [event], stream[:t])
        for site, rewrite in factors(learner.model.adapters, event.name).items():
            rows = rewrite.a.double() * 3**0.5
            assert torch.allclose(
                rows @ rows.T, torch.eye(2).double(), atol=1e-6
            )  # fixed, so weight decay did not pull
            assert rewrite.b.abs().max() > 0
            if t:
                remembered = past[site]
                touched = (
                    rows - (rows @ remembered.base) @ remembered.base.T if remembered.free else rows @ remembered.base
                )
                assert touched.abs().max() < 1e-6
    kinds = {learner.strategy.past(site).free for site in ("query", "value")}
    assert len(learner.strategy.inputs) == 2
    assert all(len(e.name.split()) == 2 for e in learner.strategy.inputs), kinds


def test_inf_lora_leaves_old_inputs_alone(world, stream):
    """What the remembered inputs are mapped to does not change, up to the share that was not remembered."""
    learner = world.learn(world.learner(InfLoRA(threshold=0.9999, threshold_end=0.9999), adapter=LoRA(2)), stream[:1])
    old = learner.model.embed(stream[0].data)[0]
    world.learn(learner, stream[1:2], stream[:1])
    now = learner.model.embed(stream[0].data, learner.model.adapters.learned)[0]
    free = world.learn(world.learner(OLoRA(0), adapter=LoRA(2)), stream[:1])
    was = free.model.embed(stream[0].data)[0]
    world.learn(free, stream[1:2], stream[:1])
    moved = free.model.embed(stream[0].data, free.model.adapters.learned)[0]
    assert (now - old).norm() < 0.5 * (moved - was).norm()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.1),
    ],
    ids=["Adam", "SGD"],
)
def test_osf_never_touches_the_top_block_of_the_weight_it_found(make, world, stream):
    learner = world.learner(OSF(0.25, growth=0.125), adapter=LoRA(4, roles=("query", "mlp_in")), optimizer=make)
    for t, event in enumerate(stream[:3]):
        bank = learner.model.adapters
        moved = total(bank, learner.model.adapters.learned) if t else {}
        found = {s: frozen_weight(site) + moved.get(s, 0) for s, site in bank.sites.items()}
        world.learn(learner, [event], stream[:t])
        for site, rewrite in factors(bank, event.name).items():
            delta, kept = rewrite.delta().detach().double(), round((0.25 + 0.125 * t) * 16)
            left, right = top_block(found[site], kept)
            assert delta.norm() > 0.001
            assert (left.T @ delta).abs().max() < 1e-5
            assert (delta @ right).abs().max() < 1e-5
            after = found[site].double() + delta
            assert torch.allclose(left.T @ after @ right, left.T @ found[site].double() @ right, atol=1e-5)


STEPS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.5),
    "SGD with momentum and decay": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
}


@pytest.mark.parametrize("make", STEPS)
@pytest.mark.parametrize("hold", ["factors", "gradients_as_released"])
def test_projected_gradients_hold_the_constraint_under_sgd_and_drift_under_adam(hold, make, world, stream):
    learner = world.learner(OSF(0.25, hold=hold), adapter=LoRA(4, roles=("query", "mlp_in")), optimizer=STEPS[make])
    bank = learner.model.adapters
    world.learn(learner, stream[:1])
    moved = total(bank, ["task-0"])
    found = {s: frozen_weight(site) + moved[s] for s, site in bank.sites.items()}
    world.learn(learner, stream[1:2], stream[:1])
    for site, rewrite in factors(bank, "task-1").items():
        left, right = (q.float() for q in top_block(found[site], 4))
        written, read = (rewrite.b.T @ left).norm() / rewrite.b.norm(), (rewrite.a @ right).norm() / rewrite.a.norm()
        assert rewrite.b.norm() > 0.001
        if (hold, make) == ("gradients_as_released", "Adam"):
            assert min(float(written), float(read)) > 0.01
        else:
            assert max(float(written), float(read)) < 1e-6


def test_edited_gradients_are_those_without_their_part_in_the_bases(world):
    bank = world.learner(OLoRA()).model.adapters
    bank.add("a")
    rewrite = factors(bank, "a")["value"]
    a, b = drawn(4, 16).float(), drawn(16, 4, seed=1).float()
    written, read = (rotation(16, seed)[:, :3].float() for seed in (2, 3))
    rewrite.a.grad, rewrite.b.grad, before = a.clone(), b.clone(), world.clone(rewrite.state_dict())
    edit = kept_off({"value": rewrite}, {"value": (written, read)}, gradients=True)
    edit(None)
    for j in range(4):  # row by row of a, column by column of b
        row, column = a[j].clone(), b[:, j].clone()
        for k in range(3):
            row -= dot(a[j], read[:, k], False) * read[:, k]
            column -= dot(b[:, j], written[:, k], False) * written[:, k]
        assert torch.allclose(rewrite.a.grad[j], row, atol=1e-5)
        assert torch.allclose(rewrite.b.grad[:, j], column, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in rewrite.state_dict().items())
    rewrite.b.grad = None  # of what the loss does not reach
    edit(None)


@pytest.mark.parametrize(
    ("rank", "growth", "kept"),
    [(0.25, 0.125, (4, 6, 8)), (3, 2, (3, 5, 7)), (1, 0.0, (1, 1, 1)), (1.0, 0.0, (16, 16, 16)), (15, 1, (15, 16, 16))],
)
def test_osf_keeps_a_share_or_a_number_by_how_it_is_written(rank, growth, kept, world, stream, monkeypatch):
    asked = []
    monkeypatch.setattr(osf, "top_block", lambda weight, rank: asked.append(rank) or top_block(weight, rank))
    world.learn(world.learner(OSF(rank, growth)), stream[:3])
    assert asked == [k for k in kept for _ in ("query", "value")]


@pytest.mark.parametrize("wrong", [(1.5,), (-0.1,), (-1,), (0.5, -0.1), (float("nan"),), (0.5, 2), (4, 0.5)], ids=str)
def test_osf_refuses_ranks_that_mean_nothing(wrong):
    with pytest.raises(UserError, match=rf"OSF .*found effective_rank={wrong[0]} and growth="):
        OSF(*wrong)


def test_disjoint_bases_do_not_meet_and_stay_as_they_are(world, stream, adam):
    learner = world.learn(world.learner(OrthogonalAdaptation(), optimizer=adam), stream)
    rows = past_directions(learner.model.adapters, [e.name for e in stream], "input")
    for found in rows.values():
        every = found[0].flatten(0, 1)
        assert (every @ every.T - torch.eye(16)).norm() < 1e-5
    x = rows["value"][0][2]  # inputs within the third correction's directions
    others = total(learner.model.adapters, ["task-0", "task-1", "task-3"])["value"]
    assert (others @ x.T).abs().max() < 1e-5
    assert total(learner.model.adapters, ["task-2"])["value"].norm() > 0.01


def test_bases_run_out_with_a_word(world, stream):
    learner = world.learn(world.learner(OrthogonalAdaptation(), adapter=LoRA(5)), stream[:3])
    with pytest.raises(
        UserError, match=r"16 directions hold 3 disjoint bases of rank 5, not 4; lower the adapter's `rank`"
    ):
        world.learn(learner, stream[3:], stream[:3])


def test_adding_corrections_up_is_a_merge_and_taking_them_out_undoes_it(world, stream, adam):
    for kind in METHODS:
        model = world.learn(world.learner(kind(), optimizer=adam), stream[:3]).model
        names, x = [e.name for e in stream[:3]], stream[0].data.x
        beside = model.features(x, names)
        merged, pristine = world.TinyBackbone(), model.features(x, ())
        bank = AdapterBank(merged, LoRA(4))
        sums = total(model.adapters, names)
        with torch.no_grad():
            for site, delta in sums.items():
                frozen_weight(bank.sites[site]).add_(delta)
            assert torch.allclose(merged(x), beside, atol=1e-5), kind
            for name in reversed(names):
                for site, delta in total(model.adapters, [name]).items():
                    frozen_weight(bank.sites[site]).sub_(delta)
        for site in sums:
            assert torch.allclose(frozen_weight(bank.sites[site]), frozen_weight(model.adapters.sites[site]), atol=1e-5)
        assert torch.allclose(merged(x), pristine, atol=1e-5)


def test_each_correction_is_trained_as_if_it_were_alone(world, stream):
    together = world.learn(world.learner(OrthogonalAdaptation("random")), stream[:3]).model
    alone = world.learn(world.learner(OrthogonalAdaptation("random")), stream[2:3]).model
    for p, q in zip(together.adapters.params("task-2"), alone.adapters.params("task-2"), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    "asked",
    [{"classes": [2]}, {"experiences": ["task-1"]}, {"samples": [2001, 6003]}, {"classes": [5], "samples": [7002]}],
    ids=str,
)
def test_random_bases_are_forgotten_exactly(asked, world, stream):
    request = forget_request("f", stream[:3], **asked)
    learner = world.learn(
        world.learner(OrthogonalAdaptation("random"), DropAdapter()), [*stream[:3], request, stream[3]]
    )
    reference = world.learn(world.learner(OrthogonalAdaptation("random")), [*request.remaining, stream[3]])
    assert world.differences(learner, reference) == []


def test_disjoint_bases_are_refused_to_drop_adapter(world, stream):
    learner = world.learn(world.learner(OrthogonalAdaptation(), DropAdapter()), stream[:1])
    with pytest.raises(UserError, match=r"OrthogonalAdaptation shares its trained state.*Retrain"):
        world.learn(learner, [forget_request("f", stream[:1], classes=[2])], stream[:1])


def test_what_inf_lora_remembers_is_said_to_come_from_everything(world, stream):
    learner = world.learn(world.learner(InfLoRA(), Retrain()), stream[:2])
    kept = [a for a in lineage.artifacts(learner) if a.kind == "inputs"]
    assert len(kept) == 2
    assert all(set(a.origin) == {("task-0", 5), ("task-0", 2), ("task-1", 7), ("task-1", 0)} for a in kept)


def test_the_engine_measures_the_overlap_of_adapters_with_factors(world, stream):
    """After learning the newest against all; after a request all that are left."""
    events = [*stream[:3], forget_request("f", stream[:3], experiences=["task-1"])]
    learner = world.learner(OrthogonalAdaptation(), Retrain())
    journal = world.Listener(learner)
    loop.run_stream(learner, world.Listed(events), world.make_trainer, Evaluator(False), journal, 8)
    found = [m.overlap for m in journal.measurements]
    assert [{new: list(row) for new, row in met.items()} for met in found] == [
        {}, {"task-1": ["task-0"]}, {"task-2": ["task-0", "task-1"]}, {"task-2": ["task-0"]},
    ]  # fmt: skip
    assert max(read for met in found for row in met.values() for read, _ in row.values()) < 1e-10
    assert min(written for met in found for row in met.values() for _, written in row.values()) > 0.05

    bank = learner.model.adapters
    bank.add("copy", like="task-0")
    bank.push("edit")
    assert overlaps(bank, "copy")["copy"]["task-0"] == pytest.approx((1, 1))
    assert "edit" not in overlaps(bank)
    plain = AdapterBank(world.TinyBackbone(), Bottleneck(4))
    plain.add("a"), plain.add("b")
    assert overlaps(plain) == {}


def test_a_rewrite_with_factors_is_one(world):
    bank = world.learner(OLoRA()).model.adapters
    bank.add("a")
    rewrite = factors(bank, "a")["value"]
    assert LowRank in type(rewrite).__mro__, "by name: a structural check sees no parameters from Python 3.12"
    with torch.no_grad():
        rewrite.b.normal_()
    x = torch.randn(3, 16)
    assert torch.allclose(rewrite(x, torch.zeros(3, 16)), x @ rewrite.delta().T, atol=1e-6)
    bank.rewrites["b"] = torch.nn.ModuleDict({"value": torch.nn.Identity()})
    with pytest.raises(TypeError, match="has no factors"):
        factors(bank, "b")

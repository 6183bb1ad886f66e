"""Merging: each formula against a literal loop, its limits, and what a bank makes of adapters in use."""

import re
from functools import partial
from pathlib import Path

import peft
import pytest
import torch

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.full import Full
from cl_framework.adapters.lora import LoRA
from cl_framework.adapters.low_rank import total
from cl_framework.adapters.merging import (
    average,
    combined,
    dare,
    dropped,
    magnitude_max,
    merge_adapters,
    refactored,
    ties,
    trimmed,
    weighted,
)
from cl_framework.adapters.peft import Peft
from cl_framework.engine import checkpoint
from cl_framework.errors import UserError
from cl_framework.storage import tensors
from strategies.learning.finetune import Finetune
from strategies.learning.o_lora import OLoRA

ROLES = ("query", "value", "mlp_in")


@pytest.fixture
def changes():
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def entries(changes):
    """Each place, with the values that the changes have there."""
    for i in range(changes.shape[1]):
        for j in range(changes.shape[2]):
            yield (i, j), [float(change[i, j]) for change in changes]


def test_average_weighted_and_magnitude_max_entry_by_entry(changes):
    weights = [0.5, -2.0, 1.5]
    for place, values in entries(changes):
        assert float(average(changes)[place]) == pytest.approx(sum(values) / 3, abs=1e-6)
        total = sum(w * v for w, v in zip(weights, values, strict=True))
        assert float(weighted(changes, weights)[place]) == pytest.approx(total, abs=1e-5)
        assert float(magnitude_max(changes)[place]) == max(values, key=abs)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_step_by_step(changes, density):
    kept = []
    for change in changes:  # trim
        order = sorted((abs(float(v)) for v in change.flatten()), reverse=True)
        least = order[round(density * 20) - 1]
        kept.append([[float(v) if abs(float(v)) >= least else 0.0 for v in row] for row in change])
    assert trimmed(changes, density).tolist() == kept
    for (i, j), _ in entries(changes):
        values = [k[i][j] for k in kept]
        sign = (sum(values) > 0) - (sum(values) < 0)  # elect
        agree = [v for v in values if v * sign > 0]
        expected = 1.5 * sum(agree) / len(agree) if agree else 0.0  # disjoint mean
        assert float(ties(changes, density, scale=1.5)[i, j]) == pytest.approx(expected, abs=1e-6)


def test_ties_trims_each_adapter_over_all_sites_at_once(changes):
    whole = trimmed(torch.cat([100 + changes, changes], 2), 0.5)
    assert bool(whole[..., :5].all())
    assert not bool(whole[..., 5:].any())


def test_ties_keeps_what_agrees_and_opposites_cancel(changes):
    close(ties(changes.abs(), density=1.0), changes.abs().mean(0))
    assert torch.equal(ties(torch.stack([changes[0], -changes[0]]), density=1.0), torch.zeros(4, 5))
    close(ties(changes[:1], density=1.0), changes[0])


def test_dare_drops_its_share_and_keeps_the_expectation(changes):
    big = torch.ones(2, 200, 200)
    thinned = dropped(big, 0.9, seed=3)
    assert thinned.unique().tolist() == [0.0, pytest.approx(10.0)]
    assert float(thinned.mean()) == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(thinned[0], thinned[1])
    assert torch.equal(thinned, dropped(big, 0.9, seed=3))
    assert not torch.equal(thinned, dropped(big, 0.9, seed=4))


def test_dare_leaves_the_dice_alone_and_without_drops_is_what_combines(changes):
    before = torch.get_rng_state()
    close(dare(changes, 0.0), changes.mean(0))
    close(dare(changes, 0.0, how=partial(weighted, weights=[1, 1, 1])), changes.sum(0))
    close(dare(changes, 0.5, 7, how=partial(ties, density=0.5)), ties(dropped(changes, 0.5, 7), 0.5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("how", [average, magnitude_max, partial(ties, density=1.0), partial(dare, share=0.0)])
def test_one_adapter_merges_into_itself_and_equals_into_their_like(changes, how):
    close(how(changes[:1]), changes[0])
    close(how(changes[:1].expand(3, 4, 5)), changes[0])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda c: ties(c, density=0.0), "above 0 and at most 1; found 0"),
        (lambda c: dropped(c, 1.0), "below 1; found 1"),
        (lambda c: weighted(c, [1.0]), "3 adapters are merged with 1 weights"),
        (lambda c: refactored(c[0], 0), "at least 1; found 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, wrong, told):
    with pytest.raises(UserError, match=told):
        wrong(changes)


def test_factors_at_full_rank_are_exact_and_else_the_best_there_are(changes):
    matrix = changes[0]
    a, b, lost = refactored(matrix)
    assert (a.shape, b.shape, lost) == ((4, 5), (4, 4), 0.0)
    close(b @ a, matrix)
    s = torch.linalg.svdvals(matrix)
    for rank in (1, 2, 3):
        a, b, lost = refactored(matrix, rank)
        assert a.shape == (rank, 5)
        error = float((b @ a - matrix).square().sum())
        assert error == pytest.approx(float(s[rank:].square().sum()), rel=1e-4)
        assert lost == pytest.approx(error / float(matrix.square().sum()), rel=1e-4)
        assert float(a.norm()) == pytest.approx(float(b.norm()), rel=1e-5)
    assert refactored(matrix, 9)[0].shape == (4, 5)


def test_as_many_factors_as_the_matrix_has_and_one_where_it_has_none():
    torch.manual_seed(0)
    matrix = torch.randn(30, 3) @ torch.randn(3, 20)
    a, b, lost = refactored(matrix)
    assert (len(a), lost < 1e-12) == (3, True)
    close(b @ a, matrix, 1e-5)
    a, b, lost = refactored(torch.zeros(6, 4))
    assert (a.shape, b.shape, lost) == ((1, 4), (6, 1), 0.0)
    assert not bool((b @ a).any())


KINDS = {
    "LoRA": LoRA(2, alpha=3, roles=ROLES),
    "peft LoRA": Peft(peft.LoraConfig(r=2, lora_alpha=3), ROLES),
    "peft LoHa": Peft(peft.LoHaConfig(r=2), ROLES),
    "peft HRA": Peft(peft.HRAConfig(r=2), ROLES),
    "Full": Full(ROLES),
}


def banked(world, kind, names="abc"):
    body = world.TinyBackbone()
    bank = AdapterBank(body, kind)
    for i, name in enumerate(names):
        torch.manual_seed(10 + i)
        with torch.no_grad():
            for p in bank.add(name):
                p.add_(0.3 * torch.randn(p.shape))
    return body, bank.eval()


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def pair(request, world):
    return banked(world, request.param)


def deltas(bank, name):
    return {key: rewrite.delta().detach() for key, rewrite in bank.rewrites[name].items()}


@pytest.mark.parametrize("how", [average, magnitude_max, partial(ties, density=0.5), partial(dare, share=0.5)])
def test_a_merged_adapter_adds_what_the_formula_makes_of_all_sites(pair, how):
    _, bank = pair
    before = {k: v.clone() for k, v in bank.state_dict().items()}
    lost = merge_adapters(bank, ["a", "b", "c"], how, "m")
    assert all(share < 1e-10 for share in lost.values())
    assert all(torch.equal(bank.state_dict()[k], v) for k, v in before.items())
    if bank.adapter.linear:
        rows = torch.stack([torch.cat([p.flatten() for p in bank.params(n)]) for n in "abc"])
        close(torch.cat([p.flatten() for p in bank.params("m")]), how(rows))
        return
    each = [deltas(bank, name) for name in "abc"]
    whole = how(torch.stack([torch.cat([d.flatten() for d in one.values()]) for one in each]))
    close(torch.cat([d.flatten() for d in deltas(bank, "m").values()]), whole, 1e-5)


def test_features_under_a_sum_are_those_under_its_terms_together(world):
    x = torch.randn(4, 3, 8, 8)
    for kind in (KINDS["LoRA"], KINDS["peft LoRA"], KINDS["peft LoHa"], KINDS["Full"]):
        body, bank = banked(world, kind)
        with bank.using("a", "b"):
            together = body(x)
        combined(bank, {"a": 1, "b": 1}, "sum")
        with bank.using("sum"):
            close(body(x), together, 1e-5)


def test_factors_are_never_added_to_factors(world):
    _, bank = banked(world, KINDS["LoRA"])
    combined(bank, {"a": 1, "b": 1}, "sum")
    for key, rewrite in bank.rewrites["sum"].items():
        a, b = bank.rewrites["a"][key], bank.rewrites["b"][key]
        close(rewrite.delta(), 1.5 * (a.b @ a.a + b.b @ b.a))
        assert not torch.allclose(rewrite.delta(), 1.5 * (a.b + b.b) @ (a.a + b.a), atol=1e-2)
        assert len(rewrite.a) == 4, "ranks add up"


def test_adding_then_subtracting_returns_to_the_start_and_a_negative_undoes(pair):
    _, bank = pair
    start = [p.clone() for p in bank.params("a")] if bank.adapter.linear else list(deltas(bank, "a").values())

    def what(name):
        return bank.params(name) if bank.adapter.linear else list(deltas(bank, name).values())

    combined(bank, {"a": 1, "b": 2.5}, "sum")
    combined(bank, {"sum": 1, "b": -2.5}, "back")
    combined(bank, {"a": -1}, "minus")
    for first, again, negative in zip(start, what("back"), what("minus"), strict=True):
        close(again, first, 1e-6 if not isinstance(bank.adapter, Peft) else 1e-5)
        close(negative, -first, 1e-6 if not isinstance(bank.adapter, Peft) else 1e-5)


def test_a_rank_is_kept_to_and_what_it_loses_is_told(world):
    _, bank = banked(world, KINDS["LoRA"])
    lost = merge_adapters(bank, ["a", "b", "c"], average, "m", rank=3)
    whole = {key: sum(deltas(bank, n)[key] for n in "abc") / 3 for key in bank.sites if key in lost}
    for key, rewrite in bank.rewrites["m"].items():
        assert len(rewrite.a) == 3
        error = (rewrite.delta().detach() - whole[key]).square().sum() / whole[key].square().sum()
        assert lost[key] == pytest.approx(float(error), rel=1e-3)
        assert 0 < lost[key] < 0.9


def test_a_rank_is_refused_where_there_are_no_factors(world):
    _, bank = banked(world, KINDS["Full"])
    with pytest.raises(UserError, match=r"A Full adapter .*has no rank; found rank=3: leave it out, or choose LoRA"):
        merge_adapters(bank, ["a", "b"], average, "m", rank=3)
    assert list(bank) == ["a", "b", "c"]


def test_the_example_in_the_docs_runs_and_means_what_it_says(world, stream):
    learner = world.learn(world.learner(OLoRA(), optimizer=lambda p: torch.optim.Adam(p, lr=0.05)), stream[:2])
    docs = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", docs, re.DOTALL) if "merge_adapters(" in block)
    found = {"learner": learner}
    exec(example, found)
    bank = learner.model.adapters
    one, two = ({s: total(bank, [n])[s].flatten() for s in bank.sites} for n in ("task-0", "task-1"))
    whole = ties(torch.stack([torch.cat([*one.values()]), torch.cat([*two.values()])]))
    both = torch.cat([d.flatten() for d in total(bank, ["both"]).values()])
    assert found["lost"].keys() == bank.sites.keys()
    assert 0 < max(found["lost"].values()) < 0.5
    assert (both - whole).norm() < max(found["lost"].values()) ** 0.5 * whole.norm() + 1e-6
    less = total(bank, ["less of task-1"])
    for site, delta in total(bank, ["both"]).items():
        close(less[site], delta - 0.5 * two[site].view_as(delta), 1e-5)


def test_adapters_of_unequal_rank_merge(world):
    _, bank = banked(world, KINDS["LoRA"])
    combined(bank, {"a": 1, "b": 1}, "sum")
    merge_adapters(bank, ["sum", "c"], average, "m")
    sums = total(bank, ["sum", "c"])
    for key, rewrite in bank.rewrites["m"].items():
        close(rewrite.delta(), sums[key] / 2, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_of_another_rank_survives_a_round_trip_and_serves_as_a_start(kind, world, stream):
    def learner():
        return world.learner(Finetune(), adapter=KINDS[kind])

    one, two = world.learn(learner(), stream[:1]), world.learn(learner(), stream[:1])
    bank = one.model.adapters
    bank.add("other", like="shared")
    combined(bank, {"shared": 2, "other": -0.5}, "m")
    bank.add("next", like="m")
    bank.active = ("m",)
    two.model.adapters.add("m")  # under the same name, in another shape
    checkpoint.restore(two, tensors.unpack(tensors.pack(checkpoint.tensors(one))), checkpoint.facts(one))
    two.model.adapters.active = ("m",)
    assert world.differences(one, two) == []
    samples = world.noise(range(4), 2, "test").x
    assert torch.equal(one.model.features(samples, "m"), two.model.features(samples, "next"))


def test_a_merged_adapter_has_met_all_that_its_parts_met(world):
    _, bank = banked(world, KINDS["LoRA"])
    bank.origins = {"a": (("t0", 1), ("t0", 2)), "b": (("t0", 2), ("t1", 5))}
    bank.outlived = {"a": ("f",), "b": ("g", "f")}
    bank.reading.note("a", {("t0", 1): frozenset({7}), ("t0", 2): frozenset({8})}, {})
    bank.reading.note("b", {("t0", 2): None, ("t1", 5): frozenset({9})}, {})
    merge_adapters(bank, ["a", "b"], average, "m")
    assert bank.origins["m"] == (("t0", 1), ("t0", 2), ("t1", 5))
    assert bank.outlived["m"] == ("f", "g")
    assert bank.reading.of("m") == {("t0", 1): frozenset({7}), ("t1", 5): frozenset({9})}, (
        "of class 2 the other read all"
    )


@pytest.mark.parametrize("kind", [Bottleneck(4), Peft(peft.RoadConfig(group_size=8)), Peft(peft.IA3Config())])
def test_what_is_more_than_a_matrix_is_not_merged(kind, world):
    _, bank = banked(world, kind)
    for attempt in (lambda: merge_adapters(bank, ["a", "b"], average, "m"), lambda: combined(bank, {"a": 1}, "m")):
        with pytest.raises(UserError, match=r"is more than a matrix added to a weight.*cannot be merged; choose LoRA"):
            attempt()
    assert list(bank) == ["a", "b", "c"]


def test_only_adapters_there_are_merge_and_only_into_a_new_one(world):
    _, bank = banked(world, KINDS["LoRA"])
    for names in ([], ["a", "x"]):
        with pytest.raises(UserError, match=r"Cannot merge .*the bank holds"):
            merge_adapters(bank, names, average, "m")
    before = [p.clone() for p in bank.params("b")]
    with pytest.raises(ValueError, match="already exists"):
        merge_adapters(bank, ["a", "c"], average, "b")
    assert all(torch.equal(p, q) for p, q in zip(before, bank.params("b"), strict=True))

"""GS-LoRA: groups, the proximal step, the bound, the balance, and deltas that come and go by name."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.cli.main import main
from cl_framework.engine import checkpoint
from cl_framework.errors import UserError
from cl_framework.methods import bounded_ascent, group_sparsity
from cl_framework.methods.base import Plan, Unlearner
from cl_framework.methods.compatibility import check_events, check_request
from cl_framework.methods.forget_sets import Paired, retained
from cl_framework.methods.losses import columns
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.open_run import OpenRun
from cl_framework.streams.events import forget_request
from cl_framework.streams.seeds import seed_for
from strategies.learning.finetune import Finetune
from strategies.learning.joint import Joint
from strategies.unlearning.gs_lora import GSLoRA

SMALL = "glyphs:classes=6,train=6,test=3"
ADAPTERS = {"lora": LoRA(4, roles=["mlp_in", "value"]), "bottleneck": Bottleneck(4)}


@pytest.fixture(scope="module")
def joint(world, stream):
    """Learners that know six classes well, made once for each family of adapters; take copies."""
    made = {}

    def get(family="lora", unlearner=None, **options):
        fast = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), **options}
        key = (family, *options.items())
        if key not in made:
            made[key] = world.learn(world.learner(Joint(), adapter=ADAPTERS[family], **fast), stream[:3])
        copy = world.learner(Joint(), unlearner, ADAPTERS[family], **fast)
        checkpoint.restore(copy, world.clone(checkpoint.tensors(made[key])), checkpoint.facts(made[key]))
        return copy

    return get


@pytest.fixture
def request_(stream):
    return forget_request("f", stream[:3], classes=[2])


def accuracy(learner, samples):
    return float((learner.answer(samples) == samples.labels).float().mean())


def delta(learner, name="f"):
    return torch.cat([p.detach().flatten() for p in learner.model.adapters.params(name)])


@pytest.mark.parametrize("by", ["block", "site", "matrix"])
def test_groups_divide_the_parameters_of_a_delta(by):
    bank = AdapterBank(GlyphViT(), LoRA(2, roles=["mlp_in", "mlp_out"]))
    params = bank.push("f")
    found = group_sparsity.groups(bank, "f", by)
    assert sorted(id(p) for g in found.values() for p in g) == sorted(map(id, params))
    assert len(found) == {"block": 6, "site": 12, "matrix": 24}[by]


def test_a_delta_on_both_mlp_maps_is_a_small_part_of_the_backbone():
    backbone = GlyphViT()
    added = sum(p.numel() for p in AdapterBank(backbone, LoRA(8, roles=["mlp_in", "mlp_out"])).push("f"))
    assert added == 6 * 8 * 2 * (160 + 640)


def test_group_norms_are_those_of_a_slow_loop_and_flat_at_zero():
    a, b, zero = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(5)), nn.Parameter(torch.zeros(4))
    found = group_sparsity.norms([[a, b], [zero]])
    slow = math.sqrt(sum(v**2 for p in (a, b) for v in p.detach().flatten().tolist()))
    assert math.isclose(found[0].item(), slow, rel_tol=1e-6)
    found.sum().backward()
    assert torch.equal(zero.grad, torch.zeros(4))


def test_the_proximal_step_minimises_what_it_should():
    """``argmin_x 0.5 ||x - g||^2 + t ||x||``, found by gradient descent where it is not zero."""
    start = torch.tensor([0.6, -0.8, 0.5])
    for t in (0.3, 2.0):
        g = nn.Parameter(start.clone())
        group_sparsity.shrink([[g]], t)
        x = start.clone().requires_grad_(True)
        steps = torch.optim.SGD([x], lr=0.05)
        for _ in range(400):
            steps.zero_grad()
            (0.5 * (x - start).square().sum() + t * x.norm()).backward()
            steps.step()
        assert torch.allclose(g, x, atol=1e-3 if t < 1 else 0.11)  # descent circles around the kink at zero
    assert torch.equal(g, torch.zeros(3))


@pytest.mark.parametrize("clamp", ["sample", "batch"])
def test_at_the_bound_there_is_nothing_left_to_climb(clamp):
    losses = torch.tensor([5.0, 7.0], requires_grad=True)
    bounded_ascent.bounded(losses, 4.0, clamp).backward()
    assert torch.equal(losses.grad, torch.zeros(2))
    losses = torch.tensor([5.0, 1.0], requires_grad=True)
    bounded_ascent.bounded(losses, 4.0, clamp).backward()
    assert losses.grad.tolist() == ([0.0, -0.5] if clamp == "sample" else [-0.5, -0.5])


def test_balanced_gradients_are_as_long_as_they_should_be():
    p = nn.Parameter(torch.randn(6))

    def losses():
        return (p - 1).square().sum(), 100 * p.sin().sum()

    one, two = (torch.autograd.grad(loss, p)[0] for loss in losses())
    (found,) = torch.autograd.grad(both := bounded_ascent.balanced(*losses(), [p], 0.3), p)
    beta = 0.3 * one.norm() / two.norm()
    assert torch.allclose(found, one + beta * two, atol=1e-5)
    assert torch.allclose(both, losses()[0] + beta * losses()[1])
    (reached,) = torch.autograd.grad(bounded_ascent.balanced(losses()[0], 0 * p.sum(), [p], 0.3), p)
    assert torch.allclose(reached, one)  # past the bound only what stays counts


@pytest.mark.parametrize("family", ADAPTERS)
def test_it_forgets_a_class_and_keeps_the_others(family, joint, world, stream, request_):
    learner = joint(family, GSLoRA(share=1.0, epochs=30, keep_rows=True))
    gone, stay = world.noise([2], 6, "test"), world.noise([5, 7, 0, 1, 6], 6, "test")
    assert min(accuracy(learner, gone), accuracy(learner, stay)) > 0.8
    world.learn(learner, [request_], stream[:3])
    assert accuracy(learner, gone) < 0.2
    assert accuracy(learner, stay) > 0.8
    assert learner.model.adapters.stack == ("f",)


def test_only_the_delta_changes(joint, world, stream, request_):
    learner = joint("lora", GSLoRA(share=1.0, epochs=2, keep_rows=True))
    before = world.clone(checkpoint.tensors(learner))
    world.learn(learner, [request_], stream[:3])
    after = checkpoint.tensors(learner)
    assert {k for k in after if k not in before} == {k for k in after if ".rewrites.f." in k}
    changed = {k for k, v in before.items() if not torch.equal(v, after[k])} if before.keys() <= after.keys() else set()
    assert {k for k in changed if "memory" not in k} == set()


def test_dropping_a_delta_gives_back_the_old_answers(joint, world, stream, request_):
    learner, test = joint("lora", GSLoRA(share=1.0, epochs=2, keep_rows=True)), world.noise(range(8), 4, "test")
    before = world.scores(learner, test)
    world.learn(learner, [request_], stream[:3])
    assert not torch.equal(world.scores(learner, test), before)
    learner.model.adapters.drop("f")
    assert torch.equal(world.scores(learner, test), before)


def test_an_edit_of_a_finished_run_can_be_taken_back(tmp_path):
    """As docs/forgetting.md tells: open the run, drop the edit, ask again. The run's files stay as they are."""
    known = "glyphs:known=true,classes=8,train=6,test=6"
    stream = ["--data.scenario", "Pretrained", "--data.scenario.stream", "ClassIncremental"]
    stream += [f"--data.scenario.stream.dataset={known}", "--data.scenario.stream.increment=8", "--data.batch_size=8"]
    told = [*stream, "--model.strategy", "Finetune", "--model.head", "cosine", "--model.adapter", "LoRA"]
    assert main(["run", *told, "--run_dir", str(tmp_path / "run")]) == 0
    settings = {"share": 1.0, "epochs": 8, "beta": 1.0, "keep_rows": "true"}
    edit = ["--unlearner", "GSLoRA", *(f"--model.unlearner.{k}={v}" for k, v in settings.items())]
    assert main(["forget", str(tmp_path / "run"), "--classes", "0", *edit]) == 0

    run = OpenRun.reopen(RunDirectory.open(tmp_path / "run"))
    learner, exam = run.learner, run.steps[0].exam
    edited = accuracy(learner, exam.of([0]))
    (name,) = learner.model.adapters.stack
    learner.model.adapters.drop(name)
    assert edited < 0.4
    assert accuracy(learner, exam.of([0])) > 0.8
    again = OpenRun.reopen(RunDirectory.open(tmp_path / "run")).learner
    assert again.model.adapters.stack == (name,)
    assert accuracy(again, exam.of([0])) == edited


def test_two_deltas_may_change_places_and_each_can_be_taken_back(joint, world, stream, request_):
    """LoRA's deltas at one map add up, and a sum knows no order."""
    learner, test = joint("lora", GSLoRA(share=1.0, epochs=2, keep_rows=True)), world.noise(range(8), 4, "test")
    world.learn(learner, [request_, forget_request("g", request_.remaining, classes=[6])], stream[:3])
    assert learner.model.adapters.stack == ("f", "g")
    scores = world.scores(learner, test)
    learner.model.adapters.stack = ("g", "f")
    assert torch.allclose(world.scores(learner, test), scores, atol=1e-5)
    learner.model.adapters.drop("f")
    assert learner.model.adapters.stack == ("g",)
    assert not torch.allclose(world.scores(learner, test), scores, atol=1e-2)


def test_deltas_survive_a_round_trip(joint, world, stream, request_):
    one, two = joint("lora", GSLoRA(share=1.0, epochs=2)), joint("bottleneck")
    two = world.learner(Joint(), GSLoRA(), ADAPTERS["lora"])
    world.learn(one, [request_, forget_request("g", request_.remaining, classes=[6])], stream[:3])
    checkpoint.restore(two, world.clone(checkpoint.tensors(one)), checkpoint.facts(one))
    assert two.model.adapters.stack == ("f", "g")
    assert world.differences(one, two) == []


def test_the_proximal_form_yields_true_zeros_and_the_penalty_does_not(joint, world, stream, request_):
    found = {}
    for form in ("proximal", "penalty"):
        learner = joint("lora", GSLoRA(share=1.0, epochs=20, alpha=10.0, form=form, group="matrix"))
        world.learn(learner, [request_], stream[:3])
        found[form] = group_sparsity.zero_ratio(learner.model.adapters, "f", "matrix")
    assert found["proximal"] > 0
    assert found["penalty"] == 0


@pytest.mark.parametrize("rank", [2, 8])
def test_a_proximal_step_counts_against_the_root_of_the_size_of_a_group(rank, world):
    """AdamW's first step moves every entry by its rate, whatever the loss; the paper's 1e-2 takes back a thousandth."""
    learner = world.learner(Joint(), adapter=LoRA(rank, roles=["mlp_in"]))
    root = sum(p.numel() for p in learner.model.adapters.add("size")) ** 0.5

    def moved(alpha):
        made = group_sparsity.SparseDelta(
            learner.model, f"edit-{round(1000 * alpha)}", group_sparsity.Sparsity(alpha), size=1
        )
        for p in made.params:
            p.data.zero_()
            p.grad = torch.full_like(p, 1e-3)
        made.adamw(made.params).step()
        return group_sparsity.norms(made.groups).sum().item()

    free = moved(0.0)
    assert moved(root / 8) == pytest.approx(7 / 8 * free, rel=1e-3)
    assert moved(1.01 * root) == 0
    assert moved(1e-2) > 0.998 * free


def test_the_share_of_blocks_left_alone_is_told(joint, world, stream, request_):
    for alpha, told in ((0.0, 0.0), (1e4, 1.0)):
        learner = joint("lora", GSLoRA(share=1.0, epochs=1, alpha=alpha, keep_rows=True))
        world.learn(learner, [request_], stream[:3])
        assert learner.unlearner.notes(learner.model, request_) == {"zero_group_ratio": told}


def test_so_much_sparsity_leaves_nothing_changed(joint, world, stream, request_):
    learner, test = (
        joint("lora", GSLoRA(share=1.0, epochs=1, alpha=1e4, keep_rows=True)),
        world.noise(range(8), 4, "test"),
    )
    before = world.scores(learner, test)
    world.learn(learner, [request_], stream[:3])
    assert group_sparsity.zero_ratio(learner.model.adapters, "f") == 1.0
    assert torch.equal(world.scores(learner, test), before)


def test_without_sparsity_both_forms_are_the_same(joint, world, stream, request_):
    ends = [
        world.learn(joint("lora", GSLoRA(alpha=0.0, form=form, share=1.0, epochs=2)), [request_], stream[:3])
        for form in ("proximal", "penalty")
    ]
    assert torch.equal(*map(delta, ends))


@pytest.mark.parametrize("form", ["proximal", "penalty"])
def test_sparsity_starts_after_the_warm_up(form, joint, world, stream, request_):
    def after(**settings):
        gs = GSLoRA(share=1.0, epochs=3, form=form, **settings)
        return delta(world.learn(joint("lora", gs), [request_], stream[:3]))

    free = after(alpha=0.0)
    assert torch.equal(after(alpha=5.0, warmup=3), free)
    assert not torch.equal(after(alpha=5.0, warmup=2), free)


def test_warm_up_ends_with_the_first_step_of_its_epoch(joint, world):
    learner, seen = joint("lora"), []
    sparse = group_sparsity.SparseDelta(learner.model, "f", group_sparsity.Sparsity(1.0, warmup=1), size=10)
    for count in (8, 2, 8, 2, 8):
        sparse.saw(count)
        seen.append(sparse.epoch)
    assert seen == [0, 0, 1, 1, 2]


def test_without_forgetting_and_sparsity_it_trains_a_delta_on_what_stays(joint, world, stream, request_):
    class OnRetained(Unlearner):
        keep_rows = True

        def forget(self, model, strategy, event):
            pairs = Paired(retained(event), event.data)
            made = group_sparsity.SparseDelta(model, event.name, group_sparsity.Sparsity(0.0), len(pairs))

            def loss(model, batch):
                stays = ~pairs.gone(batch)
                return cross_entropy(strategy.predict(model, batch.x[stays]), columns(model, batch.y[stays]))

            yield Plan(pairs, made.params, loss, 3, made.adamw)

    one = world.learn(joint("lora", GSLoRA(beta=0.0, alpha=0.0, share=1.0, epochs=3)), [request_], stream[:3])
    two = joint("lora", OnRetained())
    torch.manual_seed(seed_for("f", two.model.seed))
    world.learn(two, [request_], stream[:3])
    assert torch.allclose(delta(one), delta(two), atol=1e-6)


def test_each_request_has_its_own_beta(joint, world, stream, request_):
    second = forget_request("g", request_.remaining, classes=[6])
    listed = world.learn(joint("lora", GSLoRA([0.1, 0.9], share=1.0, epochs=1)), [request_, second], stream[:3])
    single = world.learn(joint("lora", GSLoRA(0.1, share=1.0, epochs=1)), [request_], stream[:3])
    assert torch.equal(delta(listed), delta(single))
    single.unlearner = GSLoRA(0.9, share=1.0, epochs=1)
    world.learn(single, [second], request_.remaining)
    assert torch.equal(delta(listed, "g"), delta(single, "g"))
    with pytest.raises(UserError, match="beta has 2 values and this is edit number 3"):
        world.learn(listed, [forget_request("h", second.remaining, classes=[5])], second.remaining)


def test_a_list_of_betas_that_will_run_out_shows_before_anything_is_learned(world, stream, request_):
    second = forget_request("g", request_.remaining, classes=[6])
    coming = [*stream[:3], request_, second]
    fresh = world.learner(Joint(), GSLoRA([0.1]), ADAPTERS["lora"])
    with pytest.raises(UserError, match=r"cannot honour 'g': beta has 1 values and this is edit number 2\. Use one"):
        check_events(fresh.model, fresh.strategy, fresh.unlearner, coming)
    assert fresh.model.known == {}
    lasting = world.learner(Joint(), GSLoRA([0.1, 0.9]), ADAPTERS["lora"])
    check_events(lasting.model, lasting.strategy, lasting.unlearner, coming)


def test_edits_already_made_have_used_up_their_betas(joint, world, stream, request_):
    learner = world.learn(joint("lora", GSLoRA([0.1, 0.9], share=1.0, epochs=1)), [request_], stream[:3])
    second = forget_request("g", request_.remaining, classes=[6])
    check_events(learner.model, learner.strategy, learner.unlearner, [second])
    coming = [second, forget_request("h", second.remaining, classes=[5])]
    with pytest.raises(UserError, match=r"'h': beta has 2 values and this is edit number 3"):
        check_events(learner.model, learner.strategy, learner.unlearner, coming)


def test_a_run_whose_betas_will_run_out_is_not_begun(tmp_path, capsys):
    stream = ["--data.scenario.stream", "ClassIncremental", "--data.scenario.stream.dataset", SMALL]
    asked = ["--data.scenario", "ForgetSequence", *stream, "--data.scenario.times", "2", "--data.scenario.classes", "1"]
    made_of = ["--model.strategy", "Finetune", "--model.unlearner", "GSLoRA", "--model.unlearner.beta", "[0.2]"]
    assert main(["run", *asked, *made_of, "--run_dir", str(tmp_path / "run")]) == 2
    assert "beta has 1 values and this is edit number 2" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_bound_that_no_cosine_head_reaches_is_refused(world, stream, request_):
    learner = world.learn(world.learner(Finetune(), GSLoRA(), head="cosine"), stream[:3])
    sigma = float(learner.model.head.sigma)
    worst = torch.tensor([[-sigma, *[sigma] * 5]])  # every wrong class at sigma, the right one at -sigma
    most = float(cross_entropy(worst, torch.tensor([0])))
    assert math.isclose(bounded_ascent.highest_loss(sigma, 6), most, rel_tol=1e-5)
    learner.unlearner = GSLoRA(bound=1.01 * most / math.log(6))
    with pytest.raises(UserError, match=r"out of reach, because a cosine head with sigma .* set a bound below"):
        world.learn(learner, [request_], stream[:3])
    assert learner.model.adapters.stack == ()
    learner.unlearner = GSLoRA(bound=0.9 * most / math.log(6), epochs=1)
    world.learn(learner, [request_], stream[:3])
    assert learner.model.adapters.stack == ("f",)


def test_a_request_is_judged_before_anything_is_learned(world, stream, request_):
    for head in ("linear", "cosine"):
        learner = world.learner(Finetune(), GSLoRA(), head=head)
        assert check_request(learner.model, learner.strategy, learner.unlearner, request_) is learner.unlearner


def test_learning_goes_on_under_a_delta(joint, world, stream, request_):
    learner = joint("lora", GSLoRA(share=1.0, epochs=10))
    world.learn(learner, [request_], stream[:3])
    kept = delta(learner)
    world.learn(learner, [stream[3]], request_.remaining)
    assert torch.equal(delta(learner), kept)
    assert learner.model.classes == (5, 7, 0, 1, 6, 4, 3)
    assert accuracy(learner, world.noise([4, 3], 12, "test")) > 0.5

"""Experiences of one class: said before the run, trained against what is known where asked, and on record."""

import inspect
from functools import partial

import pytest
import torch

from cl_framework.cli.main import main
from cl_framework.engine import checkpoint
from cl_framework.errors import UserError
from cl_framework.methods.competition import proxy_scores, training_warnings
from cl_framework.methods.lessons import plans
from cl_framework.models.head import Head
from cl_framework.settings import discovery
from cl_framework.streams.events import Experience, forget_request
from strategies.learning.aper import APER
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.l2p import L2P
from strategies.learning.lwf import LwF
from strategies.learning.mos import MOS
from strategies.learning.orthogonal_adaptation import OrthogonalAdaptation
from strategies.learning.ranpac import RanPAC
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain

STRATEGIES = [discovery.load_class("strategies", e.name) for e in discovery.catalogue("strategies")]
WIDER = [partial(s, compete="all") for s in STRATEGIES if "compete" in inspect.signature(s).parameters]
WIDER.append(partial(LwF, over="seen"))
PLAIN = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.1)}  # what has no gradient does not move at all


@pytest.fixture(scope="module")
def ones(world):
    """Four experiences of one class each."""
    made = []
    for t, c in enumerate((5, 2, 7, 0)):
        seen = world.noise([c], 10, "train")
        made.append(Experience(f"task-{t}", (c,), seen, seen))
    return made


def named(strategy):
    return getattr(strategy, "__name__", None) or f"{strategy.func.__name__}-{strategy.keywords}"


def moved(world, strategy, events):
    """Return whether the first plan for the last of ``events``, the one that trains adapters, gives them a gradient."""
    learner = world.learn(world.learner(strategy(), **PLAIN), events[:-1])
    plan = next(iter(plans(learner.model, learner.strategy, learner.unlearner, events[-1])))
    learner.begin(plan)
    loss = plan.loss(learner.model, plan.data[list(range(len(plan.data)))])
    trained = [p for p in learner.model.adapters.parameters() if p.requires_grad]
    assert trained
    grads = torch.autograd.grad(loss, trained, allow_unused=True)
    return any(g is not None and bool(g.abs().max() > 1e-9) for g in grads)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_what_a_strategy_says_of_its_rivals_is_what_gradients_say(strategy, world, ones):
    said = strategy().competes
    if said is None or strategy().trains_first_only:
        learner = world.learn(world.learner(strategy()), ones[:1])
        assert not any(plans(learner.model, learner.strategy, None, ones[1]))
        return
    if strategy.__name__ in ("PEGO", "OLoRA", "LwF", "L2P"):
        return  # penalties, distillation and the pull of keys have gradients of their own
    assert moved(world, strategy, ones[:2]) == (said == "known")


@pytest.mark.parametrize("strategy", WIDER, ids=named)
def test_against_what_is_known_one_class_trains_an_adapter(strategy, world, ones):
    assert strategy().competes == "known"
    assert strategy().isolates is None
    assert moved(world, strategy, ones[:2])
    learner = world.learn(world.learner(strategy(), **PLAIN), ones[:3])
    assert sorted(learner.model.classes) == [2, 5, 7]
    assert torch.isfinite(world.scores(learner, world.noise([5, 2, 7], 4, "test"))).all()


@pytest.mark.parametrize("strategy", WIDER, ids=named)
def test_lineage_counts_the_known_classes_that_an_adapter_was_trained_against(strategy, world, ones):
    if strategy.func is LwF:
        return  # its one adapter and head have met all classes anyway
    learner = world.learn(world.learner(strategy(), **PLAIN), ones[:2])
    name = "task-1" if "task-1" in learner.model.adapters else "shared"
    assert set(learner.model.adapters.origins[name]) == {("task-0", 5), ("task-1", 2)}


@pytest.mark.parametrize("strategy", [EASE, partial(OrthogonalAdaptation, bases="random")], ids=named)
def test_exact_forgetting_is_refused_where_adapters_met_others_classes_and_retraining_is_exact(strategy, world, ones):
    request = forget_request("f", ones[:3], classes=[5])
    assert strategy().isolates == "experience"
    with pytest.raises(UserError, match=r"shares its trained state.*Retrain"):
        world.learn(world.learner(strategy(compete="all"), DropAdapter()), [*ones[:3], request])
    learner = world.learn(world.learner(strategy(compete="all"), Retrain()), [*ones[:3], request, ones[3]])
    reference = world.learn(world.learner(strategy(compete="all")), [*request.remaining, ones[3]])
    assert world.differences(learner, reference) == []


def test_rows_of_known_classes_stay_while_others_compete_with_them(world, ones):
    learner = world.learn(world.learner(MOS(compete="all", align_epochs=0)), ones[:1])
    before = learner.model.head.weight[0].clone()
    world.learn(learner, ones[1:2], ones[:1])
    assert torch.equal(learner.model.head.weight[0], before)
    assert not torch.equal(learner.model.head.weight[1], before)


def test_with_two_classes_at_a_time_current_is_what_it_was(world, stream):
    for strategy in WIDER[:-1]:
        one, other = (world.learn(world.learner(s), stream[:1]) for s in (strategy(), strategy.func()))
        a, b = checkpoint.tensors(one), checkpoint.tensors(other)
        assert all(torch.equal(a[k], b[k]) for k in b), named(strategy)  # nothing is known before the first


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_fixed_rows_score_as_rows_of_the_head_itself_do(kind):
    torch.manual_seed(0)
    head, z = Head(6, kind, [4, 7, 9]), torch.randn(5, 6)
    proxy = Head(6, kind, [4])
    rows = head.weight.detach()
    proxy.weight.data.copy_(rows[:1])
    scores = proxy_scores(proxy, rows[1:], torch.zeros(2))(z)
    torch.testing.assert_close(scores, head(z))


def test_what_training_cannot_learn_is_said_before_the_run(ones, stream):
    (first, later) = training_warnings(EASE(), ones)
    assert first.startswith("task-0 brings one class and nothing is known before it")
    assert later.startswith("task-1, task-2 and task-3 bring one class each")
    assert "--model.strategy.compete all" in later
    assert (
        len(training_warnings(EASE(compete="all"), ones))
        == len(training_warnings(Finetune(), ones))
        == len(training_warnings(APER(), ones))
        == 1
    )
    assert "--model.strategy.over seen" in training_warnings(LwF(), ones)[1]
    assert len(training_warnings(EASE(), ones, known=[1])) == 1  # as after `clf learn`
    for strategy, events in ((SimpleCIL(), ones), (RanPAC(tune=False), ones), (EASE(), stream), (APER(), stream[:1])):
        assert training_warnings(strategy, events) == []


DIGITS = ["--config", "configs/quickstart.yaml", "--data.scenario", "ClassIncremental"]
DIGITS += ["--data.scenario.dataset", "glyphs:classes=4,train=4,test=2", "--data.scenario.increment", "1"]


def test_the_screen_says_so_in_plan_and_run(tmp_path, capsys):
    for verb in (["plan"], ["run", "--run_dir", str(tmp_path / "r"), "--trainer.fast_dev_run", "true"]):
        assert main([verb[0], *DIGITS, "--model.strategy", "EASE", *verb[1:]]) == 0
        shown = capsys.readouterr().out
        assert shown.count("warning  ") == 2
        assert "--model.strategy.compete all" in shown
        assert "brings one class and nothing is known before it" in shown


def test_weight_decay_under_adam_leaves_rows_of_earlier_classes_alone_in_l2p(world, stream):
    """Adam scales what decay alone asks for to full steps: rows of earlier classes would be gone within an epoch."""
    decaying = {"optimizer": lambda params: torch.optim.Adam(params, lr=0.01, weight_decay=5e-4)}
    learner = world.learn(world.learner(L2P(), **decaying), stream[:1])
    before = learner.model.head.weight.detach().clone()
    world.learn(learner, stream[1:2], stream[:1])
    assert torch.equal(learner.model.head.weight[:2], before)

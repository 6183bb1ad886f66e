"""The engine: a fresh trainer for every plan, exactly what the plan says, and a clear word when nothing comes of it."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer

from cl_framework.engine import checkpoint, loop
from cl_framework.engine.loaders import loader
from cl_framework.engine.trainers import fresh_trainers, quiet
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.methods.base import Plan, Strategy, Unlearner
from cl_framework.methods.losses import classify
from cl_framework.methods.unlearning import remove_forgotten
from cl_framework.streams.events import forget_request
from cl_framework.streams.samples import Rows
from cl_framework.streams.seeds import seed_for
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.joint import Joint
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain


@pytest.fixture
def scripted(world):
    """A learner whose strategy yields whatever plans a function makes."""

    class Scripted(Strategy):
        def __init__(self, story):
            super().__init__()
            self.story = story

        def learn(self, model, event):
            yield from self.story(model, event)

        def predict(self, model, x):
            return model.head(model.features(x, "shared"))

    return lambda story, **options: world.learner(Scripted(story), **options)


def plan(model, event, **options):
    return Plan(event.data, model.ready("shared", event.classes), **options)


def test_every_plan_gets_a_fresh_trainer_with_its_own_number_of_epochs(scripted, world, stream):
    def story(model, event):
        yield plan(model, event)
        yield plan(model, event, epochs=5)

    made = []

    def make(epochs):
        made.append((epochs, world.make_trainer(epochs)))
        return made[-1][1]

    cost = loop.carry_out(scripted(story), stream[0], make, 8)
    assert [epochs for epochs, _ in made] == [None, 5]
    assert len({id(t) for _, t in made}) == 2
    assert [t.global_step for _, t in made] == [2 * 3, 5 * 3]
    assert cost.steps == 21


def test_preparation_training_and_consolidation_happen_in_the_order_they_are_written(scripted, stream, make_trainer):
    told = []

    def loss(model, batch):
        told.append("step")
        return classify(model, batch)

    def story(model, event):
        told.append("before")
        yield plan(model, event, loss=loss, epochs=1)
        told.append("after")

    loop.carry_out(scripted(story), stream[0], make_trainer, 20)
    assert told == ["before", "step", "after"]


@pytest.mark.parametrize("limits", [{"max_epochs": 0}, {"limit_train_batches": 0}, {"max_steps": 0}], ids=str)
def test_training_that_takes_no_step_is_an_error(limits, world, stream):
    make = fresh_trainers(functools.partial(world.BUILD, **limits), None)
    with pytest.raises(UserError, match="Nothing was trained for 'task-0'"):
        loop.carry_out(world.learner(Finetune()), stream[0], make, 8)


def test_each_epoch_visits_every_sample_once_in_a_new_order(scripted, stream, make_trainer):
    seen = []

    def loss(model, batch):
        seen.extend(batch.ids.tolist())
        return classify(model, batch)

    loop.carry_out(scripted(lambda m, e: [plan(m, e, loss=loss)]), stream[0], make_trainer, 7)
    first, second = seen[:20], seen[20:]
    assert sorted(first) == sorted(second) == sorted(stream[0].data.ids.tolist())
    assert first != second


def spoiled(event, value):
    x = event.data.x.clone()
    x[11, 1, 2, 3] = value
    return type(event)(event.name, event.classes, Rows(x, event.data.labels, event.data.ids), event.reference)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_picture_is_named_by_its_sample_id(value, world, stream):
    event = spoiled(stream[0], value)
    with pytest.raises(UserError, match=rf"samples \[{int(event.data.ids[11])}\] hold NaN or infinity"):
        loop.carry_out(world.learner(Finetune()), event, world.make_trainer, 8)


def test_a_loss_that_explodes_names_the_batch_and_the_learning_rate(scripted, stream, make_trainer):
    learner = scripted(lambda m, e: [plan(m, e, loss=lambda m, b: classify(m, b) * math.nan)])
    told = r"The loss is nan in training 'task-0', on the batch of samples \[.*learning rate .* too high"
    with pytest.raises(UserError, match=told):
        loop.carry_out(learner, stream[0], make_trainer, 8)


def test_gradients_may_be_rewritten_before_each_step(scripted, stream, make_trainer):
    def freeze_all(model):
        for p in model.parameters():
            if p.grad is not None:
                p.grad.zero_()

    calls, before = [], []

    def edit(model):
        calls.append(any(bool(p.grad.any()) for p in model.adapters.parameters()))
        freeze_all(model)

    def story(model, event):
        params = model.ready("shared", event.classes)
        before.extend(p.detach().clone() for p in params)
        yield Plan(event.data, params, edit_gradients=edit)

    learner = scripted(story, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    loop.carry_out(learner, stream[0], make_trainer, 10)
    now = [*learner.model.adapters.params("shared"), *learner.model.head.parameters()]
    assert len(calls) == 4
    assert any(calls)
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


def test_something_may_be_done_after_each_step(scripted, stream, make_trainer):
    weights = []

    def keep(model):
        weights.append(model.head.weight.detach().clone())

    loop.carry_out(scripted(lambda m, e: [plan(m, e, after_step=keep)]), stream[0], make_trainer, 10)
    assert len(weights) == 4
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(weights))


RATES = {
    "constant": [0.1] * 4,
    "cosine": [0.05 * (1 + math.cos(math.pi * e / 4)) for e in range(4)],
    "quarter_cosine": [0.1 * math.cos(99 * math.pi * e / 600) for e in range(4)],
}


@pytest.mark.parametrize("schedule", RATES)
@pytest.mark.parametrize("own", [None, "cosine", "constant"])
def test_the_learning_rate_falls_once_per_epoch_as_the_plan_or_else_the_model_says(
    own, schedule, scripted, stream, make_trainer
):
    rates = []

    def note(_):
        rates.append(learner.optimizers().param_groups[0]["lr"])

    def story(model, event):
        for _ in range(2):  # every plan starts anew
            yield plan(model, event, epochs=4, edit_gradients=note, schedule=own)

    learner = scripted(story, schedule=schedule, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    loop.carry_out(learner, stream[0], make_trainer, 10)
    assert rates == pytest.approx([rate for rate in RATES[own or schedule] for _ in range(2)] * 2)


def test_a_plan_may_bring_its_own_optimizer_and_groups(scripted, stream, make_trainer):
    seen = []

    def adam(params):
        seen.append(torch.optim.Adam(params, lr=0.01))
        return seen[0]

    def story(model, event):
        a, *rest = model.ready("shared", event.classes)
        yield Plan(event.data, [{"params": [a], "lr": 0.0}, {"params": rest}], optimizer=adam)

    learner = scripted(story)
    cost = loop.carry_out(learner, stream[0], make_trainer, 10)
    assert [len(g["params"]) for g in seen[0].param_groups] == [1, len(learner.model.adapters.params("shared")) - 1 + 2]
    expected = sum(p.numel() for p in [*learner.model.adapters.parameters(), *learner.model.head.parameters()])
    assert cost.trainable_parameters == expected


def test_trainable_parameters_are_the_most_that_a_plan_trains_at_once(scripted, stream, make_trainer):
    def story(model, event):
        params = model.ready("shared", event.classes)
        yield Plan(event.data, params)
        yield Plan(event.data, params[:1])

    cost = loop.carry_out(scripted(story), stream[0], make_trainer, 10)
    assert cost.trainable_parameters == (16 * 4 + 4 + 4 * 16 + 16) + (16 * 2 + 2)


def test_callbacks_do_not_carry_state_from_plan_to_plan(world, stream):
    class Count(Callback):
        starts = 0

        def on_train_start(self, trainer, pl_module):
            self.starts += 1
            told.append(self.starts)

    told, given = [], Count()
    make = fresh_trainers(functools.partial(world.BUILD, callbacks=[given]), None)
    learner = world.learner(Finetune())
    for event in stream[:3]:
        loop.carry_out(learner, event, make, 8)
    assert told == [1, 1, 1]
    assert given.starts == 0


def test_steps_are_counted_on_through_all_plans_and_events(world, stream):
    learner = world.learn(world.learner(Finetune()), stream[:3])
    assert learner.steps == 3 * 2 * 3


def test_the_learner_refuses_to_be_fitted_without_a_plan(world, stream):
    learner = world.learner(Finetune())
    with pytest.raises(RuntimeError, match=r"loop\.carry_out"), quiet():
        Trainer.fit(world.make_trainer(None), learner, loader(stream[0].data, 8))


def test_an_event_costs_what_it_took(world, stream):
    learner = world.learner(Joint())
    journal = world.Listener(learner)
    loop.run_stream(learner, world.Listed(stream[:2]), world.make_trainer, Evaluator(), journal, 8)
    first, second = journal.costs
    assert (first.steps, second.steps) == (2 * 3, 2 * 5)
    assert (first.passes, second.passes) == (
        {"train": 40, "statistics": 0, "evaluate": 12}, {"train": 80, "statistics": 0, "evaluate": 24},
    )  # fmt: skip
    assert first.stored_bytes == sum(v.numel() * v.element_size() for v in journal.states[0][0].values())
    assert first.seconds > 0
    assert first.peak_memory_bytes > 2**20


def test_the_journal_hears_of_every_event_before_and_after(world, stream):
    class Told(world.Listener):
        def starts(self, step):
            told.append(step.event.name)

        def ends(self, step, measurements, cost):
            told.append((measurements.kind, measurements.event))

    told, learner = [], world.learner(SimpleCIL(), DropAdapter())
    events = [*stream[:2], forget_request("f", stream[:2], classes=[2])]
    loop.run_stream(learner, world.Listed(events), world.make_trainer, Evaluator(), Told(learner), 8)
    assert told == ["task-0", ("learn", "task-0"), "task-1", ("learn", "task-1"), "f", ("forget", "f")]


@pytest.mark.parametrize(("strategy", "unlearner"), [(EASE, DropAdapter), (Joint, Retrain)])
def test_going_on_after_any_event_equals_never_having_stopped(strategy, unlearner, world, stream):
    gone = forget_request("f", stream[:2], classes=[2], samples=[7001])
    more = forget_request("g", [*gone.remaining, stream[2]], experiences=["task-1"])
    events = [*stream[:2], gone, stream[2], more, stream[3]]
    whole = world.learner(strategy(), unlearner())
    journal = world.Listener(whole)
    loop.run_stream(whole, world.Listed(events), world.make_trainer, Evaluator(), journal, 8)
    for n in range(1, len(events)):
        learner = world.learner(strategy(), unlearner())
        checkpoint.restore(learner, *journal.states[n - 1])
        rest = world.Listener(learner)
        loop.run_stream(
            learner, world.Listed(events), world.make_trainer, Evaluator(), rest, 8, done=journal.measurements[:n]
        )
        assert world.differences(learner, whole) == []
        assert rest.measurements == journal.measurements[n:]
        assert [c.steps for c in rest.costs] == [c.steps for c in journal.costs[n:]]


def test_seeds_depend_on_the_name_of_an_event_and_the_seed_of_the_run(world, stream):
    def learned(seed, event):
        learner = world.learner(Finetune())
        learner.model.seed = seed
        return world.learn(learner, [event])

    same = learned(0, stream[0])
    renamed = type(stream[0])("other", stream[0].classes, stream[0].data, stream[0].reference)
    assert world.differences(same, learned(0, stream[0])) == []
    assert "model.head.weight" in world.differences(same, learned(1, stream[0]))
    assert "model.head.weight" in world.differences(same, learned(0, renamed))
    assert len({seed_for(f"task-{t}", s) for t in range(50) for s in range(50)}) == 2500


class Leaving(Unlearner):
    """Do what a function does, and train nothing."""

    exact, acts = True, "retrain"

    def __init__(self, act=lambda model, strategy, event: None):
        super().__init__()
        self.act = act

    def forget(self, model, strategy, event):
        self.act(model, strategy, event)
        return ()


class Approximate(Leaving):
    exact, acts = False, "edit"


def forgets_class_0_badly(world, stream, unlearner, match):
    learner = world.learn(world.learner(Finetune(), unlearner), stream[:2])
    before = world.clone(checkpoint.tensors(learner))
    with pytest.raises(UserError, match=match):
        world.learn(learner, [forget_request("f", stream[:2], classes=[0])], stream[:2])
    after = checkpoint.tensors(learner)
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert 0 in learner.model.classes


@pytest.mark.parametrize("kind", [Leaving, Approximate])
def test_an_unlearner_that_leaves_the_class_is_refused_and_the_learner_restored(kind, world, stream):
    told = rf"{kind.__name__} left what 'f' forgets .*: class 0; .* must call remove_forgotten\("
    forgets_class_0_badly(world, stream, kind(), told)


def test_an_exact_unlearner_may_not_leave_an_adapter_that_met_the_class(world, stream):
    told = r"Leaving left what 'f' forgets in the learner: adapter shared, head row .* learn again all state"
    forgets_class_0_badly(world, stream, Leaving(remove_forgotten), told)


@pytest.mark.parametrize("act", [remove_forgotten, None])
def test_an_approximate_unlearner_removes_the_class_or_says_that_it_keeps_its_row(act, world, stream):
    unlearner = Approximate(act or (lambda *_: None))
    unlearner.keep_rows = act is None
    learner = world.learn(world.learner(Finetune(), unlearner), stream[:2])
    world.learn(learner, [forget_request("f", stream[:2], classes=[0])], stream[:2])
    assert (0 in learner.model.classes) is unlearner.keep_rows


SHAPES = {
    "one column": (lambda n, k: torch.zeros(n, 1), r"a tensor of shape \(6, 1\)"),
    "a column too many": (lambda n, k: torch.zeros(n, k + 1), r"a tensor of shape \(6, 3\)"),
    "a row too few": (lambda n, k: torch.zeros(n - 1, k), r"a tensor of shape \(5, 2\)"),
    "flat": (lambda n, k: torch.zeros(n), r"a tensor of shape \(6,\)"),
    "numpy": (lambda n, k: np.zeros((n, k)), "ndarray"),
    "nothing": (lambda n, k: None, "NoneType"),
}


@pytest.mark.parametrize(("made", "found"), SHAPES.values(), ids=SHAPES)
def test_scores_of_another_shape_are_refused(made, found, world, stream):
    class Odd(Strategy):
        def learn(self, model, event):
            return ()

        def predict(self, model, x):
            return made(len(x), len(model.classes))

    learner = world.learn(world.learner(Odd()), stream[:1])
    told = rf"Odd\.predict returned {found}; .*\(n, len\(model\.classes\)\), which is \(6, 2\) here"
    with pytest.raises(UserError, match=told):
        learner.answer(stream[0].reference.where(torch.arange(20) < 6))


NO_PLANS = {
    "None": (lambda model, event: None, "returned None; yield plans"),
    "numbers": (lambda model, event: [1], r"yielded int, no Plan; yield Plan\("),
    "no parameters": (lambda model, event: [Plan(event.data, [])], "a plan without params; give it some"),
    "an iterator": (
        lambda model, event: [Plan(event.data, model.parameters())],
        "params are generator; give",
    ),
}


@pytest.mark.parametrize(("made", "told"), NO_PLANS.values(), ids=NO_PLANS)
def test_what_is_no_plan_is_refused_by_the_name_of_the_method(made, told, world, stream):
    class Odd(Strategy):
        def learn(self, model, event):
            return made(model, event)

        def predict(self, model, x):
            return torch.zeros(len(x), len(model.classes))

    class Forgets(Leaving):
        def forget(self, model, strategy, event):
            return made(model, event)

    with pytest.raises(UserError, match=rf"^Odd\.learn .*{told}"):
        world.learn(world.learner(Odd()), stream[:1])
    learner = world.learn(world.learner(SimpleCIL(), Forgets()), stream[:2])
    with pytest.raises(UserError, match=rf"^Forgets\.forget .*{told}"):
        world.learn(learner, [forget_request("f", stream[:2], classes=[0])], stream[:2])


def test_a_strategy_that_was_never_initialised_is_refused(world):
    class Bare(Strategy):
        def __init__(self):
            self.k = 3

        def learn(self, model, event):
            return ()

        def predict(self, model, x):
            return torch.zeros(len(x), len(model.classes))

    with pytest.raises(UserError, match=r"Bare\.__init__ does not call super\(\)\.__init__\(\)"):
        world.learner(Bare())

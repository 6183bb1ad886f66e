"""The bridge to Avalanche: the same splits, the same accuracies, the same forgetting, there and back.

Runs where the extra ``avalanche`` is installed: ``pip install -e ".[dev,avalanche]"``, then
``pytest tests/test_avalanche.py``. What it says without Avalanche is tested everywhere.
"""

import sys
from importlib.util import find_spec

import pytest
import torch
from torch.utils.data import Dataset

from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.methods.compatibility import check_events
from cl_framework.metrics import continual
from cl_framework.streams.events import forget_request
from scenarios.class_incremental import ClassIncremental
from scenarios.from_avalanche import FromAvalanche, to_avalanche
from scenarios.mixed import Mixed
from scenarios.pictures.transforms import Plain
from scenarios.requests import Request
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune


@pytest.fixture(autouse=True)
def _trusting(monkeypatch):
    """Functions of this file are named by path, as a config would name a user's own; those of ``nowhere`` too."""
    monkeypatch.setenv("CLF_TRUST", f"{__name__},nowhere")


there = pytest.mark.skipif(find_spec("avalanche") is None, reason="the extra `avalanche` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Avalanche's own
CLASSES, ORDER, PER_CLASS = 6, [3, 0, 5, 1, 4, 2], 5


class Coloured(Dataset):
    """Pictures of one colour per class, slightly noisy, as Avalanche wants them: one at a time, with targets."""

    def __init__(self, per_class, seed):
        rng = torch.Generator().manual_seed(seed)
        self.targets = [c for _ in range(per_class) for c in range(CLASSES)]
        colours = torch.rand(CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(9))
        self.x = [(colours[c] + 0.05 * torch.rand(3, 8, 8, generator=rng)).clamp(0, 1) for c in self.targets]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        return self.x[row], self.targets[row]


def class_incremental(n_experiences=3):
    from avalanche.benchmarks import nc_benchmark

    return nc_benchmark(
        Coloured(PER_CLASS, 1), Coloured(2, 2), n_experiences, task_labels=False, fixed_class_order=ORDER
    )


def domain_incremental():
    from avalanche.benchmarks import ni_benchmark

    return ni_benchmark(Coloured(6, 1), Coloured(2, 2), n_experiences=3, seed=4, balance_experiences=True)


def ours(make, **options):
    return FromAvalanche(f"{__name__}:{make.__name__}", options, Plain(8, augment=False))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules["test_avalanche"])


@there
def test_a_class_incremental_benchmark_keeps_its_split_and_its_pictures():
    steps, benchmark = list(ours(class_incremental).steps()), class_incremental()
    assert [set(s.event.classes) for s in steps] == [{3, 0}, {5, 1}, {4, 2}]
    ids = torch.cat([s.event.data.ids for s in steps])
    assert ids.unique().tolist() == list(range(CLASSES * PER_CLASS))
    for step, theirs, exam in zip(steps, benchmark.train_stream, benchmark.test_stream, strict=True):
        assert sorted(step.event.classes) == sorted(theirs.classes_in_this_experience)
        batch = step.event.reference[range(len(step.event.reference))]
        for row in range(len(theirs.dataset)):
            x, y, _ = theirs.dataset[row]
            assert batch.y[row] == y
            assert torch.equal(batch.x[row], x)
        assert step.exam.labels.tolist() == [int(t) for t in exam.dataset.targets]


@there
def test_a_benchmark_itself_gives_the_stream_of_its_name():
    plain = Plain(8, augment=False)
    for one, other in zip(
        FromAvalanche(class_incremental(), None, plain).steps(), ours(class_incremental).steps(), strict=True
    ):
        assert one.event.classes == other.event.classes
        assert torch.equal(one.exam[range(len(one.exam))].x, other.exam[range(len(other.exam))].x)
    with pytest.raises(UserError, match="takes no options"):
        FromAvalanche(class_incremental(), {"seed": 1})


def test_what_is_neither_a_name_nor_a_benchmark_is_refused():
    with pytest.raises(UserError, match=r"takes the name of a benchmark or a benchmark .* found a int"):
        FromAvalanche(3)


@there
def test_our_order_of_classes_gives_the_same_split_as_avalanches_own():
    stream = ClassIncremental("digits", increment=3, base=4, order_seed=1993)
    from avalanche.benchmarks import nc_benchmark

    def handed(samples):
        made = Coloured(1, 0)
        made.x, made.targets = list(samples[range(len(samples))].x), samples.labels.tolist()
        return made

    whole = list(stream.steps())
    order = [c for s in whole for c in s.event.classes]
    everything = ClassIncremental("digits", sizes=[10], order_seed=None)
    (one,) = everything.steps()
    theirs = nc_benchmark(
        handed(one.event.reference), handed(one.exam), 3, task_labels=False, fixed_class_order=order,
        per_exp_classes={0: 4, 1: 3, 2: 3},
    )  # fmt: skip
    for step, experience, exam in zip(whole, theirs.train_stream, theirs.test_stream, strict=True):
        assert sorted(step.event.classes) == sorted(experience.classes_in_this_experience)
        assert len(step.event.data) == len(experience.dataset)
        for mine, other in ((step.event.reference, experience.dataset), (step.exam, exam.dataset)):
            at = {c: [i for i, t in enumerate(other.targets) if int(t) == c] for c in step.event.classes}
            for c, rows in at.items():  # Avalanche puts one class after the other
                of = mine.of([c])
                assert torch.equal(of[range(len(of))].x, torch.stack([other[i][0] for i in rows]))


@there
def test_a_domain_incremental_benchmark_brings_the_classes_again():
    steps = list(ours(domain_incremental).steps())
    assert [len(s.event.classes) for s in steps] == [CLASSES] * 3
    assert sum(len(s.event.data) for s in steps) == 36
    assert torch.cat([s.event.data.ids for s in steps]).unique().numel() == 36
    first, second = steps[:2]
    request = forget_request("f", [first.event, second.event], classes=[3])
    assert len(request.data) == sum(int((s.event.data.labels == 3).sum()) for s in (first, second))


@there
def test_only_strategies_that_learn_more_of_a_known_class_take_it(world):
    events = [s.event for s in ours(domain_incremental).steps()]
    learner = world.learner(Finetune())
    check_events(learner.model, learner.strategy, None, events)
    learner = world.learner(EASE())
    with pytest.raises(UserError, match=r"again, and EASE learns a class once; use one .*Finetune"):
        check_events(learner.model, learner.strategy, None, events)


@there
def test_a_stream_of_ours_survives_the_way_there_and_back(monkeypatch):
    stream = ClassIncremental("digits", increment=5, transform=Plain(8, augment=False))
    monkeypatch.setattr(sys.modules[__name__], "class_incremental", lambda: to_avalanche(stream), raising=True)
    back = list(FromAvalanche(f"{__name__}:class_incremental", {}, Plain(8, augment=False)).steps())
    for mine, theirs in zip(stream.steps(), back, strict=True):
        assert sorted(mine.event.classes) == list(theirs.event.classes)
        assert mine.event.data.labels.tolist() == theirs.event.data.labels.tolist()
        rows = range(0, len(mine.exam), 7)
        assert torch.equal(mine.exam[rows].x, theirs.exam[rows].x)
    timeline = to_avalanche(stream).train_stream
    assert set(timeline[1].classes_seen_so_far) == set(range(10))


@there
def test_a_stream_that_forgets_is_not_handed_over():
    stream = Mixed(ClassIncremental("digits", increment=5), [Request(1, classes=[0])])
    with pytest.raises(UserError, match="no forget requests"):
        to_avalanche(stream)


@there
def test_accuracies_are_avalanches_own():
    """One fixed linear rule answers both: our exams and Avalanche's evaluation loop on the same stream."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    stream = ClassIncremental("digits", increment=4, transform=Plain(8, augment=False))
    rule = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 10))
    with torch.no_grad():
        rule[1].weight.normal_(generator=torch.Generator().manual_seed(3))
    plugin = EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[])
    naive = Naive(rule, torch.optim.SGD(rule.parameters(), lr=0.0), train_mb_size=64, eval_mb_size=64, evaluator=plugin)
    theirs = naive.eval(to_avalanche(stream).test_stream)
    evaluator, live = Evaluator(), tuple(range(10))

    def answer(samples):
        return rule(samples[range(len(samples))].x).argmax(1) if len(samples) else torch.empty(0, dtype=torch.int64)

    measurements = [evaluator.examine(s, answer, live, dict.fromkeys(live, "")) for s in stream.steps()][-1]
    for i, hits in enumerate(measurements.exams.values()):
        (key,) = (k for k in theirs if "Top1_Acc_Exp" in k and k.endswith(f"Exp{i:03d}"))
        assert continual.micro_accuracy(hits.values()) == pytest.approx(theirs[key])
    (whole,) = (v for k, v in theirs.items() if "Top1_Acc_Stream" in k)
    assert continual.micro_accuracy(measurements.hits.values()) == pytest.approx(whole)


@there
@pytest.mark.parametrize("seed", range(5))
def test_each_forgetting_formula_that_avalanche_has_agrees(seed):
    from avalanche.evaluation.metrics.forgetting_bwt import BWT, Forgetting

    rng = torch.Generator().manual_seed(seed)
    tasks = 2 + seed
    matrix = [torch.rand(i + 1, generator=rng).tolist() for i in range(tasks)]
    forgetting, transfer = Forgetting(), BWT()
    for i, row in enumerate(matrix):
        for j, accuracy in enumerate(row):
            for metric in (forgetting, transfer):
                metric.update(j, accuracy, initial=i == j)
    theirs = forgetting.result()
    assert len(theirs) == tasks - 1
    assert continual.forgetting_diag(matrix) == pytest.approx(sum(theirs.values()) / len(theirs))
    back = transfer.result()
    assert continual.backward_transfer(matrix) == pytest.approx(sum(back.values()) / len(back))


@there
def test_names_of_avalanches_benchmarks_are_known():
    with pytest.raises(UserError, match="SplitMNIST"):
        _ = FromAvalanche("SplitMNSIT").made


def test_without_avalanche_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "avalanche", None)
    monkeypatch.setitem(sys.modules, "avalanche.benchmarks.classic", None)
    with pytest.raises(UserError, match=r"pip install .*avalanche.* brings what is missing"):
        _ = FromAvalanche("SplitMNIST").made


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(UserError, match="nowhere:make"):
        _ = FromAvalanche("nowhere:make").made

"""Streams of forgetting: what each of them asks for, and that it runs from the first event to the last."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from cl_framework.cli import main
from cl_framework.engine import loop
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.metrics.continual import micro_accuracy
from cl_framework.streams.events import Experience, ForgetRequest, Step, surviving
from cl_framework.streams.scenario import Scenario
from scenarios.class_incremental import ClassIncremental
from scenarios.clpu import CLPU, orders
from scenarios.forget_sequence import ForgetSequence
from scenarios.forget_then_relearn import ForgetThenRelearn
from scenarios.mixed import Mixed
from scenarios.pretrained import Pretrained
from scenarios.random_insertion import RandomInsertion, insertions
from scenarios.requests import Request
from scenarios.sample_requests import SampleRequests, class_mean_distances
from scenarios.sliding_window import SlidingWindow
from strategies.learning.finetune import Finetune
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain


def digits(seed: int | None = None, **options) -> ClassIncremental:
    """Five experiences of two digits each."""
    return ClassIncremental(order_seed=seed, **options)


def two_of(stream: Scenario) -> list[int | str]:
    """Return a class of the first experience and one of the second."""
    return [s.event.classes[0] for s in list(stream.steps())[:3] if isinstance(s.event, Experience)][:2]


ALL: dict[str, Callable[[Scenario], Scenario]] = {  # what suits any stream of at least four experiences of two classes
    "ForgetSequence": lambda s: ForgetSequence(s, times=2, classes=3),
    "CLPU": lambda s: CLPU(s, "R0 T1 T2 R1 F2 T3 F3"),
    "RandomInsertion": lambda s: RandomInsertion(s),
    "RandomInsertion of classes": lambda s: RandomInsertion(s, what="class", seed=3),
    "SlidingWindow": lambda s: SlidingWindow(s, window=3),
    "SlidingWindow that makes room": lambda s: SlidingWindow(s, forget_first=True),
    "ForgetThenRelearn": lambda s: ForgetThenRelearn(s, two_of(s), forget_after=2, relearn_after=3),
    "SampleRequests": lambda s: SampleRequests(s, share=0.1),
    "SampleRequests of the atypical": lambda s: SampleRequests(s, share=0.1, pick="atypical"),
}
EACH = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())


def said(scenario: Scenario) -> list[str]:
    """Return the names of all events."""
    return [s.event.name for s in scenario.steps()]


def gone(scenario: Scenario) -> list[tuple[int, ...]]:
    """Return what each request takes."""
    return [s.event.classes for s in scenario.steps() if isinstance(s.event, ForgetRequest)]


def alive_after(scenario: Scenario) -> list[list[int]]:
    """Return the classes that live after every step, checking that only what lives is forgotten."""
    seen: list[Step] = []
    found = []
    for step in scenario.steps():
        past, event = surviving(seen), step.event
        live, there = {c for e in past for c in e.classes}, {i for e in past for i in e.data.ids.tolist()}
        if isinstance(event, ForgetRequest):
            assert set(event.classes) <= live
            assert set(event.data.ids.tolist()) <= there
            assert len(event.data) > 0
            assert set(event.experiences) <= {e.name for e in past}
        else:
            assert not set(event.classes) & live
            assert torch.equal(event.data.ids, event.reference.ids)
            assert torch.equal(event.data.labels, event.reference.labels)
            assert set(step.exam.labels.tolist()) == set(event.classes)
        seen.append(step)
        found.append([c for e in surviving(seen) for c in e.classes])
    return found


# --- what all of them share -----------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_only_what_lives_is_forgotten(make, seed):
    scenario = make(digits(seed))
    alive_after(scenario)
    names = said(scenario)
    assert len(set(names)) == len(names)
    assert [n for n in names if n.startswith("forget")] == [f"forget-{i}" for i in range(len(gone(scenario)))]
    assert gone(scenario)


@EACH
def test_two_passes_and_two_processes_see_the_same_stream(make):
    one, two = make(digits()), make(digits())
    for a, b, c in zip(one.steps(), one.steps(), two.steps(), strict=True):
        for other in (b, c):
            assert (a.event.name, a.event.classes) == (other.event.name, other.event.classes)
            assert torch.equal(a.event.data.ids, other.event.data.ids)
            assert torch.equal(a.exam.ids, other.exam.ids)
            assert torch.equal(a.exam.labels, other.exam.labels)


@EACH
def test_data_names_and_files_are_those_of_the_stream(make, tmp_path):
    from PIL import Image

    stream = digits()
    scenario = make(stream)
    assert scenario.fingerprint() == stream.fingerprint() != ""
    assert list(scenario.class_names)[:10] == list(stream.class_names)
    Image.new("RGB", (9, 9), (3, 200, 5)).save(tmp_path / "a.png")
    assert torch.equal(scenario.read([str(tmp_path / "a.png")]), stream.read([str(tmp_path / "a.png")]))
    heard = []
    stream.unlock = heard.append
    scenario.unlock(b"key")
    assert heard == [b"key"]


@EACH
def test_a_stream_that_forgets_already_is_refused(make):
    with pytest.raises(UserError, match="takes a stream of experiences only, and Mixed forgets already"):
        make(Mixed(digits(), [Request(1, classes=[0])])).steps()


@EACH
@pytest.mark.parametrize("strategy", ["SimpleCIL", "Finetune"])
def test_it_runs_to_the_end(make, strategy, world, make_trainer, stream):
    """What cannot be separated is retrained, and the exams are about what lives."""
    scenario = make(world.Listed(stream))
    who = world.learner(*((SimpleCIL(), DropAdapter()) if strategy == "SimpleCIL" else (Finetune(), Retrain())))
    heard = world.Listener(who)
    loop.run_stream(who, scenario, make_trainer, Evaluator(), heard, 8)
    live = alive_after(scenario)
    assert [set(m.hits) for m in heard.measurements] == list(map(set, live))
    for step, measurements in zip(scenario.steps(), heard.measurements, strict=True):
        if isinstance(step.event, ForgetRequest) and not step.event.single:
            assert measurements.forget.accuracy_after == 0
    if strategy == "SimpleCIL" and live[-1]:
        assert micro_accuracy(heard.measurements[-1].hits.values()) >= 0.9
    never = world.learn(
        world.learner(SimpleCIL() if strategy == "SimpleCIL" else Finetune()), surviving(scenario.steps())
    )
    assert world.differences(who, never) == []


# --- ForgetSequence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_task_t_forgets_what_gs_loras_slice_says(seed):
    order = [c for s in digits(seed).steps() for c in s.event.classes]
    found = gone(ForgetSequence(digits(seed), times=4, classes=2))
    assert found == [tuple(sorted(order[8 - 2 * t : 10 - 2 * t])) for t in range(4)]
    assert said(ForgetSequence(digits(seed), 4, 2))[:5] == [f"task-{i}" for i in range(5)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"times": 4, "classes": 3}, "4 x 3 classes cannot be forgotten of 10"), ({"times": 0}, "found 0 and 20")],
)
def test_more_than_there_is_cannot_be_forgotten(settings, message):
    with pytest.raises(UserError, match=message):
        ForgetSequence(digits(), **settings).steps()


# --- CLPU -----------------------------------------------------------------------------------------------------------


def test_the_eight_requests_of_the_paper():
    stream = CLPU(digits())
    assert said(stream) == ["task-0", "task-1", "task-2", "task-3", "keep-task-1", "forget-0", "task-4", "forget-1"]
    assert gone(stream) == [(4, 5), (8, 9)]
    kept = list(stream.steps())[4]
    assert (kept.event.classes, len(kept.event.data), len(kept.exam)) == ((), 0, 0)
    assert alive_after(stream)[-1] == [0, 1, 2, 3, 6, 7]


def test_tasks_come_in_the_order_of_the_list_and_the_rest_stays_away():
    stream = CLPU(digits(), "T3 R0 F3")
    assert said(stream) == ["task-3", "task-0", "forget-0"]
    assert gone(stream) == [(6, 7)]


@pytest.mark.parametrize("seed", range(5))
def test_any_sensible_list_is_honoured(seed):
    """Random walks over what is allowed."""
    rng = torch.Generator().manual_seed(seed)
    state = dict.fromkeys(range(5), "new")
    words: list[str] = []
    for _ in range(12):
        task = int(torch.randint(5, (), generator=rng))
        options = {"new": "RT", "trial": "RF", "kept": "", "gone": ""}[state[task]]
        if options:
            kind = options[int(torch.randint(len(options), (), generator=rng))]
            state[task] = {"R": "kept", "T": "trial", "F": "gone"}[kind]
            words.append(f"{kind}{task}")
    stream = CLPU(digits(), " ".join(words))
    assert len(said(stream)) == len(words)
    left = {c for t, s in state.items() if s in {"kept", "trial"} for c in (2 * t, 2 * t + 1)}
    assert set(alive_after(stream)[-1]) == left


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ("R0 F0", "cannot carry out F0: task 0 is kept by then"),
        ("T0 R0 F0", "cannot carry out F0: task 0 is kept"),
        ("T0 F0 F0", "cannot carry out F0: task 0 is forgotten"),
        ("F1", "cannot carry out F1: task 1 is unknown"),
        ("T0 T0", "cannot carry out T0: task 0 is on trial"),
        ("T0 F0 R0", "cannot carry out R0: task 0 is forgotten"),
        ("R0 R0", "cannot carry out R0: task 0 is kept"),
        ("R0 X1", "cannot read the request 'X1'"),
        ("", "needs requests"),
        ("R0 R7", "no experience number 7; choose 0 to 4"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(requests, message):
    with pytest.raises(UserError, match=message):
        CLPU(digits(), requests).steps()


def test_keeping_a_task_changes_nothing(world, stream):
    who = world.learn(world.learner(Finetune()), stream[:2])
    before = world.clone(who.state_dict())
    kept = list(CLPU(world.Listed(stream), "T0 T1 R0").steps())[2].event
    world.learn(who, [kept], stream[:2])
    assert all(torch.equal(v, before[k]) for k, v in who.state_dict().items())
    assert orders("T0 R0")[1] == ("keep", 0)


# --- RandomInsertion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["experience", "class"])
def test_each_request_comes_after_what_it_forgets_and_takes_it_whole(what):
    taken = set()
    for seed in range(8):
        stream = RandomInsertion(digits(), requests=4, what=what, seed=seed)
        found = gone(stream)
        assert [len(c) for c in found] == [2 if what == "experience" else 1] * 4
        assert len(set(found)) == 4
        taken |= set(found)
        alive_after(stream)  # F after its task
    assert len(taken) > 4, "every seed takes the same"


def test_places_are_drawn_uniformly_from_those_after_the_item():
    drawn = [insertions([1] * 4, 4, seed) for seed in range(1500)]
    for owner in range(4):
        places = Counter(after for found in drawn for o, _, after in found if o == owner)
        assert set(places) == set(range(owner + 1, 5))
        expected = 1500 / (4 - owner)
        assert all(abs(n - expected) < 5 * expected**0.5 for n in places.values())
    first = Counter(found[0][0] for found in drawn)
    assert all(abs(n - 375) < 5 * 375**0.5 for n in first.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"requests": 6}, "There are 5 things to forget and 6 requests"),
        ({"requests": 11, "what": "class"}, "There are 10 things"),
        ({"requests": 0}, "found 0"),
    ],
)
def test_more_requests_than_things_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        RandomInsertion(digits(), **settings).steps()


# --- SlidingWindow --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget_first", [False, True])
@pytest.mark.parametrize("window", [None, 4, 5])
@pytest.mark.parametrize("seed", [None, 1])
def test_the_window_keeps_its_size_and_the_oldest_leave(window, forget_first, seed):
    stream = digits(seed, base=4, increment=2)
    order = [c for s in stream.steps() for c in s.event.classes]
    scenario = SlidingWindow(stream, window, forget_first)
    size = window or 4
    taken = [c for classes in gone(scenario) for c in sorted(classes, key=order.index)]
    assert taken == order[: len(taken)], "a class is forgotten twice, or out of turn"
    learned = 0
    for step, live in zip(scenario.steps(), alive_after(scenario), strict=True):
        learned += len(step.event.classes) * isinstance(step.event, Experience)
        settled = forget_first == isinstance(step.event, Experience)
        if settled:
            assert sorted(live) == sorted(order[:learned][-size:])
        assert len(live) <= size + (0 if forget_first else 2)
    assert alive_after(scenario)[-1] == sorted(order[-size:], key=order.index)


def test_a_base_of_half_the_classes_ends_with_the_newer_half():
    scenario = SlidingWindow(digits(base=5, increment=1))
    assert gone(scenario) == [(c,) for c in range(5)]
    assert alive_after(scenario)[-1] == [5, 6, 7, 8, 9]


def test_an_experience_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="brings 2 classes into a window of 1"):
        SlidingWindow(digits(), window=1).steps()
    with pytest.raises(UserError, match="brings 7 classes into a window of 3"):
        SlidingWindow(digits(base=3, increment=7)).steps()


# --- ForgetThenRelearn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leave", "back"), [(None, None), (3, 4), ("task-2", 3), (3, None)])
def test_classes_come_back_under_fresh_ids_and_their_old_names(leave, back):
    stream = ForgetThenRelearn(digits(), ["5", 0], leave, back)
    again = next(s for s in stream.steps() if s.event.name == "relearn-0")
    assert again.event.relearned == {10: 5, 11: 0}
    assert again.event.classes == (10, 11)
    assert [stream.class_names[c] for c in again.event.classes] == ["5", "0"]
    assert len(stream.class_names) == 12
    for new, old in again.event.relearned.items():
        for view in ("data", "reference"):
            first = torch.cat([getattr(s.event, view).of([old]).ids for s in digits().steps()])
            assert torch.equal(getattr(again.event, view).of([new]).ids, first)
        before = torch.cat([s.exam.of([old]).ids for s in digits().steps()])
        assert torch.equal(again.exam.of([new]).ids, before)
    row = [int((again.event.data.labels == 10).nonzero()[0])]
    assert again.event.reference[row].y.tolist() == [10]
    original = next(s for s in list(digits().steps()) if 5 in s.event.classes).event.reference.of([5])
    assert torch.equal(again.event.reference[row].x, original[[0]].x)
    assert again.event.reference.key == original.key
    assert set(alive_after(stream)[-1]) == {1, 2, 3, 4, 6, 7, 8, 9, 10, 11}
    names = said(stream)
    assert names.index("forget-0") < names.index("relearn-0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": [0], "forget_after": 3, "relearn_after": 2}, "leave after 3 experiences cannot be back after 2"),
        ({"classes": [9], "forget_after": 2}, "Cannot forget class 9"),
        ({"classes": ["zero"]}, "There is no class 'zero'"),
        ({"classes": []}, "names nothing"),
        ({"classes": [0], "forget_after": 9}, "after 9 of 5"),
    ],
)
def test_what_was_not_there_cannot_come_back(settings, message):
    with pytest.raises(UserError, match=message):
        ForgetThenRelearn(digits(), **settings).steps()


def test_what_comes_back_is_learned_as_it_was_and_marked(world, make_trainer, stream):
    scenario = ForgetThenRelearn(world.Listed(stream), [0, 1], forget_after=3)
    who = world.learner(SimpleCIL(), DropAdapter())
    heard = world.Listener(who)
    loop.run_stream(who, scenario, make_trainer, Evaluator(), heard, 8)
    first = world.learn(world.learner(SimpleCIL()), stream)
    assert heard.measurements[-1].relearned == {8: 0, 9: 1}
    exam = world.noise([0, 1], 6, "test")
    assert torch.equal(who.answer(exam), first.answer(exam) + 8)
    assert heard.measurements[-1].old == {}, "what is learned again is not asked about as forgotten"


# --- SampleRequests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pick", ["random", "atypical"])
def test_a_share_of_every_experience_goes_right_after_it(pick):
    steps = list(SampleRequests(digits(), share=0.03, pick=pick).steps())
    for learned, request in zip(steps[::2], steps[1::2], strict=True):
        assert request.event.single
        assert set(request.event.data.ids.tolist()) <= set(learned.event.data.ids.tolist())
        assert len(request.event.data) == round(0.03 * len(learned.event.data)) > 1
        assert request.exam is request.event.reference
    few = list(SampleRequests(digits(), share=0.0001, pick=pick).steps())
    assert [len(s.event.data) for s in few[1::2]] == [1] * 5


def test_seeds_decide_what_is_random_and_history_does_not():
    def picked(seed, stream, **options):
        steps = list(SampleRequests(stream, share=0.03, seed=seed, **options).steps())
        return {a.event.classes: b.event.data.ids.tolist() for a, b in zip(steps[::2], steps[1::2], strict=True)}

    assert picked(0, digits()) != picked(1, digits())
    assert picked(0, digits(), pick="atypical") == picked(1, digits(), pick="atypical")
    assert picked(0, digits(classes=4))[(2, 3)] == picked(0, digits())[(2, 3)]


def test_atypical_samples_are_farthest_from_the_mean_of_their_class():
    step = next(digits().steps())
    reference = step.event.reference
    x = reference[range(len(reference))].x.flatten(1).double()
    slow = []
    for row, label in zip(x, reference.labels.tolist(), strict=True):
        mean = x[reference.labels == label].mean(0)
        slow.append(float((row - mean).square().sum() ** 0.5))
    torch.testing.assert_close(class_mean_distances(reference, batch=60), torch.tensor(slow, dtype=torch.float64))
    request = list(SampleRequests(digits(), share=0.02, pick="atypical").steps())[1].event
    farthest = torch.tensor(slow).argsort(descending=True)[: len(request.data)]
    assert set(request.data.ids.tolist()) == set(reference.ids[farthest].tolist())


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UserError, match="between 0 and 1"):
        SampleRequests(digits(), share=share)


# --- Mixed, and all of it in a config -------------------------------------------------------------------------------


def test_a_request_can_say_which_data_cannot_be_had():
    steps = list(Mixed(digits(), [Request(2, classes=[0], missing=["forget"]), Request(3, classes=[2])]).steps())
    assert [s.event.missing for s in steps if isinstance(s.event, ForgetRequest)] == [{"forget"}, frozenset()]


@pytest.mark.parametrize(
    ("words", "events"),
    [
        (["CLPU"], 8),
        (["ForgetThenRelearn", "--data.scenario.classes", "[3, 4]"], 7),
        (["SampleRequests", "--data.scenario.pick", "atypical"], 10),
    ],
)
def test_the_command_line_runs_it_and_the_report_holds_it(words, events, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quickstart = main.__file__.replace("cl_framework/cli/main.py", "configs/quickstart.yaml")
    line = ["run", "--config", quickstart, "--run_dir", "run", "--model.strategy", "SimpleCIL"]
    few = ["--data.scenario.stream.dataset", "glyphs:known=true,classes=10,train=6,test=4"]
    assert main.main([*line, "--data.scenario", *words, *few]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["events"]) == events
    assert results["final_accuracy"] > 0.9
    assert all(f["accuracy_forget"] == 0 for f in results["forget"] if words[0] != "SampleRequests")
    assert main.main(["verify", "run"]) == 0
    assert main.main(["resume", "run"]) == 0
    assert main.main(["evaluate", "run"]) == 0


def test_scenarios_nest_in_a_config(tmp_path):
    from cl_framework.configuration.parser import scenario_of

    inner = '{"class_path": "ClassIncremental", "init_args": {"increment": 5, "order_seed": null}}'
    known = f'{{"class_path": "Pretrained", "init_args": {{"stream": {inner}, "rows": null}}}}'
    words = ["--data.scenario=ForgetSequence", f"--data.scenario.stream={known}"]
    scenario, _ = scenario_of([*words, "--data.scenario.times=2", "--data.scenario.classes=3"])
    assert isinstance(scenario.stream, Pretrained)
    assert gone(scenario) == [(7, 8, 9), (4, 5, 6)]
    first, *_, last = (s.event for s in scenario.steps())
    assert first.inherited
    assert last.inherited

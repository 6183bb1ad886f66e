"""The evaluator against slow loops, with fake samples and fake learners."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_framework.engine import loop
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.evaluation.measurements import Forgotten, Measurements
from cl_framework.streams.events import Experience, ForgetRequest, Step
from cl_framework.streams.samples import Relabelled, Rows, Samples
from strategies.learning.simplecil import SimpleCIL

GENERATOR = torch.Generator().manual_seed(0)


def rows(*classes: int, per_class: int = 7, start: int = 0, key: str = "test") -> Rows:
    labels = torch.tensor(classes).repeat(per_class)
    return Rows(torch.rand(len(labels), 2, generator=GENERATOR), labels, start + torch.arange(len(labels)), key)


def learn(name: str, *classes: int, start: int = 0) -> Step:
    data = rows(*classes, start=start, key="train")
    return Step(Experience(name, classes, data, data), rows(*classes, start=start))


def forget(name: str, *classes: int, exam: Samples | None = None, of: str = "a") -> Step:
    samples = exam if exam is not None else rows(*classes, start=900)
    return Step(ForgetRequest(name, classes, (of,), samples, samples, ()), samples)


def guess(live: list[int]) -> Callable[[Samples], Tensor]:
    """A fixed, mediocre answer for each sample among ``live``: right about half the time where that is possible."""

    def answer(samples: Samples) -> Tensor:
        said = [live[int(i) % len(live)] for i in samples.ids]
        right = [int(i) % 2 == 0 and int(y) in live for i, y in zip(samples.ids, samples.labels, strict=True)]
        return torch.tensor([int(y) if ok else s for ok, y, s in zip(right, samples.labels, said, strict=True)])

    return answer


STREAM: list[tuple[Step, dict[int, str]]] = [
    (learn("a", 4, 2), {4: "a", 2: "a"}),
    (learn("b", 7, 9, start=100), {4: "a", 2: "a", 7: "b", 9: "b"}),
    (forget("f", 2), {4: "a", 7: "b", 9: "b"}),
    (forget("g", exam=rows(4, per_class=3, start=50, key="train")), {4: "a", 7: "b", 9: "b"}),
    (forget("h", 7, 9), {4: "a"}),
    (learn("c", 9, 5, start=300), {4: "a", 9: "c", 5: "c"}),
    (forget("i", 4), {9: "c", 5: "c"}),
]


def walk(evaluator: Evaluator, stream: list[tuple[Step, dict[int, str]]] = STREAM) -> list[Measurements]:
    measurements, live = [], [0]
    for step, owner in stream:
        evaluator.before(step, guess(live))
        live = list(owner)
        measurements.append(evaluator.examine(step, guess(live), live, owner))
    return measurements


def test_hits_equal_a_slow_loop_over_every_live_test_sample() -> None:
    exams = {"a": STREAM[0][0].exam, "b": STREAM[1][0].exam, "c": STREAM[5][0].exam}
    for (step, owner), measurements in zip(STREAM, walk(Evaluator(selection=True)), strict=True):
        expected: dict[str, dict[int, tuple[int, int]]] = {}
        chosen = []
        for name, exam in exams.items():
            said = guess(list(owner))(exam)
            for y, p in zip(exam.labels.tolist(), said.tolist(), strict=True):
                if owner.get(y) == name:  # alive, and not the copy that an earlier exam had of a class learned again
                    right, total = expected.setdefault(name, {}).get(y, (0, 0))
                    expected[name][y] = (right + (y == p), total + 1)
                    chosen.append(owner[p] == owner[y])
        assert measurements.exams == expected
        assert measurements.selected == (sum(chosen), len(chosen))
        assert (measurements.event, measurements.classes) == (step.event.name, step.event.classes)


def ranks(live: list[int]) -> Callable[[Samples], Tensor]:
    """What `guess` says first, then the other classes in an order of each sample's own."""

    def answer(samples: Samples) -> Tensor:
        rows = []
        for i, best in zip(samples.ids.tolist(), guess(live)(samples).tolist(), strict=True):
            others = [c for c in live if c != best]
            rows.append([best, *others[i % 3 :], *others[: i % 3]])
        return torch.tensor(rows)

    return answer


def test_laxer_rules_equal_a_slow_loop_and_change_nothing_else() -> None:
    stream = [*STREAM, (learn("d", 1, 3, 6, 8, start=600), {9: "c", 5: "c", 1: "d", 3: "d", 6: "d", 8: "d"})]
    plain, asked = walk(Evaluator(), stream), list[Measurements]()
    evaluator, live, exams = Evaluator(), [0], dict[str, Samples]()
    for step, owner in stream:
        evaluator.before(step, ranks(live))
        live = list(owner)
        asked.append(evaluator.examine(step, ranks(live), live, owner))
        if asked[-1].kind == "learn":
            exams[step.event.name] = step.exam
        top, within, chosen, right = 0, 0, 0, 0
        for name, exam in exams.items():
            for y, row in zip(exam.labels.tolist(), ranks(live)(exam).tolist(), strict=True):
                if owner.get(y) == name:
                    own = [c for c in row if owner[c] == name]
                    top, within, chosen = top + (y in row[:5]), within + (own[0] == y), chosen + (row[0] in own)
                    right += own[0] == y and row[0] in own
        assert asked[-1].lenient == {"experience": chosen, "top_5": top, "within_experience": within}
        assert right == sum(r for r, _ in asked[-1].hits.values())  # right is right on both counts
    assert top < sum(total for _, total in asked[-1].hits.values())  # six classes: the last is not among the best five
    assert [set(m.lenient) for m in plain] == [{"experience"}] * len(stream)
    assert [replace(m, lenient={}) for m in asked] == [replace(m, lenient={}) for m in plain]


def test_a_learner_ranks_by_its_scores_in_no_more_passes(world: Any, stream: list[Experience]) -> None:
    learner = world.learn(world.learner(SimpleCIL()), stream[:3])
    exam = world.noise((5, 2, 7, 0, 1, 6), 4, "test")
    exam.key = None  # so that nothing is remembered
    passes = learner.model.passes
    before = passes["evaluate"]
    best = learner.answer(exam)
    once = passes["evaluate"] - before
    ranking = learner.answer(exam, batch=7, ranked=True)
    assert passes["evaluate"] - before == 2 * once > 0
    assert torch.equal(ranking[:, 0], best)
    columns = (ranking[:, :, None] == torch.tensor(learner.model.classes)).int().argmax(2)
    ordered = world.scores(learner, exam).gather(1, columns)
    assert bool((ordered.diff(dim=1) <= 0).all())
    assert torch.equal(columns.sort(1).values, torch.arange(6).expand(24, 6))


def test_a_run_goes_on_from_events_that_counted_no_laxer_rules(world: Any, stream: list[Experience]) -> None:
    learner = world.learner(SimpleCIL())
    early, later = world.Listener(learner), world.Listener(learner)
    loop.run_stream(learner, world.Listed(stream[:1]), world.make_trainer, Evaluator(), early, 8)
    assert set(early.measurements[0].lenient) == {"experience", "top_5", "within_experience"}
    told = early.measurements[0].to_dict()
    del told["lenient"]
    old = Measurements.from_dict(told)
    assert old == replace(early.measurements[0], lenient={})
    loop.run_stream(learner, world.Listed(stream[:2]), world.make_trainer, Evaluator(), later, 8, [old])
    assert later.measurements[0].lenient["top_5"] == 24  # of four classes


def test_a_forgotten_class_is_measured_before_and_after_and_stays_remembered() -> None:
    measurements = {m.event: m for m in walk(Evaluator())}

    def half(exam: Samples) -> float:
        return sum(int(i) % 2 == 0 for i in exam.ids) / len(exam)

    f, g, h, i = (STREAM[at][0].exam for at in (2, 3, 4, 6))
    assert measurements["a"].forget is None
    forgotten = measurements["f"].forget
    assert forgotten is not None
    assert forgotten.accuracy_before is not None
    assert forgotten.accuracy_before >= half(f) > 0  # 2 was alive then
    assert forgotten.accuracy_after == 0.0
    assert forgotten.accuracy_old is None
    single = measurements["g"].forget
    assert single is not None
    assert single.accuracy_after is not None
    assert single.accuracy_after >= half(g) > 0  # the class of the samples is still alive
    assert single.accuracy_old == 0.0
    right, total = measurements["g"].hits[4]
    assert (single.samples, single.unseen) == (3, right / total)  # what samples of 4 never met would get
    both = measurements["h"].forget
    assert both is not None
    assert both == Forgotten(
        both.accuracy_before, 0.0, 0.0, went=14
    )  # f gives 0 of 7; that 4 is known says nothing of g
    last = measurements["i"].forget
    assert last is not None
    # 9 was learned again, so that of h only the seven samples of 7 are still forgotten: 7 + 7, none right
    assert last.accuracy_after == last.accuracy_old == 0.0
    assert len(h) == 14
    assert len(i) == 7


def test_samples_whose_class_stays_are_read_for_their_own_request_alone() -> None:
    read, live = list[str | None](), list[int]()

    def spy(samples: Samples) -> Tensor:
        read.append(samples.key)
        return guess(live)(samples)

    evaluator, counts = Evaluator(), []
    for step, owner in STREAM:
        read.clear()
        live[:] = live or owner
        evaluator.before(step, spy)
        live[:] = owner
        evaluator.examine(step, spy, live, owner)
        counts.append(read.count("train"))
    assert counts == [0, 0, 0, 2, 0, 0, 0]  # before and after; they may be deleted then


def test_old_leaves_out_classes_that_were_learned_again() -> None:
    measurements = walk(Evaluator())
    assert [list(m.old) for m in measurements] == [[], [], [], ["f"], ["f"], ["f", "h"], ["f", "h"]]
    assert measurements[4].old == {"f": (0, 7)}
    assert (
        measurements[5].old["h"] == measurements[6].old["h"] == (0, 7)
    )  # of fourteen: 9 is known again, under its own id


def test_a_class_that_comes_back_under_a_new_id_is_no_longer_old() -> None:
    data = rows(11, start=500)
    back = Step(Experience("d", (11,), data, data, relearned={11: 2}), data)
    measurements = walk(Evaluator(), [*STREAM[:3], (back, {4: "a", 7: "b", 9: "b", 11: "d"})])
    assert (measurements[-1].old, measurements[-1].relearned) == ({}, {11: 2})
    assert Measurements.from_dict(json.loads(json.dumps(measurements[-1].to_dict()))) == measurements[-1]


def test_a_forgotten_class_that_can_still_be_named_is_asked_about_and_counts_no_longer() -> None:
    live = {4: "a", 2: "a", 7: "b", 9: "b"}
    measurements = walk(Evaluator(), [*STREAM[:2], (STREAM[2][0], live), (STREAM[4][0], live)])
    forgotten = measurements[2].forget
    assert forgotten is not None
    assert forgotten.accuracy_after == forgotten.accuracy_before == 6 / 7  # `guess` knows it as well as before
    assert 2 not in measurements[2].hits
    assert measurements[3].old == {"f": (6, 7)}


def test_classes_without_an_output_are_not_asked_about() -> None:
    evaluator, asked = Evaluator(), list[set[int]]()

    def spy(samples: Samples) -> Tensor:
        asked.append(set(samples.labels.tolist()))
        return torch.full((len(samples),), 5)

    for step, owner in STREAM[:6]:
        evaluator.before(step, guess([4]))
        evaluator.examine(step, guess(list(owner)), list(owner), owner)
    step, owner = STREAM[6]
    evaluator.before(step, spy)
    evaluator.examine(step, spy, list(owner), owner)
    assert asked == [{4}, {9, 5}]  # before; exam c; nothing of 4, 2 and 7, which have no output


def test_marks_survive_json() -> None:
    for measurements in walk(Evaluator(selection=True)):
        told = measurements.to_dict()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert Measurements.from_dict(told) == measurements


def test_hits_pool_a_class_over_exams() -> None:
    measurements = Measurements("e", "learn", (1,), {"a": {1: (1, 2), 3: (4, 4)}, "b": {1: (3, 5)}})
    assert measurements.hits == {1: (4, 7), 3: (4, 4)}


def test_all_exams_are_asked_about_at_once_under_the_name_that_they_are_remembered_by() -> None:
    seen: list[Samples] = []

    def spy(samples: Samples) -> Tensor:
        seen.append(samples)
        return samples.labels

    evaluator = Evaluator()
    (a, live_a), (b, live_b), (f, live_f) = STREAM[:3]
    evaluator.examine(a, spy, list(live_a), live_a)
    evaluator.examine(b, spy, list(live_b), live_b)
    first, both = seen
    assert torch.equal(first.ids, a.exam.ids)
    assert torch.equal(both.ids, torch.cat([a.exam.ids, b.exam.ids]))
    evaluator.before(f, spy)
    del seen[:]
    evaluator.examine(f, spy, list(live_f), live_f)
    left = a.exam.ids[a.exam.labels == 4]  # another of its classes died
    assert torch.equal(seen[0].ids, torch.cat([left, b.exam.ids]))
    assert first.key == both.key == seen[0].key == "test"


def test_exams_of_several_sources_are_asked_about_apart() -> None:
    other = Relabelled(STREAM[1][0].exam, 0, ids=1000)
    (a, live_a), (b, live_b) = STREAM[:2]
    seen: list[Samples] = []

    def spy(samples: Samples) -> Tensor:
        seen.append(samples)
        return samples.labels

    evaluator = Evaluator()
    evaluator.examine(a, spy, list(live_a), live_a)
    measurements = evaluator.examine(replace(b, exam=other), spy, list(live_b), live_b)
    assert sorted(s.key or "" for s in seen[1:]) == ["test", "test+1000"]
    assert list(measurements.exams) == [a.event.name, b.event.name]
    assert all(right == total for exam in measurements.exams.values() for right, total in exam.values())


def test_what_was_forgotten_earlier_is_asked_about_without_a_name_to_remember_it_by() -> None:
    keys: list[str | None] = []

    def spy(samples: Samples) -> Tensor:
        keys.append(samples.key)
        return samples.labels

    evaluator = Evaluator()
    for step in (STREAM[0][0], forget("f", 2, exam=rows(2, key="old")), forget("x", exam=rows(4, key="train"))):
        evaluator.before(step, spy)
        evaluator.examine(step, spy, [4, 2], {4: "a", 2: "a"})
    # its own exam keeps its name: what the store knows of it serves once more, and is scrubbed right after
    assert keys == ["test", "old", "test", "old", "train", "test", None, "train"]


def test_selection_is_counted_only_when_asked_for() -> None:
    assert all(m.selected is None for m in walk(Evaluator()))


def test_a_learner_that_has_lost_every_class_is_not_asked() -> None:
    evaluator = Evaluator()
    evaluator.examine(*everything(STREAM[0]))
    request = forget("all", 4, 2)
    evaluator.before(request, guess([4, 2]))

    def never(samples: Samples) -> Tensor:
        raise AssertionError

    measurements = evaluator.examine(request, never, [], {})
    assert measurements.exams == {}
    assert measurements.forget is not None
    assert measurements.forget.accuracy_after == 0.0


def test_a_forget_request_without_test_samples_has_no_accuracy() -> None:
    evaluator = Evaluator()
    evaluator.examine(*everything(STREAM[0]))
    request = forget("f", 2, exam=rows(2, per_class=0))
    evaluator.before(request, guess([4, 2]))
    assert evaluator.examine(request, guess([4]), [4], {4: "a"}).forget == Forgotten(None, None, None, went=0)


def test_forgetting_unmeasured_before_is_an_error() -> None:
    evaluator = Evaluator()
    evaluator.examine(*everything(STREAM[0]))
    with pytest.raises(RuntimeError, match="before 'f'"):
        evaluator.examine(*everything(STREAM[2]))


def test_an_answer_of_the_wrong_length_is_an_error() -> None:
    step, owner = STREAM[0]
    with pytest.raises(ValueError, match="zip"):
        Evaluator().examine(step, lambda samples: samples.labels[1:], list(owner), owner)


def everything(
    entry: tuple[Step, dict[int, str]],
) -> tuple[Step, Callable[[Samples], Tensor], list[int], dict[int, str]]:
    step, owner = entry
    return step, guess(list(owner)), list(owner), owner

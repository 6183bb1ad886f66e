"""Every formula on matrices worked out by hand, and against torchmetrics where it has the metric."""

from __future__ import annotations

import doctest

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from cl_framework.metrics import continual, cost, ranked, unlearning
from cl_framework.metrics.continual import (
    average_incremental_accuracy,
    backward_transfer,
    final_accuracy,
    forgetting_diag,
    forgetting_max_all,
    forgetting_max_past,
    mean_class_accuracy,
    micro_accuracy,
    plasticity,
)
from cl_framework.metrics.ranked import top_k_hits, within_experience_hits
from cl_framework.metrics.unlearning import h_mean

DECAYING = [[0.5], [0.9, 0.8], [0.6, 0.7, 0.9]]
IMPROVING = [[0.5], [0.6, 0.8], [0.9, 0.9, 0.9]]
# exam 0 dips and ends at its best, exams 1 and 2 fall, exam 3 was learned last
RECOVERING = [[0.7], [0.5, 0.9], [0.6, 0.8, 0.4], [0.8, 0.6, 0.3, 0.5]]
# learn, learn, forget part of exam 0, learn, forget all of exam 1
MIXED = [
    [0.8, None, None],
    [0.6, 1.0, None],
    [0.7, 0.9, None],
    [0.5, 0.9, 0.6],
    [0.4, None, 0.7],
]


@pytest.mark.parametrize(
    ("formula", "matrix", "expected"),
    [
        # the matrix on which four well-known tools report +0.20, +0.20, 0.00 and -0.05 as "forgetting"
        (forgetting_max_past, DECAYING, ((0.9 - 0.6) + (0.8 - 0.7)) / 2),  # +0.20
        (forgetting_diag, DECAYING, ((0.5 - 0.6) + (0.8 - 0.7)) / 2),  # 0.00
        (backward_transfer, DECAYING, 0.0),
        (plasticity, DECAYING, (0.5 + 0.8 + 0.9) / 3),
        # and an improving stream: a maximum that saw the last row would say 0.00
        (forgetting_max_past, IMPROVING, ((0.6 - 0.9) + (0.8 - 0.9)) / 2),  # -0.20
        (forgetting_diag, IMPROVING, ((0.5 - 0.9) + (0.8 - 0.9)) / 2),  # -0.25
        (backward_transfer, IMPROVING, 0.25),
        # where the best is the last, only a maximum that sees the last row counts nothing instead of a gain
        (forgetting_max_past, RECOVERING, ((0.7 - 0.8) + (0.9 - 0.6) + (0.4 - 0.3)) / 3),  # +0.10
        (forgetting_max_all, RECOVERING, ((0.8 - 0.8) + (0.9 - 0.6) + (0.4 - 0.3)) / 3),  # +0.13
        (forgetting_diag, RECOVERING, ((0.7 - 0.8) + (0.9 - 0.6) + (0.4 - 0.3)) / 3),
        (backward_transfer, RECOVERING, ((0.8 - 0.7) + (0.6 - 0.9) + (0.3 - 0.4)) / 3),
        (plasticity, RECOVERING, (0.7 + 0.9 + 0.4 + 0.5) / 4),
        (forgetting_max_all, DECAYING, ((0.9 - 0.6) + (0.8 - 0.7)) / 2),
        (forgetting_max_all, IMPROVING, 0.0),
        (forgetting_max_all, MIXED, 0.8 - 0.4),
        # exam 1 has no entry in the last row; exam 2 was learned last
        (forgetting_max_past, MIXED, 0.8 - 0.4),
        (forgetting_diag, MIXED, 0.8 - 0.4),
        (backward_transfer, MIXED, 0.4 - 0.8),
        (plasticity, MIXED, (0.8 + 1.0 + 0.6) / 3),
    ],
)
def test_formulas_give_what_was_worked_out_by_hand(formula, matrix, expected) -> None:
    assert formula(matrix) == pytest.approx(expected, abs=1e-12)


def test_a_short_row_and_a_row_filled_with_none_are_the_same() -> None:
    filled = [row + [None] * (3 - len(row)) for row in DECAYING]
    for formula in (forgetting_max_past, forgetting_max_all, forgetting_diag, backward_transfer, plasticity):
        assert formula(filled) == formula(DECAYING)


def test_the_best_past_mark_may_be_set_long_after_learning_and_skips_gaps() -> None:
    matrix = [[0.2, None], [0.9, 0.5], [None, 0.5], [0.3, 0.5]]
    assert forgetting_max_past(matrix) == pytest.approx(0.9 - 0.3)
    assert forgetting_diag(matrix) == pytest.approx(0.2 - 0.3)


def test_a_forget_request_at_the_end_does_not_make_the_newest_exam_count() -> None:
    assert forgetting_max_past([[0.9], [0.8, 0.7], [0.6, 0.1]]) == pytest.approx(0.9 - 0.6)


@pytest.mark.parametrize("matrix", [[], [[]], [[0.7]], [[0.7, None], [None, 0.8]], [[None], [None]]])
def test_nothing_is_forgotten_where_nothing_can_be_compared(matrix) -> None:
    assert forgetting_max_past(matrix) == forgetting_diag(matrix) == backward_transfer(matrix) == 0.0
    assert forgetting_max_all(matrix) == 0.0


@pytest.mark.parametrize("stages", [2, 3, 7])
def test_a_maximum_over_all_stages_is_what_pilot_logs(stages: int) -> None:
    rng = torch.Generator().manual_seed(stages)
    matrix = [torch.rand(stage + 1, generator=rng).tolist() for stage in range(stages)]
    lost = 0.0
    for group in range(stages - 1):  # all but the newest
        best = 0.0
        for stage in range(stages):
            if group < len(matrix[stage]) and matrix[stage][group] > best:
                best = matrix[stage][group]
        lost += best - matrix[-1][group]
    assert forgetting_max_all(matrix) == pytest.approx(lost / (stages - 1), abs=1e-12)
    assert forgetting_max_all(matrix) >= max(forgetting_max_past(matrix), 0.0)


def test_plasticity_without_any_exam_is_none() -> None:
    assert plasticity([]) is None
    assert plasticity([[None]]) is None


def test_the_curve_is_averaged_unrounded_and_without_empty_days() -> None:
    assert average_incremental_accuracy([1 / 3, None, 2 / 3]) == 0.5
    assert average_incremental_accuracy([0.123456]) == 0.123456
    assert average_incremental_accuracy([None]) is None
    assert final_accuracy([0.9, 0.4]) == 0.4
    assert final_accuracy([0.9, None]) is None
    assert final_accuracy([]) is None


def test_micro_and_class_accuracy_agree_with_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(5, (300,), generator=generator) ** 2 % 5  # uneven: classes 2 and 3 never occur
    said = torch.where(torch.rand(300, generator=generator) < 0.6, truth, torch.randint(5, (300,), generator=generator))
    hits = [(int(((truth == c) & (said == c)).sum()), int((truth == c).sum())) for c in range(5)]
    micro = MulticlassAccuracy(5, average="micro")(said, truth)
    present = MulticlassAccuracy(5, average="none")(said, truth)[[c for c, (_, total) in enumerate(hits) if total]]
    assert micro_accuracy(hits) == pytest.approx(float(micro))
    assert mean_class_accuracy(hits) == pytest.approx(float(present.mean()))
    assert micro_accuracy(hits) != pytest.approx(mean_class_accuracy(hits))


def test_macro_accuracy_agrees_with_torchmetrics_when_every_class_occurs() -> None:
    generator = torch.Generator().manual_seed(1)
    truth, said = torch.randint(4, (2, 200), generator=generator)
    hits = [(int(((truth == c) & (said == c)).sum()), int((truth == c).sum())) for c in range(4)]
    assert mean_class_accuracy(hits) == pytest.approx(float(MulticlassAccuracy(4, average="macro")(said, truth)))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_agrees_with_torchmetrics(k: int) -> None:
    rng = torch.Generator().manual_seed(k)
    scores, truth = torch.randn(200, 7, generator=rng), torch.randint(7, (200,), generator=rng)
    theirs = MulticlassAccuracy(7, top_k=k, average="micro")(scores, truth)
    found = top_k_hits(scores.argsort(1, descending=True), truth, k) / 200
    assert found == pytest.approx(float(theirs))
    assert 0 < found < 1


def test_every_answer_is_among_the_top_five_of_fewer_classes() -> None:
    ranking = torch.tensor([[3, 8, 5], [8, 5, 3], [5, 3, 8]])
    assert top_k_hits(ranking, torch.tensor([5, 3, 8])) == 3
    assert top_k_hits(ranking[:0], torch.tensor([], dtype=torch.int64)) == 0


def test_within_an_experience_only_its_own_classes_compete() -> None:
    owner = {4: "a", 9: "b", 2: "a", 7: "b", 11: "b", 5: "c"}
    classes, rng = torch.tensor(list(owner)), torch.Generator().manual_seed(0)
    scores, truth = torch.randn(300, 6, generator=rng), classes[torch.randint(6, (300,), generator=rng)]
    right = 0
    for row, y in zip(scores.tolist(), truth.tolist(), strict=True):
        rivals = {c: score for c, score in zip(owner, row, strict=True) if owner[c] == owner[y]}
        right += max(rivals, key=rivals.__getitem__) == y
    ranking = classes[scores.argsort(1, descending=True)]
    assert within_experience_hits(ranking, truth, owner) == right
    assert right > top_k_hits(ranking, truth, 1)
    assert within_experience_hits(ranking, truth, dict.fromkeys(owner, "a")) == top_k_hits(ranking, truth, 1)
    assert within_experience_hits(ranking, truth, {c: str(c) for c in owner}) == 300


def test_accuracy_without_samples_is_none() -> None:
    assert micro_accuracy([]) is None
    assert micro_accuracy([(0, 0)]) is None
    assert mean_class_accuracy([(0, 0)]) is None
    assert mean_class_accuracy([(0, 0), (1, 2)]) == 0.5


def test_h_weighs_what_is_retained_against_what_dropped() -> None:
    assert h_mean(0.8, 0.9, 0.1) == pytest.approx(0.8)  # retained and dropped 0.8 each
    assert h_mean(0.9, 0.6, 0.0) == pytest.approx(2 * 0.9 * 0.6 / 1.5)
    assert h_mean(0.9, 0.5, 0.5) == 0.0
    assert h_mean(0.9, 0.5, 0.8) == 0.0  # relearned rather than forgotten
    assert h_mean(0.0, 0.9, 0.0) == 0.0


def test_cost_adds_up_work_and_keeps_the_highest_peak_and_the_last_size() -> None:
    passes = ("passes_train", "passes_statistics", "passes_evaluate", "features_found")
    names = (*passes, "seconds", "peak_memory_bytes", "stored_bytes")
    total = cost.total_cost(
        [dict(zip(names, row, strict=True)) for row in ((1, 2, 3, 7, 0.5, 90, 40), (10, 0, 5, 6, 1, 70, 30))]
    )
    assert list(total.values()) == [11, 2, 8, 13, 1.5, 90, 30]
    assert set(total) == set(names)
    assert set(cost.total_cost([]).values()) == {0}


@pytest.mark.parametrize("module", [continual, unlearning, cost, ranked])
def test_the_examples_in_the_docstrings_hold(module) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed

"""Classes without test samples are learned like others: where they would be examined stands None, not zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl_framework.auditing import audit, subjects
from cl_framework.auditing.reference_models import ReferenceTrainer
from cl_framework.engine import loop
from cl_framework.evaluation import results as evaluation_results
from cl_framework.evaluation import tables
from cl_framework.evaluation.evaluator import Evaluator
from scenarios.class_incremental import ClassIncremental
from scenarios.mixed import Mixed
from scenarios.pictures.transforms import Plain
from scenarios.requests import Request
from strategies.learning.finetune import Finetune
from strategies.unlearning.retrain import Retrain


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Classes ant, bee, cow and dog with 4 pictures to learn from each; only ant and dog have test pictures."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(("ant", "bee", "cow", "dog")):
        for split, n in (("train", 4), ("test", 0 if name in ("bee", "cow") else 2)):
            for i in range(n):
                file = tmp_path / "data" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                noise = rng.integers(0, 60, (8, 8, 3), np.uint8)
                Image.fromarray(noise + np.uint8(50 * c)).save(file)
    (tmp_path / "data" / "test" / "bee").mkdir()
    return tmp_path / "data"


def results(world: Any, scenario: Any) -> tuple[Any, dict[str, Any]]:
    learner = world.learner(Finetune(), Retrain())
    journal = world.Listener(learner)
    loop.run_stream(learner, scenario, world.make_trainer, Evaluator(), journal, batch_size=4)
    records = [
        evaluation_results.EventResult(m, c.seconds, c.trainable_parameters, c.steps, 0, 0, 0, 0, 0)
        for m, c in zip(journal.measurements, journal.costs, strict=True)
    ]
    learned = [(m.event, m.classes) for m in journal.measurements if m.kind == "learn"]
    return learner, evaluation_results.results("Finetune", learned, records, scenario.class_names)


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [0, 3, 1, 2]], ids=["none at first", "none at last"])
def test_an_experience_without_an_exam_is_none_in_every_result(world, pictures: Path, order: list[int], tmp_path):
    stream = ClassIncremental(f"imagefolder:{pictures}", increment=1, order=order, transform=Plain(8))
    assert stream.source.unexamined == ["bee", "cow"]
    _, found = results(world, stream)
    place = order.index(1)
    assert [row[place] for row in found["accuracy_matrix"]] == [None] * 4
    assert found["per_class_accuracy"]["1"] is None
    assert found["per_class_accuracy"]["0"] is not None
    assert sorted(found["per_class_accuracy"]) == ["0", "1", "2", "3"]
    assert found["curve"] == [None if i < min(order.index(0), order.index(3)) else pytest.approx(v)
                              for i, v in enumerate(found["curve"])]  # fmt: skip
    assert found["average_incremental_accuracy"] is not None
    evaluation_results.write_results(found, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["per_class_accuracy"]["1"] is None
    tables.table(found), tables.headline(found)


def test_a_class_without_an_exam_beside_one_with_is_not_counted(world, pictures: Path):
    stream = ClassIncremental(f"imagefolder:{pictures}", increment=2, order=[0, 1, 2, 3], transform=Plain(8))
    assert [len(s.exam) for s in stream.steps()] == [2, 2]
    _, found = results(world, stream)
    assert all(v is not None for v in found["curve"])
    assert found["mean_class_accuracy"] == pytest.approx(
        sum(v for v in found["per_class_accuracy"].values() if v is not None) / 2
    )


def test_forgetting_a_class_without_an_exam_says_none_and_can_be_audited(world, pictures: Path):
    stream = ClassIncremental(f"imagefolder:{pictures}", increment=2, order=[0, 1, 2, 3], transform=Plain(8))
    mixed = Mixed(stream, [Request(1, classes=["bee"]), Request(2, samples=[8])])
    learner, found = results(world, mixed)
    gone, single = found["forget"]
    assert (gone["accuracy_forget_before"], gone["accuracy_forget"], gone["h_mean"]) == (None, None, None)
    assert single["accuracy_forget"] is not None
    about = subjects.subject(list(mixed.steps()), "forget-0")
    assert len(about.unseen) == 0
    trainer = ReferenceTrainer(lambda: world.learner(Finetune(), Retrain()), world.make_trainer, 4, lambda what: None)
    told = audit.conduct(learner, about, trainer, audit.references(trainer, about, 0, 1))
    assert told["accuracy_forget_test"]["run"] is None
    assert told["accuracy_forget_train"]["run"] is not None

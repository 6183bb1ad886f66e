"""An audit tells what never met the data from what merely hides it, and leaves the run as it was."""

import functools
import json
import shutil

import pytest
import torch

from cl_framework.auditing import audit, probes, subjects, verdict
from cl_framework.auditing.reference_models import ReferenceTrainer
from cl_framework.auditing.shadow_models import halves, shadow_attack
from cl_framework.cli.main import main
from cl_framework.engine import checkpoint
from cl_framework.engine.trainers import fresh_trainers
from cl_framework.errors import UserError
from cl_framework.methods.base import Unlearner
from cl_framework.methods.unlearning import remove_forgotten
from cl_framework.streams.events import Experience, Step, exam_of, forget_request
from cl_framework.streams.samples import Rows
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.joint import Joint
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain


class _RowsOnly(Unlearner):
    """Delete the rows and leave everything else: the class cannot be named, and all is still there."""

    def forget(self, model, strategy, event):
        remove_forgotten(model, strategy, event)
        return ()


class _KeepsClasses(Unlearner):
    """Do nothing at all, and keep scoring the classes."""

    keep_rows = True

    def forget(self, model, strategy, event):
        return ()


class _Nothing(Unlearner):
    """Do nothing at all, and claim that it was exact: an edit would be refused where state is kept apart."""

    exact = True

    def forget(self, model, strategy, event):
        return ()


@pytest.fixture(scope="module")
def audited(world, stream):
    """Carry out a stream that forgets, and return the run, what it is audited on, and where references are made."""

    def get(strategy, unlearner, after=3, **asked):
        request = forget_request("forget-0", stream[:after], **asked)
        events = [*stream[:after], request, *stream[after:3]]
        make = lambda: world.learner(strategy(), unlearner())  # noqa: E731
        about = subjects.subject(list(world.Listed(events).steps()))
        return world.learn(make(), events), about, ReferenceTrainer(make, world.make_trainer, 8, lambda what: None)

    return get


def conduct(run, about, trainer, seeds=1):
    made = audit.references(trainer, about, run.model.seed, seeds)
    return audit.conduct(run, about, trainer, made)


EXACT = [
    pytest.param(EASE, DropAdapter, {"classes": [2, 7]}, id="EASE, classes"),
    pytest.param(EASE, DropAdapter, {"samples": [2000, 2001, 2002, 5003, 5004]}, id="EASE, samples"),
    pytest.param(SimpleCIL, DropAdapter, {"experiences": ["task-1"]}, id="SimpleCIL, an experience"),
    pytest.param(Finetune, Retrain, {"classes": [2], "samples": [5001]}, id="Finetune, both"),
]


@pytest.mark.parametrize(("strategy", "unlearner", "asked"), EXACT)
def test_the_exact_path_cannot_be_told_from_retraining_in_any_metric(strategy, unlearner, asked, audited):
    run, about, trainer = audited(strategy, unlearner, after=2, **asked)
    found = conduct(run, about, trainer, seeds=2)
    assert len(found) > 25
    for metric, values in found.items():
        assert values["run"] == values["retrained"], metric
    assert found["gap_to_retrain"]["run"] == found["js_to_retrained"]["run"] == found["clpu_ratio"]["run"] == 0
    assert found["js_to_retrained"]["original"] > 0


@pytest.fixture(scope="module")
def veiled(world):
    """Three experiences behind a veil of random strength, which adapters learn to look through; trained in earnest."""
    veil = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(99))
    rng = torch.Generator().manual_seed(0)

    def put_on(samples):
        x = samples.x + 3 * torch.randn(len(samples), 1, 1, 1, generator=rng) * veil
        return Rows(x, samples.labels, samples.ids, f"{samples.key}/veiled")

    stream, exams = [], []
    for t, classes in enumerate([(5, 2), (7, 0), (1, 6)]):
        seen = put_on(world.noise(classes, 20, "train"))
        stream.append(Experience(f"task-{t}", classes, seen, seen))
        exams.append(put_on(world.noise(classes, 20, "test")))
    request = forget_request("forget-0", stream, classes=[1, 6])
    steps = [Step(e, x) for e, x in zip([*stream, request], [*exams, exam_of(request, exams)], strict=True)]
    options = {"optimizer": lambda params: torch.optim.Adam(params, lr=0.03), "schedule": "constant"}
    longer = fresh_trainers(functools.partial(world.BUILD, max_epochs=10), None)
    trainer = ReferenceTrainer(lambda: world.learner(Joint(), _RowsOnly(), **options), longer, 8, lambda what: None)
    return trainer.learned("run", [s.event for s in steps]), subjects.subject(steps), trainer


def test_deleting_rows_only_is_caught_behind_the_head(veiled):
    found = conduct(*veiled)
    assert found["accuracy_forget_test"]["run"] == found["accuracy_forget_test"]["retrained"] == 0
    assert found["accuracy_retain_test"]["run"] > 0.9
    for probe in probes.PROBES:
        assert found[probe]["run"] == found[probe]["original"]
    assert found["old_rows_accuracy"]["run"] == found["old_rows_accuracy"]["original"] > 0.9
    assert found["relearn_accuracy_10"]["run"] == found["relearn_accuracy_10"]["original"]
    known = [v for m, v in found.items() if m.startswith("recovery_") and v["run"] is not None]
    assert known
    assert all(v["run"] == v["original"] == 1 and v["pristine"] == 0 for v in known)
    assert sum(v["retrained"] for v in known) < 0.9 * len(known)  # looking through the veil helps any class
    assert found["js_to_retrained"]["run"] > 0


def test_doing_nothing_shows_in_the_answers_themselves(audited):
    run, about, trainer = audited(Finetune, _KeepsClasses, classes=[1, 6])
    found = conduct(run, about, trainer)
    assert found["accuracy_forget_test"]["run"] == found["accuracy_forget_test"]["original"] > 0.5
    assert found["mia_loss_auc"]["run"] == found["mia_loss_auc"]["original"]
    assert found["mia_loss_auc"]["retrained"] is None  # no output, hence no loss: nothing is made up
    assert found["gap_to_retrain"]["run"] == found["gap_to_retrain"]["original"] > 0.1


def test_an_audit_changes_nothing_in_the_model(audited, world):
    run, about, trainer = audited(Finetune, _RowsOnly, classes=[5])
    before = world.clone(checkpoint.tensors(run))
    conduct(run, about, trainer)
    after = checkpoint.tensors(run)
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_two_audits_agree(audited):
    one, two = (conduct(*audited(Finetune, _RowsOnly, classes=[2])) for _ in range(2))
    assert one == two


def test_everything_may_be_forgotten(audited):
    run, about, trainer = audited(EASE, DropAdapter, classes=[0, 1, 2, 5, 6, 7])
    found = conduct(run, about, trainer)
    assert found["accuracy_forget_test"]["run"] == 0
    assert found["accuracy_retain_test"]["run"] is None
    assert all(v["run"] == v["retrained"] for v in found.values())


def test_without_references_the_run_is_still_examined(audited):
    run, about, trainer = audited(EASE, DropAdapter, classes=[2])
    found = audit.conduct(run, about, trainer, audit.References())
    assert list(found["accuracy_forget_test"]) == ["run", "pristine"]
    assert found["relearn_accuracy_5"]["run"] is not None
    assert "gap_to_retrain" not in found


def holds(metrics):
    return [c.holds for c in verdict.conclusions(metrics)]


def test_conclusions_follow_from_what_was_measured(audited, veiled):
    assert holds(conduct(*audited(EASE, DropAdapter, classes=[2]), seeds=2)) == ["yes", "yes", "yes"]
    assert holds(conduct(*veiled, seeds=2))[1] == "no"  # rows went and the features know all of it


def test_a_conclusion_whose_measurement_is_missing_is_not_drawn(audited):
    run, about, trainer = audited(EASE, DropAdapter, classes=[2])
    alone = audit.conduct(run, about, trainer, audit.References())  # as with --fast
    assert holds(alone) == ["unknown"] * 3
    assert all("--fast" in c.why for c in verdict.conclusions(alone))
    made = audit.references(trainer, about, run.model.seed, 1)
    without = audit.conduct(run, about, trainer, made, relearning=False)  # as with --no-relearn
    assert holds(without) == ["yes", "yes", "unknown"]
    assert "leave out --no-relearn" in verdict.conclusions(without)[2].why


def test_of_samples_whose_class_stays_attacks_tell_and_nothing_is_learned_again(audited):
    asked = [2000, 2001, 2002, 5003, 5004]
    metrics = conduct(*audited(EASE, DropAdapter, after=2, samples=asked), seeds=2)
    assert not any(m.startswith(("relearn", "anamnesis")) for m in metrics)
    concluded = verdict.conclusions(metrics, single=True)
    assert [c.holds for c in concluded] == ["yes", "yes"]
    assert "an attack separates the forget set" in concluded[1].statement
    metrics["mia_loss_auc"]["run"] = 1.0
    assert verdict.conclusions(metrics, single=True)[1].why.startswith("mia_loss_auc finds 0.")
    assert verdict.conclusions(metrics, single=True)[1].holds == "no"
    metrics["mia_loss_auc"]["retrained"] = None
    assert "--fast" in verdict.conclusions(metrics, single=True)[1].why


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"run": 0.1, "retrained": 0.0, "retrained_2": 0.2}, "yes"),
        ({"run": 0.3, "retrained": 0.0, "retrained_2": 0.2}, "no"),
        ({"run": 0.1, "retrained": 0.0}, "unknown"),
        ({"run": 0.0, "retrained": 0.0}, "yes"),
    ],
)
def test_a_gap_counts_beside_that_between_innocent_models(values, told):
    assert holds({"gap_to_retrain": values})[0] == told


@pytest.mark.parametrize(
    ("index", "accuracy", "told"),
    [
        ({"run": 0.2, "retrained": 1.0, "retrained_2": 0.9}, 0.5, "no"),
        ({"run": 0.95, "retrained": 1.0, "retrained_2": 0.9}, 0.5, "yes"),
        ({"run": None, "retrained": None}, 0.5, "no"),  # nobody got there, and the run is ahead
        ({"run": None, "retrained": None}, 0.1, "yes"),
    ],
)
def test_coming_back_faster_than_an_innocent_model_shows(index, accuracy, told):
    after = {"run": accuracy, "retrained": 0.2, "retrained_2": 0.3}
    assert holds({"anamnesis_index": index, "relearn_accuracy_10": after})[2] == told


def test_the_subject_is_what_stayed_forgotten(world, stream):
    one, two = forget_request("forget-0", stream[:2], classes=[2]), {"samples": [7001], "classes": [5]}
    past = one.remaining
    again = forget_request("forget-1", past, **two)
    back = Experience("again", (2,), world.noise([2], 3, "train"), world.noise([2], 3, "train"))
    steps = list(world.Listed([*stream[:2], one, again]).steps())
    about = subjects.subject(steps)
    assert (about.requests, about.vanished) == (("forget-0", "forget-1"), (2, 5))
    assert sorted(set(about.gone.labels.tolist())) == sorted(set(about.unseen.labels.tolist())) == [2, 5, 7]
    assert not set(about.gone.ids.tolist()) & set(about.retained.ids.tolist())
    assert subjects.subject(steps, "forget-0").vanished == (2,)
    assert subjects.subject([*steps, *world.Listed([back]).steps()]).vanished == (5,)
    with pytest.raises(UserError, match=r"no forget request 'forget-7'"):
        subjects.subject(steps, "forget-7")
    with pytest.raises(UserError, match=r"Nothing to audit: nothing has been forgotten"):
        subjects.subject(steps[:2])


def test_shadow_models_find_what_was_not_forgotten_and_not_what_was(audited):
    samples = [c * 1000 + i for c in (5, 2) for i in range(8)]
    loud = audited(SimpleCIL, _Nothing, samples=samples)
    quiet = audited(SimpleCIL, DropAdapter, samples=samples)
    told, hidden = (shadow_attack(*which, shadows=8) for which in (loud, quiet))
    assert told["samples"] == hidden["samples"] == 16
    assert told["u_lira_auc"] > 0.8 > 0.75 > hidden["u_lira_auc"] > 0.25
    with pytest.raises(UserError, match="at least 8"):
        shadow_attack(*quiet, shadows=4)


def test_without_an_output_there_is_no_shadow_attack(audited):
    assert shadow_attack(*audited(SimpleCIL, DropAdapter, classes=[2]), shadows=8) is None


def test_a_shadow_that_met_none_of_a_few_samples_has_nothing_to_forget(audited):
    assert shadow_attack(*audited(SimpleCIL, DropAdapter, samples=[5001]), shadows=8)["samples"] == 1


def test_every_sample_is_met_by_half_of_the_shadows():
    met = halves(10, 50, seed=1)
    assert met.sum(0).tolist() == [5] * 50
    assert len({tuple(row) for row in met.tolist()}) == 10


TINY = ["--config", "configs/quickstart.yaml", "--data.scenario.stream.dataset", "glyphs:classes=10,train=8,test=4"]
TINY += ["--model.strategy", "SimpleCIL"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that knows no adapters, so that its references take no training."""
    path = tmp_path_factory.mktemp("runs") / "simplecil"
    assert main(["run", *TINY, "--run_dir", str(path)]) == 0
    return path


def files(run):
    return {
        p: p.read_bytes()
        for p in run.rglob("*")
        if p.is_file() and p.name not in {".lock", "audit.json", "outputs.json"}
    }


def test_the_command_leaves_the_run_as_it_was_and_writes_valid_json(finished, capsys):
    before = files(finished)
    assert main(["audit", str(finished)]) == 0
    assert files(finished) == before
    assert main(["verify", str(finished)]) == 0
    raw = (finished / "audit.json").read_text()

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(raw, parse_constant=refuse)
    assert (found["requests"], found["classes_vanished"]) == (["forget-0"], 2)
    assert all(v["run"] == v["retrained"] for v in found["metrics"].values())
    assert found["metrics"]["accuracy_forget_test"]["original"] > 0.5
    assert found["record"][0]["bytes_removed"] > 0
    assert found["record"][0]["relapse"] == 0
    shown = capsys.readouterr().out
    assert "accuracy_retain_test" in shown
    assert "yes       answers as a model that never saw the forget set: the gap to `retrained` is 0.000" in shown
    assert [c["holds"] for c in found["conclusions"]] == ["yes", "yes", "yes"]
    assert "…" not in shown
    assert main(["audit", str(finished)]) == 0
    assert (finished / "audit.json").read_text() == raw  # no random number, no clock


def test_other_runs_can_be_the_references(finished, tmp_path):
    other, stream = tmp_path / "never-forgot", "--data.scenario.requests"
    assert main(["run", *TINY, "--run_dir", str(other), stream, "[]"]) == 0
    before = files(other)
    assert main(["audit", str(finished), "--fast", "--original", str(other), "--retrained", str(finished)]) == 0
    found = json.loads((finished / "audit.json").read_text())["metrics"]
    assert list(found["accuracy_forget_test"]) == ["run", "original", "retrained", "pristine"]
    assert files(other) == before


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--request", "forget-9"], "Did you mean 'forget-0'"),
        (["--fast", "--retrained", "OTHER"], "leave it out"),
        (["--shadows", "2", "--fast"], "at least 8"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(finished, tmp_path, args, told, capsys):
    other = tmp_path / "other"
    if "OTHER" in args:
        shutil.copytree(finished, other)
        assert main(["forget", str(other), "--classes", "0"]) == 0
    assert main(["audit", str(finished), *(str(other) if a == "OTHER" else a for a in args)]) == 2
    assert told in capsys.readouterr().err


def test_shadows_that_would_forget_in_another_way_than_the_run_are_refused(finished, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    assert main(["forget", str(other), "--classes", "0", "--unlearner", "Retrain"]) == 0
    assert main(["audit", str(other), "--shadows", "8", "--fast"]) == 2
    assert "forget-1 was carried out by Retrain" in capsys.readouterr().err


def test_a_run_that_forgot_nothing_has_nothing_to_audit(tmp_path, capsys):
    path = tmp_path / "r"
    assert main(["run", *TINY, "--run_dir", str(path), "--data.scenario.requests", "[]"]) == 0
    assert main(["audit", str(path)]) == 2
    assert "Nothing to audit" in capsys.readouterr().err


def test_help_teaches_what_the_columns_are(capsys):
    assert main(["audit", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("original", "retrained", "pristine", "docs/audit.md"))

"""A stream in ten lines of Python: the bits of the command line, in memory and on disk; mistakes get a sentence."""

import ast
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cl_framework as clf
from cl_framework.cli.main import main
from cl_framework.engine import checkpoint
from cl_framework.operations import AuditOptions
from cl_framework.runs.directory import RunDirectory
from scenarios import ClassIncremental, Mixed, Request
from strategies.learning import EASE, SimpleCIL
from strategies.unlearning import DropAdapter, HeadRows

ROOT = Path(__file__).parents[1]
SETTINGS = {"classes": 4, "increment": 2}


def parts(strategy=None):
    learner = clf.Learner(clf.GlyphViT(), clf.Bottleneck(4), strategy or EASE(), DropAdapter())
    return learner, Mixed(ClassIncremental("digits", **SETTINGS), [Request(after=1, classes=[2])])


def quick():
    """What learns without training."""
    learner = clf.Learner(clf.GlyphViT(), clf.Bottleneck(4), SimpleCIL(), DropAdapter())
    return learner, ClassIncremental("digits", **SETTINGS)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """A run of the Python API with training, and its results."""
    folder = tmp_path_factory.mktemp("api") / "run"
    return folder, clf.run(*parts(), epochs=1, run_dir=folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run that nothing is done to."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    clf.run(*quick(), run_dir=folder)
    return clf.Run.open(folder)


@pytest.fixture
def run(kept, tmp_path):
    shutil.copytree(kept.path, tmp_path / "run")
    return clf.Run.open(tmp_path / "run")


def written(folder):
    """The config of a run, without the classes to forget, which a key hides."""
    config = yaml.safe_load(RunDirectory.open(folder).config)
    del config["data"]["scenario"]["init_args"]["requests"], config["run_dir"]
    return config


def hashes(folder):
    return [(e.name, dict(e.tensors)) for e in RunDirectory.open(folder).events()]


def test_a_run_from_python_has_the_bits_and_the_config_of_one_from_the_command_line(on_disk, tmp_path, world):
    config = tmp_path / "config.yaml"
    stream = {"class_path": "ClassIncremental", "init_args": {"dataset": "digits", **SETTINGS}}
    request = {"after": 1, "classes": [2]}
    model = {"backbone": "GlyphViT", "adapter": {"class_path": "Bottleneck", "init_args": {"width": 4}}}
    config.write_text(
        json.dumps(
            {
                "model": {**model, "strategy": "EASE", "unlearner": "DropAdapter"},
                "data": {"scenario": {"class_path": "Mixed", "init_args": {"stream": stream, "requests": [request]}}},
                "trainer": {"max_epochs": 1},
            }
        )
    )
    assert main(["run", "--config", str(config), "--run_dir", str(tmp_path / "run")]) == 0
    folder, results = on_disk
    assert hashes(folder) == hashes(tmp_path / "run")
    assert world.timeless(results.report) == world.timeless(clf.Run.open(tmp_path / "run").results.report)
    assert written(folder) == written(tmp_path / "run")


def test_in_memory_it_has_the_same_bits_and_leaves_nothing_behind(on_disk, tmp_path, monkeypatch, world):
    monkeypatch.chdir(tmp_path)
    learner, stream = parts()
    results = clf.run(learner, stream, epochs=1)
    assert world.timeless(results.report) == world.timeless(on_disk[1].report)
    stored = RunDirectory.open(on_disk[0]).state()
    mine = checkpoint.tensors(learner)
    assert stored.keys() == mine.keys()
    assert all(torch.equal(stored[name], mine[name]) for name in mine)
    assert list(tmp_path.iterdir()) == []


def test_results_have_attributes_rows_and_two_representations(on_disk):
    results = on_disk[1]
    assert results.final_accuracy == results.report["final_accuracy"] == results.curve[-1]
    assert [(r.name, r.kind) for r in results.requests] == [
        ("task-0", "learn"), ("forget-0", "forget"), ("task-1", "learn"),
    ]  # fmt: skip
    assert results.requests[1].forget["accuracy_forget"] == 0
    assert results.requests[0].exams == {"task-0": results.accuracy_matrix[0][0]}
    assert 2 not in results.per_class_accuracy
    assert results.class_names[2] == "(forgotten)"
    assert "- forget-0" in repr(results)
    assert "final_accuracy" in repr(results)
    html = results._repr_html_()
    assert html.count("<table>") == html.count("</table>") == 2
    assert "<td>- forget-0</td>" in html


def test_markup_in_names_is_escaped_in_a_notebook(on_disk):
    report = on_disk[1].report
    events = [{**report["events"][0], "name": "<b>"}, *report["events"][1:]]
    html = type(on_disk[1]).of({**report, "events": events})._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


@pytest.mark.parametrize("verb", [["verify"], ["evaluate"], ["forget", "--classes", "id:2"], ["resume"]])
def test_verbs_of_the_command_line_take_a_run_from_python(run, verb):
    assert main([verb[0], str(run.path), *verb[1:]]) == 0


def test_a_run_learns_forgets_evaluates_and_verifies(run):
    classes = set(run.results.per_class_accuracy)
    gone = min(classes)
    assert set(run.forget(classes=[gone], requester="someone").per_class_accuracy) == classes - {gone}
    assert run.evaluate().agrees
    longer = run.learn(ClassIncremental("glyphs:classes=2", increment=2), as_new="glyph ")
    assert len(longer.per_class_accuracy) == 5
    assert any(name.startswith("glyph ") for name in longer.class_names.values())
    ids = [s.id for s in clf.Run.open(run.path).samples() if s.split == "train"][:2]
    assert run.forget(samples=ids).requests[-1].forget["samples"] == 2
    assert run.verify() == []
    (run.path / "results.csv").write_text("edited")
    assert "results.csv" in run.verify()[0]
    run.resume()
    assert run.verify() == []


def test_a_request_by_cell_and_by_experience(run):
    first, second = run.results.requests
    assert run.forget(cells=[(first.name, first.classes[0])]).requests[-1].classes == first.classes[:1]
    assert run.forget(experiences=[second.name]).requests[-1].classes == tuple(sorted(second.classes))


def test_another_way_to_forget_is_given_as_an_object(run):
    with pytest.raises(clf.UserError, match="HeadRows cannot"):
        run.forget(classes=[2], unlearner=HeadRows())
    assert run.verify() == []


def test_it_predicts_arrays_tensors_pictures_and_paths_alike(kept, tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    image[2:6, 3:5] = 255
    Image.fromarray(image).save(tmp_path / "one.png")
    given = [image[None], torch.from_numpy(image).movedim(-1, 0)[None], torch.from_numpy(image)[None] / 255]
    given += [Image.fromarray(image), [image], tmp_path / "one.png", str(tmp_path / "one.png"), [tmp_path / "one.png"]]
    answers = [kept.predict(one) for one in given]
    for answer in answers:
        assert torch.equal(answer.scores, answers[0].scores)
    assert answers[0].labels == [answers[0].top(1)[0][0][0]]
    assert answers[0].class_names[answers[0].classes.index(answers[0].ids[0])] == answers[0].labels[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.int64), r"int64 \(2, 3, 8, 8\) from 0 to 0; give"),
        (torch.full((2, 3, 8, 8), 200.0), "divide by 255"),
        (torch.zeros(2, 4, 8, 8), r"\(2, 4, 8, 8\); give"),
        ("nowhere.png", "nowhere.png does not exist"),
        (3, "and int is none; give an array"),
        ([3], "and int is none; give an array"),
        ([], "nothing to predict"),
    ],
)
def test_inputs_that_leave_open_what_they_are_get_the_sentence_of_sources(kept, given, message):
    with pytest.raises(clf.UserError, match=message):
        kept.predict(given)


def test_an_audit_is_a_value_with_conclusions(on_disk):
    run = clf.Run.open(on_disk[0])
    audit = run.audit(fast=True, relearn=False)
    assert audit.report["requests"] == ["forget-0"]
    assert len(audit.conclusions) == len(repr(audit).splitlines())
    assert run.verify() == []
    assert AuditOptions(fast=True).references == 0


def test_what_cannot_be_written_is_refused_on_disk_before_the_run_and_works_in_memory(tmp_path):
    def made(optimizer):
        return clf.Learner(clf.GlyphViT(), clf.Bottleneck(4), SimpleCIL(), DropAdapter(), optimizer)

    class Own(clf.Strategy):
        def learn(self, model, event):
            return ()

        def predict(self, model, x):
            return torch.zeros(len(x), len(model.classes))

    stream = ClassIncremental("digits", **SETTINGS)
    with pytest.raises(clf.UserError, match=r"optimizer is .*lambda.*without run_dir the run stays in memory"):
        clf.run(made(lambda p: torch.optim.SGD(p, lr=0.1)), stream, run_dir=tmp_path / "a")
    with pytest.raises(clf.UserError, match=r"strategy is of the class .*Own, which cannot be imported again"):
        clf.run(clf.Learner(clf.GlyphViT(), clf.Bottleneck(4), Own()), stream, run_dir=tmp_path / "a")
    changed = made(partial(torch.optim.SGD, lr=0.1))
    next(changed.model.backbone.parameters()).data.add_(1)
    with pytest.raises(clf.UserError, match="GlyphViT has other weights than its arguments give"):
        clf.run(changed, stream, run_dir=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert clf.run(clf.Learner(clf.GlyphViT(), clf.Bottleneck(4), Own()), stream).final_accuracy is not None
    clf.run(made(partial(torch.optim.AdamW, lr=0.01)), stream, run_dir=tmp_path / "b")
    assert "AdamW" in RunDirectory.open(tmp_path / "b").config


def test_a_stream_may_be_used_again_and_a_learner_may_not(tmp_path, world):
    learner, stream = quick()
    once = clf.run(learner, stream, run_dir=tmp_path / "a")
    with pytest.raises(clf.UserError, match=r"learned already.*go on with a run on disk by `clf\.Run\.open\(DIR\)"):
        clf.run(learner, stream)
    assert world.timeless(clf.run(quick()[0], stream, run_dir=tmp_path / "b").report) == world.timeless(once.report)


def refused(**changes):
    learner, stream = quick()
    return clf.run(**{"learner": learner, "stream": stream, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; found 0"),
        ({"epochs": "5"}, "epochs must be a whole number; found '5'"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"validation": 1.5}, "validation must be"),
        ({"stream": None}, "The stream is None; give a Scenario"),
        ({"stream": ClassIncremental}, "The stream is the class .*ClassIncremental, no object of it"),
        ({"stream": [1]}, r'The stream is a list; give a Scenario, as in ClassIncremental\("digits"\)'),
        ({"stream": type("Benchmark", (), {"__module__": "avalanche.benchmarks"})()}, "as in FromAvalanche"),
        ({"learner": None}, "The learner is None; give a Learner"),
        ({"trainer": "gpu"}, "The trainer is a str; give the options of Lightning's trainer, as in"),
        ({"trainer": {"accelerator": "tpu"}}, "The trainer section cannot work here: .*torch_xla"),
        ({"run_dir": 3}, 'run_dir is a int; give the path of a directory, as in "runs/mine"'),
        ({"trainer": {"no_such": 1}}, "no_such"),
        ({"trainer": {"max_epochs": 0}}, "max_epochs must be at least 1"),
    ],
)
def test_mistakes_get_one_sentence(changes, message):
    with pytest.raises(clf.UserError, match=message):
        refused(**changes)


def test_a_run_is_opened_by_the_path_of_its_directory():
    with pytest.raises(clf.UserError, match="The directory is None; give the path"):
        clf.Run.open(None)


OWN = """
import torch
from cl_framework import Strategy

class Silent(Strategy):
    def learn(self, model, event):
        return ()

    def predict(self, model, x):
        return torch.zeros(len(x), len(model.classes))
"""


@pytest.mark.parametrize("trust", [["parts_of_mine"], "parts_of_mine", ["parts_of_mine.silent.Silent"]])
def test_a_run_with_parts_of_ones_own_opens_again_in_the_same_process(trust, tmp_path, monkeypatch):
    (tmp_path / "parts_of_mine").mkdir()
    (tmp_path / "parts_of_mine" / "__init__.py").touch()
    (tmp_path / "parts_of_mine" / "silent.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    silent = import_module("parts_of_mine.silent").Silent()
    clf.run(clf.Learner(clf.GlyphViT(), clf.Bottleneck(4), silent), quick()[1], run_dir=tmp_path / "run")
    assert type(clf.Run.open(tmp_path / "run", trust=trust).learner.strategy).__name__ == "Silent"
    with pytest.raises(clf.UserError, match="may run any code"):
        _ = clf.Run.open(tmp_path / "run").learner


class Told(clf.Scenario):
    """Says what it is given."""

    def __init__(self, said, names=("a", "b")):
        self.said = said
        if names:
            self.class_names = names

    def steps(self):
        return self.said


DIGITS = list(ClassIncremental("digits", **SETTINGS).steps())


@pytest.mark.parametrize(
    ("said", "names", "message"),
    [
        (DIGITS[:1] * 2, "abcdefghij", "Told has two events named 'task-0'; give each a name of its own"),
        ([], "ab", "has no experiences; a stream needs one or more"),
        ([DIGITS[0].event], "ab", r"Told\.steps\(\) yields a Experience; yield Step\(experience, exam\)"),
        (None, "ab", r"Told\.steps\(\) returns a NoneType; yield a Step"),
        (DIGITS, None, r"Told has no class_names; set them"),
    ],
)
def test_a_scenario_of_ones_own_is_looked_at_before_the_first_event(said, names, message, tmp_path):
    with pytest.raises(clf.UserError, match=message):
        clf.run(quick()[0], Told(said, names))
    with pytest.raises(clf.UserError, match=message):
        clf.run(quick()[0], Mixed(Told(said, names), []))


def test_a_scenario_of_ones_own_with_two_events_of_one_name_leaves_no_run(tmp_path, monkeypatch):
    steps = ClassIncremental.steps
    monkeypatch.setattr(ClassIncremental, "steps", lambda self: list(steps(self))[:1] * 2)
    with pytest.raises(clf.UserError, match="two events named 'task-0'"):
        clf.run(*quick(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_another_run_is_refused(kept):
    with pytest.raises(clf.UserError, match="already holds a run"):
        refused(run_dir=kept.path)


def test_a_class_in_place_of_an_object_is_refused_by_its_role():
    with pytest.raises(clf.UserError, match=r"The strategy is the class EASE; give an object of it"):
        clf.Learner(clf.GlyphViT(), clf.Bottleneck(4), EASE)
    with pytest.raises(clf.UserError, match=r"The unlearner is EASE, no Unlearner"):
        clf.Learner(clf.GlyphViT(), clf.Bottleneck(4), EASE(), EASE())


@pytest.mark.parametrize("width", ["16", 1.5])
def test_what_is_no_whole_number_is_refused_where_a_part_takes_one(width):
    with pytest.raises(clf.UserError, match=f"adapter Bottleneck.width must be a whole number; found {width!r}"):
        clf.Learner(clf.GlyphViT(), clf.Bottleneck(width), EASE())


def test_words_in_place_of_lists_are_refused(kept):
    with pytest.raises(clf.UserError, match="classes must be a list; found '3'"):
        kept.forget(classes="3")
    with pytest.raises(clf.UserError, match=r"classes takes words and whole numbers; found 0\.5"):
        kept.forget(classes=[0.5])


def test_nothing_is_printed_without_a_terminal(capsys, tmp_path):
    clf.run(*quick(), run_dir=tmp_path / "run")
    assert capsys.readouterr().out == ""


def blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import cl_framework" in b]


def test_the_readme_shows_the_example_of_the_page():
    page, readme = ([ast.dump(ast.parse(b)) for b in blocks(p)] for p in ("docs/python.md", "README.md"))
    assert len(page) == 1
    assert readme == page


@pytest.mark.parametrize("epochs", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_the_example_runs_as_it_stands(epochs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/python.md")
    assert "epochs=5" in block
    names = {"__name__": "example"}
    exec(compile(block.replace("epochs=5", f"epochs={epochs}"), "docs/python.md", "exec"), names)
    assert names["run"].results.requests[-1].classes == (3,)
    assert not names["run"].verify()


def test_threads_of_one_process_take_turns(kept, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda i: clf.run(*quick(), run_dir=tmp_path / f"run-{i}", progress=False), range(3)))
    assert {results.final_accuracy for results in made} == {kept.results.final_accuracy}
    assert not any(clf.Run.open(tmp_path / f"run-{i}").verify() for i in range(3))


def test_truth_values_are_no_class_ids(kept):
    with pytest.raises(clf.UserError, match="takes words and whole numbers"):
        kept.forget(classes=[True])

"""Documents hold what they promise: links lead somewhere, numbers are those of the tables, the README stays short."""

import ast
import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from cl_framework.auditing.verdict import conclusions
from cl_framework.cli import arguments, precheck
from cl_framework.cli.verbs import VERBS
from scripts import stream_figure, tables

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MEASURED = [p for p in PAGES if "<!-- table: " in p.read_text(encoding="utf-8")]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
SHORT = {
    "forget set": "Acc_f", "retain set": "Acc_r", "probe recovery": "recovery, probe",
    "gap to retraining": "gap to retrain",
    "seconds": "s per request", "images read": "images read, % of retraining",
}  # fmt: skip
"""Headings of the README's table, and of the table it is taken from."""


def headings(page):
    """Anchors of a page, made as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def rows(text):
    """Cells of each line of a Markdown table."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for place, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), place
        assert not anchor or anchor in headings(target), f"{place}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_modules_and_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:cl_framework|strategies|scenarios|scripts|tests|configs)/[\w/.]+)`", text):
        assert (ROOT / name).exists() or Path(name).stem in ("mine", "NAME"), name  # to be written by the reader


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_page_says_what_it_is_for_before_anything_else(page):
    title, _, first, *_ = page.read_text(encoding="utf-8").split("\n")
    assert title.startswith("# ")
    assert re.match(r"[A-Z`].{20,}", first), first


def test_the_readme_stays_short():
    lines = README.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120


def test_every_page_is_linked_from_the_readme():
    linked = {place for place, _ in LINK.findall(README)}
    assert {p.relative_to(ROOT).as_posix() for p in PAGES} - {"README.md"} <= linked


def test_the_short_table_of_the_readme_agrees_with_the_full_one():
    full = (ROOT / "docs" / "tables" / "forgetting.md").read_text(encoding="utf-8")
    heads, _, *methods = rows(full)
    expected = {m[0]: [m[heads.index(h)] for h in SHORT.values()] for m in methods}
    short = rows(README.partition("| unlearner |")[1] + README.partition("| unlearner |")[2])
    assert short[0][1:] == list(SHORT)
    assert len(short) == 7
    for name, *numbers in short[2:]:
        assert numbers == expected[name], name


def commands(page):
    """Words of each `clf` command in the shell blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8").replace("\\\n", " "), re.DOTALL)
    lines = [part.strip() for block in blocks for line in block.splitlines() for part in line.split(" && ")]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("clf ")]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_commands_of_a_page_are_accepted_as_far_as_that_needs_no_data(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for verb, *rest in commands(page):
        assert verb in VERBS or (verb == "help" and set(rest) <= set(VERBS)), verb
        if verb in ("run", "plan"):
            precheck.of_config([*rest, "--run_dir", "runs/of-no-test"], data=False)
        elif verb in arguments.PARSERS:
            arguments.parse(verb, rest)


def test_the_page_of_commands_lists_every_verb():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if not re.search(rf"^\| `clf {verb}[ `]", page, re.MULTILINE)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_in_a_page_imports_names_that_exist(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("single", [False, True])
def test_the_guide_to_audits_lists_every_statement_that_an_audit_prints(single):
    guide = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    assert all(f"| {c.statement}" in guide for c in conclusions({}, single))


@pytest.mark.parametrize("page", MEASURED, ids=lambda p: p.name)
def test_tables_of_measurements_are_those_that_scripts_wrote(page):
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text, ROOT / "docs" / "tables") == text, "run `python scripts/compare.py --readme`"


def run_of(folder, matrix, forget):
    """A run directory with results and nothing else."""
    folder.mkdir()
    events = [{"name": f"e{i}", "kind": "forget" if i == 1 else "learn"} for i in range(len(matrix))]
    exams = [{"name": f"task-{j}"} for j in range(len(matrix[0]))]
    results = {"strategy": "EASE", "events": events, "exams": exams, "accuracy_matrix": matrix, "final_accuracy": 0.5}
    (folder / "results.json").write_text(json.dumps(results | {"forget": forget}))
    return str(folder)


def test_the_figure_of_the_readme_is_drawn_from_results_and_is_the_same_each_time(tmp_path):
    run = run_of(tmp_path / "run", [[0.9, None], [None, None], [None, 0.5]], [{"event": "e1", "accuracy_forget": 0.1}])
    for name in ("a.svg", "b.svg", "c.png"):
        assert stream_figure.main([run, run, "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stream_figure.curves(results) == {"task-0": [(0, 0.9), (1, 0.1)], "task-1": [(2, 0.5)]}


def test_a_run_without_results_is_named(tmp_path, capsys):
    assert stream_figure.main([str(tmp_path), "--out", str(tmp_path / "a.svg")]) == 2
    assert "has no results.json; finish the run first: clf resume" in capsys.readouterr().err

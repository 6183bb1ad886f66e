"""Names of classes, files and experiments are data: shown as they are, read as markup or obeyed by nobody."""

import ast
import csv
import io
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from cl_framework.cli import main
from cl_framework.errors import did_you_mean
from cl_framework.evaluation import results as evaluation_results
from cl_framework.streams import survey
from cl_framework.terminal.console import make_console
from cl_framework.terminal.safe_text import printable, say

ROOT = Path(__file__).parents[1]
SOURCES = [p for top in ("cl_framework", "strategies", "scenarios") for p in sorted((ROOT / top).rglob("*.py"))]
ODD = ["[/b]", "dog [puppy]", "[red]x[/red]", ":smile:", "$x_1$", "=cmd()", "a\\b", "日本"]
OBEYED = {
    "\x1b[31mred": "\\x1b[31mred",
    "a\nb": "a\\nb",
    "bell\x07": "bell\\x07",
    "\u202egnp": "\\u202egnp",
    "\ud800": "\\ud800",
}


def test_nothing_prints_but_through_one_place():
    """`say` and consoles from `make_console` spell control characters out and know no markup."""
    own = {"safe_text.py", "console.py"}
    for path in SOURCES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        named = {ast.unparse(n.func) for n in calls}
        assert path.name in own or not named & {"print", "Console", "rich.print", "sys.stdout.write"}, path
        assert not any(".from_markup" in name for name in named), path
        columns = [n for n in calls if ast.unparse(n.func) == "TextColumn"]
        assert all("markup" in [k.arg for k in n.keywords] for n in columns), path


@pytest.mark.parametrize("name", [*ODD, *OBEYED])
def test_a_console_shows_a_name_as_it_is_and_obeys_nothing_in_it(name):
    out = io.StringIO()
    console = make_console(file=out, width=100, force_terminal=True, color_system="standard")
    table = Table("class", title=printable(name))
    table.add_row(printable(name))
    table.add_row(Text(printable(name), "bold"))
    for shown in (printable(name), table, Text(name)):
        console.print(shown)
    bare = out.getvalue()
    for style in ("\x1b[0m", "\x1b[1m", "\x1b[3m"):
        bare = bare.replace(style, "")
    assert "\x1b" not in bare
    assert bare.count(OBEYED.get(name, name)) >= 4
    bars = [line.rstrip() for line in bare.splitlines() if line[:1] in "┏┃┡│└"]
    assert len({len(line) for line in bars}) == 1 or name == "日本"  # its characters are two columns wide each


def test_what_was_overlooked_is_spelled_out_all_the_same():
    out = io.StringIO()
    table = Table("class")
    table.add_row("\x1b]0;title")
    make_console(file=out, width=80).print(table)
    assert "\x1b" not in out.getvalue()
    assert "\\x1b]0;title" in out.getvalue()


def test_messages_keep_their_lines_and_nothing_else_that_a_terminal_obeys(capsys):
    say("one\ntwo \x1b[2J", error=True)
    assert capsys.readouterr().err == "one\ntwo \\x1b[2J\n"
    assert main.main(["\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_line_end_in_a_name_forges_no_line():
    fault = "a\nclf: fine.png: empty."
    for error in (survey.unreadable_error([fault]), survey.unreadable_error([fault, fault])):
        assert "a\\nclf: fine" in str(error)
    assert did_you_mean("x", ["a\nclf: fine"]) == "Choose one of: a\\nclf: fine."


def test_a_spreadsheet_computes_no_name():
    event = {"name": "=cmd()", "kind": "learn"}
    results = {"events": [event], "accuracy_matrix": [[0.5]], "curve": [0.5], "exams": [{"name": "@x"}]}
    (_, row) = csv.reader(io.StringIO(evaluation_results.as_csv(results)))
    assert row == ["'=cmd()", "learn", "'@x", "0.5", "0.5"]


def test_odd_class_names_go_through_every_verb(tmp_path, capsys):
    from PIL import Image

    names = ["dog [puppy]", "[red]", "\x1b[31mred", ":smile: $x$"]
    for i, name in enumerate(names):
        for split, count in (("train", 2), ("test", 1)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for j in range(count):
                Image.new("RGB", (16, 16), (60 * i, 255 - 60 * i, 20 * j)).save(folder / f"[{j}].png")
    run, picture = str(tmp_path / "run"), str(tmp_path / "data" / "test" / "\x1b[31mred" / "[0].png")
    data = ["--data.scenario", "ClassIncremental", "--data.scenario.dataset", f"imagefolder:{tmp_path / 'data'}",
            "--data.scenario.increment", "2", "--data.scenario.order_seed", "null"]  # fmt: skip
    config = ["--config", str(ROOT / "configs" / "quickstart.yaml"), "--model.strategy", "SimpleCIL", *data]
    requests = [["run", *config, "--run_dir", run], ["plan", *config], ["predict", run, picture]]
    said = ""
    for words in (*requests, ["plan-forget", run, "--classes", "[red]"], ["forget", run, "--classes", "[red]"]):
        assert main.main(words) == 0, capsys.readouterr()
        said += (out := capsys.readouterr().out)
        assert "\x1b" not in out
    assert all(shown in said for shown in ("dog [puppy]", "[red]", "\\x1b[31mred"))

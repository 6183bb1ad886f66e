"""Screens: at 80 columns and at 60 no number is cut and no table is wider, whatever things are called."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.cells import cell_len

from cl_framework.cli import audit, forget, main, query, reproduce
from cl_framework.cli import run as cli_run
from cl_framework.evaluation.tables import headline
from cl_framework.operations import forgetting, preparation, run_audit, streaming
from cl_framework.runs import open_run, reopening
from cl_framework.terminal import grid
from cl_framework.terminal.console import make_console
from cl_framework.terminal.safe_text import printable

ROOT = Path(__file__).parents[1]
NAMES = ["a class with a name of forty characters..", "[/b] [bold]dog[/b]", "日本語の名前" * 4, "\N{PARTY POPPER}" * 15]
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w.,])")
at_widths = pytest.mark.parametrize("width", [60, 80])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes with odd names, of three pictures to train on and two to test with."""
    top = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(NAMES):
        for split, count in (("train", 3), ("test", 2)):
            place = top / split / name.replace("/", "\N{DIVISION SLASH}")
            place.mkdir(parents=True)
            for j in range(count):
                colour = (60 * i, 255 - 60 * i, 20 * j + (split == "test"))
                Image.new("RGB", (16, 16), colour).save(place / f"{j} {i} [red].png")
    return top


@pytest.fixture(scope="module")
def config(folder: Path) -> list[str]:
    return ["--model.strategy", "SimpleCIL", "--model.unlearner", "DropAdapter", "--data.scenario", "ClassIncremental",
            "--data.scenario.dataset", f"imagefolder:{folder}", "--data.scenario.increment", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def run(config: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has forgotten a class."""
    path = tmp_path_factory.mktemp("runs") / "a run with a name that is longer than a column"
    assert main.main(["run", *config, "--run_dir", str(path)]) == 0
    assert main.main(["forget", str(path), "--classes", "1"]) == 0
    return path


OPERATIONS = (forgetting, preparation, run_audit, streaming)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what a verb prints on a terminal of some width."""

    def shown(width: int, *words: object) -> str:
        out = io.StringIO()
        for module in (cli_run, audit, forget, query, *OPERATIONS, open_run, reopening):
            console = make_console(width=width, file=out, force_terminal=True, color_system=None)
            monkeypatch.setattr(module, "CONSOLE", console)
        monkeypatch.setattr(grid, "terminal_width", lambda: width)
        monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        assert main.main([str(word) for word in words]) in (0, 1)
        return out.getvalue() + capsys.readouterr().out

    return shown


def check(shown: str, width: int, whole: str) -> None:
    """Hold a table on a terminal against the same where there is none: as wide as it may be, with the same numbers."""
    assert "…" not in shown
    shown = re.sub(r"\x1b\[(\?25[lh]|2K)|\r", "", shown)  # where a bar was drawn and taken away
    assert "\x1b" not in shown
    lines = [line for line in shown.splitlines() if "/" not in line]  # a path is never folded, so that it can be copied
    assert max(map(cell_len, lines)) <= width, max(lines, key=cell_len)
    wanted, found = (NUMBER.findall(text) for text in (whole, shown))
    assert not (missing := {n for n in wanted if found.count(n) < 1}), missing


@at_widths
@pytest.mark.parametrize(
    "verb", ["evaluate", "plan-forget", "plan-forget --all", "audit --fast --no-relearn", "report"]
)
def test_a_table_of_a_run_fits(run: Path, terminal: Callable[..., str], monkeypatch, capsys, verb: str, width: int):
    name, *options = verb.split()
    words = [name, run, *options, *(["--classes", "2"] if name == "plan-forget" else [])]
    assert main.main([str(w) for w in words]) == 0
    whole = capsys.readouterr().out
    check(terminal(width, *words), width, whole)


@at_widths
def test_predictions_fit_and_are_as_many_as_asked_for(run, folder, terminal, width):
    pictures = sorted((folder / "test").rglob("*.png"))[:3]
    shown = terminal(width, "predict", run, *pictures, "--top", "3")
    assert len(re.findall(r" \d\.\d{3}$|-\d\.\d{3}$", shown, re.MULTILINE)) == 9
    check(shown, width, "")
    for i in (0, 2, 3):
        name = printable(NAMES[i].replace("/", "\N{DIVISION SLASH}"))
        assert name.replace(" ", "")[:9] in "".join(shown.split())


@at_widths
def test_plan_and_lists_fit(config, terminal, capsys, width):
    assert main.main(["plan", *config]) == 0
    whole = capsys.readouterr().out
    check(terminal(width, "plan", *config), width, whole)
    for words in (["reproduce"], ["reproduce", "--all"], ["list"]):
        assert main.main(words) == 0
        whole = capsys.readouterr().out
        check(terminal(width, *words), width, whole)


@at_widths
def test_headline_and_verification_fit(run, terminal, width):
    results = json.loads((run / "results.json").read_text())
    cost = results["cost"] | {f"passes_{what}": 12_345_678 for what in ("train", "statistics", "evaluate")}
    out = io.StringIO()
    console = make_console(width=width, file=out, force_terminal=True, color_system=None)
    console.print(headline(results | {"cost": cost}))
    assert out.getvalue().count("12,345,678") == 3
    assert max(map(cell_len, out.getvalue().splitlines())) <= width
    shown = terminal(width, "verify", run)
    assert {"3", "1"} <= set(NUMBER.findall(shown))
    assert max(map(len, shown.splitlines())) <= width


@at_widths
def test_a_verdict_fits(terminal, monkeypatch, capsys, width):
    published = reproduce.Published(
        source="a table", average_incremental_accuracy=12.34, final_accuracy=87.6, tolerance=0.15
    )
    results = {"final_accuracy": 0.87654, "average_incremental_accuracy": 0.99999}
    monkeypatch.setattr(grid, "terminal_width", lambda: width)
    assert reproduce.judge(published, results) == 1
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert {"87.65", "87.60", "12.34", "0.15", "100.00", "OUTSIDE", "inside"} <= set(shown.split())


def test_summaries_come_first(run, terminal, tmp_path):
    shown = terminal(80, "plan-forget", run, "--classes", "2")
    words = [line.split()[0] for line in shown.splitlines() if not line.startswith(" ")]
    assert words == ["forget-1", "goes", "delete", "rewrite", "redact", "keep", "cost", "--all"]
    assert "1 class, 3 training samples, 2 test samples" in shown
    assert "nothing is learned again" in shown
    again = terminal(80, "plan-forget", run, "--classes", "2", "--unlearner", "Retrain")
    assert "2 experiences learned again, from 6 samples" in again
    assert re.search(r"^retrain +prototypes \(\d\): [\d,]+ bytes$", again, re.MULTILINE)
    assert "artifact by artifact" in terminal(80, "plan-forget", run, "--classes", "2", "--all")


def test_a_log_file_gets_new_lines_only(config, tmp_path, capsys):
    assert main.main(["run", *config, "--run_dir", str(tmp_path / "r"), "--model.strategy", "Finetune",
                     "--trainer.max_epochs", "1"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)
    rows = [line for line in out.splitlines() if line.startswith("+ task-")]
    assert [row.split()[1] for row in rows] == ["task-0", "task-1"]
    assert sum(line.startswith("request") for line in out.splitlines()) == 1
    said = [line for line in out.splitlines() if re.match(r"\s*\d/2 learn", line)]
    assert len(said) == 2
    assert said == [line.strip() for line in said]


def test_columns_of_numbers_without_room_follow_below():
    heads, rows = ["run", *(f"number {i}" for i in range(8))], [["x" * 30, *["1,234.5"] * 8]]
    shown = ["".join(text for text, _ in line) for line in grid.table_lines(heads, rows, 1, 40)]
    assert max(map(len, shown)) <= 40
    assert sum(line.count("1,234.5") for line in shown) == 8
    assert sum(line.startswith("xxx") for line in shown) > 1
    assert json.dumps(shown).count("number") == 8

"""The command line finds its verbs, answers without torch where it can, and says plainly what was wrong."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cl_framework.cli import main
from cl_framework.cli.verbs import VERBS
from cl_framework.errors import UserError
from cl_framework.runs.directory import RunDirectory

QUICK = str(Path(__file__).parents[1] / "configs" / "quickstart.yaml")


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "seed: 0\n", {})
    run.commit("task-0", "learn", {"w": torch.ones(2)}, {}, {})
    run.commit("forget-0", "forget", {}, {}, {}, receipt={"request": "forget-0"})
    return run


@pytest.fixture
def verb(monkeypatch):
    """Let the verb ``run`` do what a test wants."""

    def stand_in(function):
        monkeypatch.setitem(sys.modules, "cl_framework.cli.run", SimpleNamespace(run=function))

    return stand_in


def test_light_verbs_import_no_torch(run):
    code = f"""
import sys
from cl_framework.cli.main import main
for line in (["--help"], ["list"], ["list", "strategies", "--json"], ["verify", {str(run.path)!r}],
             ["report", {str(run.path)!r}], ["list", "--help"], ["report", "--help"], ["verify", "--help"],
             ["--version"], ["nonsense"]):
    main(line)
names = "torch", "timm", "pytorch_lightning", "jsonargparse", "matplotlib", "numpy", "rich.console"
heavy = set(names) & set(sys.modules)
sys.exit(", ".join(heavy) or 0)
"""
    assert [n for n, v in VERBS.items() if v.where.startswith("inspect.")] == ["report", "verify", "list"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 events, 1 receipt, all hashes match" in done.stdout


def test_help_teaches_every_verb_with_an_example(capsys):
    assert main.main(["--help"]) == main.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"$ clf {name} " in text for name in VERBS)
    assert set(VERBS) == {
        "run", "resume", "learn", "forget", "plan-forget", "audit", "evaluate", "predict", "plan", "report", "verify",
        "list", "reproduce",
    }  # fmt: skip


def test_an_unknown_verb_gets_a_hint(capsys):
    assert main.main(["forgt"]) == 2
    assert capsys.readouterr().err == "clf: There is no command 'forgt'. Did you mean 'forget'?\n"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("Mend it."), 2, "clf: Mend it.\n"),
        (KeyboardInterrupt(), 130, "stopped before anything was written\n"),
        (SystemExit(2), 2, ""),
        (SystemExit(), 0, ""),
        (SystemExit("why"), 2, "why\n"),
    ],
)
def test_what_stops_a_verb_becomes_one_line_and_an_exit_code(verb, capsys, raised, code, said):
    def stop(_):
        raise raised

    verb(stop)
    assert main.main(["run", "--config", "quickstart", "--run_dir=runs/nowhere"]) == code
    assert capsys.readouterr().err == said


def test_a_verb_is_given_the_rest_and_its_number_is_the_exit_code(verb):
    heard = []
    verb(heard.append)
    assert main.main(["run", "--config", QUICK, "--threads=2"]) == 0
    assert heard == [["--config", QUICK, "--threads=2"]]
    verb(lambda argv: 1)
    assert main.main(["run", QUICK]) == 1


def test_stopping_a_verb_on_a_run_names_the_run(run):
    assert main.stopped(["learn", str(run.path), "--x", "3"]) == f"stopped; `clf resume {run.path}` continues"
    assert "give the same command again to finish it" in main.stopped(["forget", str(run.path), "--classes", "3"])
    assert main.stopped(["run", "--config", "x.yaml"]) == "stopped; `clf resume DIR` continues"
    assert main.stopped(["run", "--run_dir", "runs/none"]) == "stopped before anything was written"
    assert main.stopped(["predict", "runs/a"]) == "stopped"


def test_a_reader_that_leaves_early_is_no_error():
    code = "import sys; from cl_framework.cli.main import main; sys.exit(main(['--help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode in {0, 141}


def test_list_shows_names_and_summaries(capsys):
    assert main.main(["list", "strategies"]) == 0
    assert any(line.split()[0] == "EASE" and len(line) > 20 for line in capsys.readouterr().out.splitlines())
    assert main.main(["list", "adapters", "--json"]) == 0
    assert {"LoRA"} <= {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert main.main(["list", "--json"]) == 0
    assert "backbones" in json.loads(capsys.readouterr().out)


def test_list_of_something_else_gets_a_hint(capsys):
    assert main.main(["list", "strategy"]) == 2
    assert "Did you mean 'strategies'?" in capsys.readouterr().err


def test_verify_counts_what_is_whole_and_names_what_is_not(run, capsys):
    assert main.main(["verify", str(run.path)]) == 0
    assert capsys.readouterr().out == "2 events, 1 receipt, all hashes match\n"
    with (run.path / "events/000-learn-task-0/state.safetensors").open("ab") as file:
        file.write(b"!")
    assert main.main(["verify", str(run.path)]) == 1
    assert "000-learn-task-0/state.safetensors has" in capsys.readouterr().out
    assert main.main(["verify", str(run.path / "nowhere")]) == 2


def test_report_compares_runs_and_bears_missing_numbers(tmp_path, capsys):
    results = {
        "ease": {"strategy": "EASE", "average_incremental_accuracy": 0.9512, "final_accuracy": 0.93, "plasticity": 0.97,
                 "forgetting_max_past": 0.021, "cost": {"seconds": 12.34}},
        "simplecil": {"strategy": "SimpleCIL", "final_accuracy": None},
    }  # fmt: skip
    for name in ("ease", "simplecil", "unfinished"):
        (tmp_path / name).mkdir()
        if name in results:
            (tmp_path / name / "results.json").write_text(json.dumps(results[name]))
    assert main.main(["report", *(str(tmp_path / name) for name in ("ease", "simplecil", "unfinished"))]) == 0
    text = capsys.readouterr().out
    rows = {words[0].rpartition("/")[2]: words[1:] for line in text.splitlines() if (words := line.split())}
    assert rows["ease"] == ["EASE", "95.1", "93.0", "2.1", "97.0", "12.3"]
    assert rows["simplecil"] == ["SimpleCIL", "-", "-", "-", "-", "-"]
    assert "unfinished has no results yet" in text


def test_report_of_a_damaged_or_missing_run_says_so(tmp_path, capsys):
    assert main.main(["report", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "results.json").write_text("{")
    assert main.main(["report", str(tmp_path)]) == 2
    assert "results.json is damaged" in capsys.readouterr().err

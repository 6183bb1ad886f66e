"""Idle threads sleep, which must be settled before torch is loaded; and a small backbone gets one thread."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cl_framework import threads
from cl_framework.cli.main import main
from cl_framework.configuration.experiment import build
from cl_framework.errors import UserError
from cl_framework.runs.directory import RunDirectory

ROOT = Path(__file__).parents[1]
ENTRIES = [ROOT / "tests" / "conftest.py", *(p for p in (ROOT / "scripts").glob("*.py") if "__main__" in p.read_text())]
LOADS_TORCH = {"torch", "torchvision", "timm", "pytorch_lightning", "transformers", "peft", "scripts"}
QUICK = ["--config", str(ROOT / "configs" / "quickstart.yaml")]


def environment(module, **given):
    """What a fresh process has in its environment once it has imported a module, and whether that loaded torch."""
    clean = {k: v for k, v in os.environ.items() if k not in (*threads.CHOSEN, *threads.VARIABLES)}
    program = f"import json, os, sys, {module}; print(json.dumps([dict(os.environ), 'torch' in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], env=clean | given, cwd=ROOT, capture_output=True, check=True)
    return json.loads(done.stdout)


def test_whatever_is_imported_of_us_lets_idle_threads_sleep_before_torch_is_loaded():
    found, loaded = environment("cl_framework.cli.main")
    assert not loaded
    assert found.items() >= threads.PASSIVE.items()


def test_a_users_own_choice_of_waiting_stays():
    found, _ = environment("cl_framework", OMP_WAIT_POLICY="active")
    assert found["OMP_WAIT_POLICY"] == "active"
    assert "KMP_BLOCKTIME" not in found


@pytest.mark.parametrize("path", ENTRIES, ids=lambda p: p.name)
def test_what_is_started_imports_us_before_torch(path):
    """Whatever of `cl_framework` comes first runs the package's ``__init__``, and so settles how threads wait."""
    names = []
    for node in ast.parse(path.read_text()).body:
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
    roots = [name.partition(".")[0] for name in names]
    if LOADS_TORCH & set(roots):
        assert roots.index("cl_framework") < min(roots.index(r) for r in LOADS_TORCH & set(roots))


def test_a_small_backbone_gets_one_thread_and_a_large_one_the_cores(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert threads.wanted(2_200_000, 8) == 1
    assert threads.wanted(86_000_000, 8) == 8
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert threads.wanted(2_200_000, 8) == 4
    monkeypatch.setenv("CLF_THREADS", "3")
    assert threads.wanted(2_200_000, 8) == 3
    assert threads.wanted(2_200_000, 8, 2) == 2
    monkeypatch.setenv("CLF_THREADS", "many")
    with pytest.raises(UserError, match="CLF_THREADS must be a whole number from 1 to 1024; found 'many'"):
        threads.wanted(2_200_000, 8)


def test_a_run_computes_with_the_threads_that_it_is_given():
    before = torch.get_num_threads()
    try:
        assert "threads: 2" in build([*QUICK, "--threads", "2"], Console(quiet=True)).config
        assert torch.get_num_threads() == 2
        build(QUICK, Console(quiet=True))
        assert torch.get_num_threads() == 1
        with pytest.raises(UserError, match="threads"):
            build([*QUICK, "--threads", "0"], Console(quiet=True))
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_is_recorded_and_another_one_is_told_of_once(tmp_path, monkeypatch, capsys):
    """Between one and two threads the last bits of tensors differ, so that a resumed run may differ, too."""
    path, data = tmp_path / "r", "glyphs:classes=4,train=3,test=2"
    simple = ["--model.strategy", "SimpleCIL", "--data.scenario", "ClassIncremental", "--data.scenario.dataset", data]
    before = torch.get_num_threads()
    try:
        assert main(["run", *QUICK, *simple, "--run_dir", str(path)]) == 0
        assert "CPU threads" not in capsys.readouterr().out
        run = RunDirectory.open(path)
        assert run.manifest.threads == 1
        assert [e.state["threads"] for e in run.events()] == [1, 1]
        monkeypatch.setenv("CLF_THREADS", "2")
        assert main(["forget", str(path), "--classes", "0"]) == 0
        assert capsys.readouterr().out.count("was made with 1 CPU threads so far and goes on with 2") == 1
        assert run.events()[-1].state["threads"] == 2
        assert main(["resume", str(path)]) == 0
        assert "was made with" not in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)

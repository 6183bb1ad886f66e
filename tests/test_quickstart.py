"""The first thing a newcomer runs keeps what the README says of it."""

import json

import pytest

from cl_framework.cli.main import main


@pytest.mark.usefixtures("drawn")
def test_the_quickstart_forgets_exactly_and_stays_accurate(tmp_path, capsys):
    assert main(["run", "--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path / "r")]) == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert [e["kind"] for e in results["events"]].count("learn") == 5
    forget = results["forget"][0]
    assert forget["accuracy_forget"] == 0.0
    assert forget["accuracy_forget_before"] >= 0.9
    assert forget["accuracy_retain"] >= 0.90
    assert results["final_accuracy"] >= 0.93
    assert (tmp_path / "r" / "figures" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "figures/accuracy.png" in shown.replace("\n", "")
    assert "clf forget" in shown

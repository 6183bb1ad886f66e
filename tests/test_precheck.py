"""Typing mistakes are answered before torch is imported, in the sentences of the full parser; and verbs teach."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cl_framework.cli import arguments, main, precheck
from cl_framework.configuration import accepted, shipped
from cl_framework.configuration.experiment import build
from cl_framework.errors import UserError
from cl_framework.runs.directory import RunDirectory
from cl_framework.settings import declared, signatures, trust

ROOT = Path(__file__).parents[1]
QUICK = str(ROOT / "configs" / "quickstart.yaml")
MISTAKES = {
    "quickstrat": "Did you mean 'quickstart'?",
    "--config configs/quikstart.yaml": "There is no file configs/quikstart.yaml. Did you mean 'quickstart'?",
    "quickstart BROKEN": "is not valid YAML near line 3",
    "quickstart --model.strategy EASY": "There is no strategy 'EASY'. Did you mean 'EASE'?",
    "quickstart STRATEGY": "There is no strategy 'SimpelCIL'. Did you mean 'SimpleCIL'?",
    "quickstart SETTING": "EASE has no setting 'alfa'. Did you mean 'alpha'?",
    "quickstart --model.strategy.alfa 3": "EASE has no setting 'alfa'. Did you mean 'alpha'?",
    "quickstart --model.unlearner.init_args.x 3": "DropAdapter has no setting 'x'. It takes none.",
    "quickstart --model.stratgy EASE": "There is no setting 'model.stratgy'. Did you mean 'model.strategy'?",
    "quickstart --trainer.max_epoch=3": "There is no setting 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'?",
    "quickstart --run_di x": "There is no setting 'run_di'. Did you mean 'run_dir'?",
    "quickstart --model.backbone tim:vit": "There is no backbone 'tim:vit'. Did you mean 'timm:vit'?",
    "quickstart --data.scenario Mixt": "There is no scenario 'Mixt'. Did you mean 'Mixed'?",
    "quickstart --data.scenario.stream.dataset digitz": "There is no data source 'digitz'. Did you mean 'digits'?",
    "quickstart --data.scenario.stream.dataset glyphs:clases=3": "Did you mean 'classes'?",
    "quickstart --data.scenario.stream.dataset imagefolder:/nope": "There is no folder /nope; give the one that holds",
    "quickstart --trainer.max_epochs three": "trainer.max_epochs must be a whole number (at least 1); found 'three'.",
    "quickstart --trainer.logger CSVLoger": "trainer.logger: there is no class 'CSVLoger'. Did you mean 'CSVLogger'?",
    "quickstart --trainer.callbacks EarlyStoping": "Did you mean 'EarlyStopping'?",
    "quickstart --model.optimizer Sgd": "model.optimizer: there is no class 'Sgd'. Did you mean 'SGD'?",
    "quickstart --model.schedule StepLr": "model.schedule: there is no class 'StepLr'. Did you mean 'StepLR'?",
    "quickstart --model.backbone timm:resnet1": "timm has no model 'resnet1'. Did you mean 'resnet18'?",
    "quickstart --model.backbone resnet18": "no backbone 'resnet18'. For a model of timm's, write timm:resnet18.",
    "quickstart --model.backbone timm:resnet18 --model.backbone.weights no.pth": "There is no weight file no.pth; give",
    "quickstart --model.backbone huggingface:./no": "There is no folder ./no; give the one that `save",
    "quickstart --model.adapter.width=0": "model.adapter.width must be at least 1; found 0.",
    "quickstart --data.batch_size 0 --trainer.max_epochs 0": "2 settings are out of range: ",
    "quickstart --model.optimizer.lr": "--model.optimizer.lr needs a value.",
    "quickstart --threads --seed_everything 1": "--threads needs a value.",
    "quickstart --model.strategy EASE Joint": "'Joint' is too much; a value follows the name of its setting",
    "--model.strategy EASE": "A config needs a scenario, such as --data.scenario ClassIncremental --data",
    "--data.scenario.dataset digits": "A config needs a scenario",
    "PARENT": "is a folder; give a config, such as quickstart, and a folder of pictures with",
    "quickstart --run_dir TAKEN": "already holds a run; `clf resume",
}  # fmt: skip


def built(words):
    return build(words, Console(quiet=True)).config


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Turn a line into words, with files that its capitals name."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    files = {
        "BROKEN": "model:\n  strategy: {class_path: EASE\ndata: 1\n",
        "STRATEGY": "model: {strategy: {class_path: SimpelCIL}}\n",
        "SETTING": "model: {strategy: {class_path: EASE, init_args: {alfa: 3}}}\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    RunDirectory.create(tmp_path / "taken", "seed: 0\n", {}).commit(
        "task-0", "learn", {}, {}, {}
    )  # it cannot begin anew
    places = {name: str(tmp_path / f"{name}.yaml") for name in files}
    places |= {"TAKEN": str(tmp_path / "taken"), "PARENT": str(tmp_path)}
    return lambda line: [places.get(word, word) for word in line.split()]


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_named_by_the_precheck(line, typed):
    with pytest.raises(UserError) as caught:
        precheck.of_config(typed(line))
    assert MISTAKES[line] in str(caught.value)


ALIKE = (
    "quickstart --model",
    "quickstart --trainer.max_epochs",
    "quickstart --trainer.l",
    "quickstart --data.batch_size",
)
EARLY = ("needs a value", "too much")
"""What the full parser says less clearly."""


@pytest.mark.parametrize(
    "line", [x for x in MISTAKES if x.startswith(ALIKE) and not any(word in MISTAKES[x] for word in EARLY)]
)
def test_the_full_parser_says_the_same(line, typed):
    said = []
    for check in (precheck.of_config, built):
        with pytest.raises(UserError) as caught:
            check(["--config", QUICK, *typed(line)[1:]])
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_mistakes_and_help_need_no_torch(typed):
    lines = [[verb, *typed(line)] for verb in ("run", "plan") for line in MISTAKES]
    lines += [["run"], ["help", "run"], ["run", "--help"], ["plan", "--help"], ["learn", "x", "--help"], ["resume"],
              *([verb, "nowhere", "--nonsens"] for verb in arguments.PARSERS), ["predict", "nowhere", "x.png"],
              ["forget", typed("TAKEN")[0], "--unlearner", "DropAdaptor"], ["list", "datasets"], ["list", "metrics"],
              ["learn", typed("TAKEN")[0], "--data.scenario", "ClassIncrementa"], ["learn", typed("TAKEN")[0]],
              ["learn", typed("TAKEN")[0], "--data.scenario.dataset", "digits"],
              ["predict", typed("TAKEN")[0], "no.png"],
              ["predict", typed("TAKEN")[0], str(ROOT)], ["reproduce", "nothing"],
              ["reproduce", "simplecil_cifar100_inc5", "--model.strategi", "X"]]  # fmt: skip
    program = (
        "import json, sys\nfrom cl_framework.cli.main import main\n"
        "codes = [main(words) for words in json.loads(sys.argv[1])]\n"
        "print(json.dumps([codes, sorted({'torch', 'pytorch_lightning', 'timm'} & set(sys.modules))]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines)], capture_output=True, text=True, check=True
    )
    codes, heavy = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    assert [words for words, code in zip(lines, codes, strict=True) if code not in (0, 2)] == []
    assert all(
        code == 2 for words, code in zip(lines, codes, strict=True) if not {"help", "--help", "list"} & set(words)
    )


def test_what_is_right_passes():
    for path in sorted((ROOT / "configs" / "experiment").glob("*.yaml"))[:5]:
        assert precheck.of_config([str(path), "--model.strategy.help", "EASE"], data=False) is not None
    words = precheck.of_config(["quickstart", "--model.adapter", "peft.HRAConfig", "--model.adapter.r", "8"])
    assert words[:2] == ["--config", QUICK]
    assert "HRAConfig" in built(words)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.optimizer.lr", "-1", "--model.optimizer.lr", "0.1"],
        ["--model.optimizer.momentum", "7", "--model.optimizer", "torch.optim.Adam"],
        ["--model.backbone", "timm:vit_base_patch16_224_in21k"],
        ["--model.backbone", "timm:vit_base_patch16_224.augreg_in21k", "--trainer.max_epochs", "1_0"],
        ["--model.optimizer", "NAdamW", "--trust", "timm"],
        ["--trainer.callbacks", "null", "--trainer.logger", "false", "--trainer.devices", "auto", "--print_config"],
        ["--trainer.limit_train_batches", "0.5", "--trainer.accelerator", "cpu", "--model.optimizer.lr", "1e-3"],
    ],
)
def test_what_may_be_right_is_left_to_the_full_parser(words):
    with trust.given(words) as rest:
        assert precheck.of_config(["quickstart", *rest]) is not None


def test_library_names_are_read_from_sources_as_importing_gives_them():
    import timm
    from timm.models import get_deprecated_models
    from torch import optim

    models, former = declared.timm_models()
    assert models == set(timm.list_models())
    assert former >= {n for n in get_deprecated_models() if not n.startswith("tv_")}
    assert set(declared.classes_in("torch.optim")) == {n for n in optim.__all__ if n[0].isupper()}
    assert {"EarlyStopping", "ModelCheckpoint"} < set(declared.classes_in("pytorch_lightning.callbacks"))
    assert {"CSVLogger", "WandbLogger"} < set(declared.classes_in("pytorch_lightning.loggers"))


def test_every_shipped_config_passes():
    paths = [p for p in sorted((ROOT / "configs").rglob("*.yaml")) if p.parent.name not in ("compare", "bench")]
    for path in paths:
        assert precheck.of_config(["--config", str(path)], data=False) == ["--config", str(path)]


def test_what_is_accepted_is_what_the_full_parser_reads():
    """Read from source files and built by the parser, sections and options are the same."""
    import inspect

    import yaml
    from pytorch_lightning import Trainer

    from cl_framework.configuration.sections import Data
    from cl_framework.engine.learner import Learner

    keys = set(yaml.safe_load(built(["--config", QUICK])))
    assert keys == {*accepted.SECTIONS, *accepted.other_settings()} - {"config", "print_config"}
    made_of = {"model": Learner, "data": Data, "trainer": Trainer}
    assert accepted.section_keys() == {k: [*inspect.signature(c).parameters] for k, c in made_of.items()}


def test_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml", "./configs/quickstart.yaml"):
        assert shipped.locate_config(given) == QUICK
    assert Path(shipped.locate_config("configs/backbone/minilm.yaml")).is_file()
    assert shipped.locate_config("backbone/minilm") == shipped.locate_config("minilm")
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    assert shipped.locate_config("quickstart.yaml") == "quickstart.yaml", "a file of the user's own comes first"
    assert shipped.with_paths(["minilm", "--config=quickstart.yaml", "-c", "a: {b: 1}", "--x", "y"]) == [
        "--config", shipped.locate_config("minilm"), "--config=quickstart.yaml", "-c", "a: {b: 1}", "--x", "y",
    ]  # fmt: skip


def test_a_run_without_anything_teaches(capsys):
    assert main.main(["run"]) == 2
    said = capsys.readouterr().err
    assert "clf run --config configs/quickstart.yaml" in said
    assert "clf list strategies" in said
    assert main.main(["help", "forget"]) == 0
    assert "clf forget runs/quickstart --classes 3 7" in capsys.readouterr().out


def test_signatures_are_those_that_python_sees():
    from dataclasses import is_dataclass
    from inspect import signature

    from cl_framework.settings import discovery

    for kind in discovery.KINDS:
        for entry in discovery.catalogue(kind):
            told = accepted.part_settings(signatures.find_declared(entry.module, entry.name))
            found = discovery.load_class(kind, entry.name)
            own = "__init__" in vars(found) or is_dataclass(found)
            made = list(signature(found).parameters) if own else []
            assert told is None or list(told) == made, entry
    assert signatures.source_file("no.such.module") is None


def test_an_installed_package_finds_its_configs_from_an_empty_folder(tmp_path):
    """Laid out as the wheel is: ``configs`` lies in the package, and there is no clone."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    for name in ("cl_framework", "strategies", "scenarios"):
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    shutil.copytree(ROOT / "configs", site / "cl_framework" / "configs")
    empty.mkdir()
    program = (
        "import sys\nfrom cl_framework.cli.main import main\nfrom cl_framework.configuration import shipped\n"
        "print(shipped.locate_config('quickstart'))\n"
        "print(main(['reproduce']), main(sys.argv[1:]))"
    )
    words = ["run", "--config", "configs/quickstart.yaml", "--config", "clinc150", "--model.strategy", "EASY"]
    given = {**os.environ, "PYTHONPATH": str(site)}
    typing = [sys.executable, "-c", program, *words]
    done = subprocess.run(typing, cwd=empty, env=given, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(site / "cl_framework" / "configs"))
    assert done.stdout.endswith("0 2\n")
    assert done.stderr == "clf: There is no strategy 'EASY'. Did you mean 'EASE'?\n"


def test_the_wheel_ships_the_configs_and_no_document_names_a_package_that_no_registry_has():
    told = (ROOT / "pyproject.toml").read_text()
    assert '"configs" = "cl_framework/configs"' in told
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.yaml")):
        assert not re.search(r"pip install [\"']?cl-framework", path.read_text()), path

"""Wrong command lines and configs: each gets one sentence that says what is wrong and what is accepted."""

import ast
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cl_framework.configuration import Given, build, resolve, shipped, yaml_of
from cl_framework.errors import UserError

CONFIGURATION = sorted((Path(__file__).parents[1] / "cl_framework" / "configuration").glob("*.py"))
EASE = "Choose one of: alpha, beta, compete, complement, route, use_init_ptm."
LINES = {
    # keys at each depth
    "--modle.strategy EASE": "There is no setting 'modle.strategy'. Did you mean 'model.strategy'?",
    "--model.stratgy EASE": "There is no setting 'model.stratgy'. Did you mean 'model.strategy'?",
    "--nonsense": "There is no setting 'nonsense'. `clf run --help` lists them.",
    "--model.strategy.alfa 3": "EASE has no setting 'alfa'. Did you mean 'alpha'?",
    "--model.strategy.init_args.alfa 3": "EASE has no setting 'alfa'. Did you mean 'alpha'?",
    "--model.strategy.dict_kwargs.x 3": f"EASE has no setting 'x'. {EASE}",
    "--model.strategy.alpha.beta 3": "model.strategy.alpha must be a number; it has no setting 'beta'.",
    "--model.compute.atention fused": "Compute has no setting 'atention'. Did you mean 'attention'?",
    "--data.scenario.stream.datset x": "ClassIncremental has no setting 'datset'. Did you mean 'dataset'?",
    "--data.scenario.stream.transform Pilot --data.scenario.stream.transform.sise 3": "Did you mean 'size'?",
    "--published.source x --published.final_acuracy 3": "Did you mean 'final_accuracy'?",
    # options of another class after a change of class
    "--model.strategy SimpleCIL --model.strategy.alpha 0.1": "SimpleCIL has no setting 'alpha'. It takes none.",
    "--model.optimizer Adam --model.optimizer.momentum 0.9": "Adam has no setting 'momentum'. Choose one of: amsgrad,",
    "--model.optimizer.learning_rate 0.1": "SGD has no setting 'learning_rate'. Choose one of: dampening,",
    "--model.schedule StepLR --model.schedule.stepsize 3": "StepLR has no setting 'stepsize'. Did you mean 'step_",
    "--model.adapter peft.HRAConfig --model.adapter.rr 4": "HRAConfig has no setting 'rr'. Did you mean 'r'?",
    "--trainer.logger MLFlowLogger --trainer.logger.experimnt_name x": "Did you mean 'experiment_name'?",
    # classes
    "--model.strategy EASY": "There is no strategy 'EASY'. Did you mean 'EASE'?",
    "--model.unlearner DropAdaptor": "There is no unlearner 'DropAdaptor'. Did you mean 'DropAdapter'?",
    "--model.strategy.class_path EASY": "There is no strategy 'EASY'. Did you mean 'EASE'?",
    "--model.strategy torch.optim.SGD": "model.strategy must be of class Strategy; torch.optim.SGD is not.",
    "--model.strategy strategies.learning.eaze.EASE": "there is no module strategies.learning.eaze; check the path",
    "--model.strategy strategies.learning.ease.EASY": "there is no strategies.learning.ease.EASY. Did you mean 'EASE'?",
    "--model.optimizer torch.optim.Foo": "model.optimizer: there is no torch.optim.Foo. Choose one of: ASGD,",
    "--model.optimizer os.system": "The config names os.system, which may run any code; to trust it, add --trust",
    "--model.schedule cosin": "model.schedule: there is no class 'cosin'. Did you mean 'cosine'?",
    "--model.schedule ReduceLROnPlateau": "there are several classes ReduceLROnPlateau; give the full path:",
    "--data.scenario.stream ClassIncrementl": "There is no stream 'ClassIncrementl'. Did you mean 'ClassIncremental'?",
    "--trainer.callbacks+ EarlyStoping": "there is no class 'EarlyStoping'. Did you mean 'EarlyStopping'?",
    "--model.strategy null": "model.strategy must be a class of Strategy, or a table of class_path and init_args; fo",
    "--model.strategy 3": "or a table of class_path and init_args; found 3.",
    "--model.strategy [EASE]": "or a table of class_path and init_args; found [EASE].",
    "--model.compute 3": "model.compute must be a table of attention, compile, checkpoint, fused; found 3.",
    # types and choices
    "--trainer.max_epochs three": "trainer.max_epochs must be a whole number (at least 1); found 'three'.",
    "--trainer.max_epochs [3]": "trainer.max_epochs must be a whole number (at least 1); found [3].",
    "--model.adapter.width 1.5": "model.adapter.width must be a whole number (at least 1); found 1.5.",
    "--model.strategy.alpha true": "model.strategy.alpha must be a number (at least 0); found true.",
    "--model.optimizer.lr fast": "model.optimizer.lr must be a number (at least 0); found 'fast'.",
    "--model.optimizer.lr nan": "model.optimizer.lr must be a finite number; found nan.",
    "--model.optimizer Adam --model.optimizer.betas 0.9": "betas must be a list of 2 values; found 0.9.",
    "--model.optimizer Adam --model.optimizer.betas [a,b]": "model.optimizer.betas[0] must be a number; found 'a'.",
    "--model.compute.checkpoint perhaps": "model.compute.checkpoint must be true or false; found 'perhaps'.",
    "--model.head cosin": "model.head cannot be 'cosin'. Did you mean 'cosine'?",
    "--trainer.precision 17": "trainer.precision cannot be 17. Choose one of: 16, 16-mixed,",
    "--trainer.deterministic perhaps": "trainer.deterministic cannot be 'perhaps'. Choose one of: false, true, warn.",
    "--data.batch_size null": "data.batch_size must be a whole number (at least 1); found null.",
    "--data.scenario.stream.order 3": "data.scenario.stream.order must be a list or null; found 3.",
    "--data.scenario.requests 3": "data.scenario.requests must be a list; found 3.",
    "--threads many": "threads must be a whole number or null (from 1 to 1024); found 'many'.",
    "--features_limit much": "features_limit must be a number (above 0); found 'much'.",
    "--seed_everything lucky": "must be a whole number or true or false (from 0 to 4294967295); found",
    "--skip_unreadable=3": "--skip_unreadable takes no value; found '3'.",
    # ranges, what lacks, what is too much
    "--model.adapter.width 0": "model.adapter.width must be at least 1; found 0.",
    "--model.backbone Timm": "model.backbone: Timm needs name; set it, as in --model.backbone.name ...",
    "--model.schedule StepLR": "model.schedule needs step_size; set it, as in --model.schedule.step_size ...",
    "--trainer.callbacks EarlyStopping": "EarlyStopping needs monitor; set it, as in --trainer.callbacks.monitor ...",
    "--published.final_accuracy 3": "published: Published needs source; set it, as in --published.source ...",
    "--data.scenario ForgetThenRelearn": "ForgetThenRelearn needs classes; set it, as in --data.scenario.classes ...",
    "--model.strategy": "--model.strategy needs a value.",
    "--model.strategy EASE Joint": "'Joint' is too much; a value follows the name of its setting, as in --threads 2.",
    # sections and configs
    "--model EASE": "model must be a table of settings, such as backbone, adapter, strategy; found 'EASE'.",
    "--model.strategy nowhere.yaml": "There is no file nowhere.yaml; give the path of a config that exists.",
    "--config {a:1}": "The config on the command line must hold a table of sections, such as model: and data:;",
    '--config={"model":{"stratgy":"EASE"}}': "There is no setting 'model.stratgy'. Did you mean 'model.strategy'?",
}  # fmt: skip
FILES = {
    "modle: {strategy: EASE}": "There is no setting 'modle'. Did you mean 'model'?",
    "model: {strategy: {class_path: EASE, init_args: {alfa: 3}}}": "EASE has no setting 'alfa'. Did you mean 'alpha'?",
    "model: {strategy: {class_path: EASE, init_arg: {a: 3}}}": "no key 'init_arg' beside class_path. Did you mean",
    "model: {strategy: {class_path: EASE, init_args: 3}}": "init_args must be a table of settings; found 3.",
    "model: {strategy: {name: EASE}}": f"EASE has no setting 'name'. {EASE}",
    "model: {adapter: {class_path: Peft, init_args: {config: {class_path: peft.LoraConfg}}}}": "no peft.LoraConfg. Did",
    "model: {adapter: {class_path: Peft, init_args: {config: {class_path: peft.LoraConfig, init_args: {rr: 3}}}}}":
        "LoraConfig has no setting 'rr'. Did you mean 'r'?",
    "model: {adapter: {class_path: Peft, init_args: {config: peft.LoraConfig, roles: [quary]}}}": "mean 'query'?",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitr: loss}}]}": "Did you mean 'monitor'?",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: loss, patience: often}}]}":
        "trainer.callbacks[0].patience must be a whole number (at least 0); found 'often'.",
    "data: {scenario: {class_path: Mixed, init_args: {requests: [{after: 1, clases: [2]}]}}}":
        "Request has no setting 'clases'. Did you mean 'classes'?",
    "data: {scenario: {class_path: Mixed, init_args: {requests: [{after: [1]}]}}}":
        "data.scenario.requests[0].after must be a whole number or text; found [1].",
    "run_dir: 3": "run_dir must be text or null; found 3.",
    "- 1\n- 2": "must hold a table of sections, such as model: and data:; found [1, 2].",
    "model: [1]": "model must be a table of settings, such as backbone, adapter, strategy; found [1].",
    "model:\n\tstrategy: EASE": "is not valid YAML near line 2: found character that cannot start any token.",
}  # fmt: skip
LEFT = {
    "--trainer.logger maybe": "trainer.logger: there is no class 'maybe'. Choose one of: CSVLogger, CometLogger,",
    "--trainer.logger [CSVLogger]": "CSVLogger needs save_dir; set it, as in --trainer.logger.save_dir ...",
    "--trainer.logger WandbLogger --trainer.logger.projct x": "WandbLogger has no setting 'projct'. Did you mean 'proj",
    "--trainer.plugins Foo": "trainer.plugins: there is no class 'Foo'. Choose one of: Precision,",
    "--print_config=everything": 'The config cannot be used: Invalid option "everything" for --print_config.',
}
"""What source files do not tell for certain: the full parser refuses it, and the same judgement says why."""


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    path = shipped.locate_config("quickstart")
    monkeypatch.chdir(tmp_path)
    return ["--config", path]


def said(judge, words):
    with pytest.raises(UserError) as caught:
        judge(words)
    return str(caught.value)


def judged(words):
    Given().words(words).check()


def built(words):
    build(words, Console(quiet=True))


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_option_gets_a_sentence(line, quickstart):
    assert LINES[line] in said(judged, [*quickstart, *line.split()])


@pytest.mark.parametrize("text", FILES)
def test_a_wrong_config_gets_a_sentence(text, quickstart, tmp_path):
    (tmp_path / "wrong.yaml").write_text(text)
    assert FILES[text] in said(judged, [*quickstart, "--config", "wrong.yaml"])


@pytest.mark.parametrize("line", LEFT)
def test_what_only_the_full_parser_can_refuse_gets_one_too(line, quickstart):
    words = [*quickstart, *line.split()]
    judged(words)
    assert LEFT[line] in said(built, words)


def test_a_config_that_is_no_text_is_named(quickstart, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("model: {strategy: \xe9}".encode("latin-1"))
    assert said(judged, ["--config", "latin.yaml"]) == "latin.yaml is not valid YAML: invalid continuation byte."


def test_the_later_value_counts_and_a_new_class_drops_the_settings_of_the_one_before(quickstart):
    for words in (
        ["--model.adapter.width", "0", "--model.adapter.width", "3"],
        ["--model.optimizer.momentum", "7", "--model.optimizer", "Adam"],
        ["--model.adapter", "Peft", "--model.adapter", "LoRA"],
    ):
        with pytest.raises(UserError):
            judged([*quickstart, *words[:2]] if words[1] != "Peft" else [*quickstart, "--model.adapter.width", "0"])
        judged([*quickstart, *words])


@pytest.mark.parametrize(
    "words",
    [[], ["--model.adapter", "peft.LoraConfig"], ["--model.schedule", "StepLR", "--model.schedule.step_size", "2"]],
    ids=len,
)
def test_what_the_parser_writes_is_accepted_again(words, quickstart, tmp_path):
    whole = resolve([*quickstart, *words])
    (tmp_path / "whole.yaml").write_text(whole)
    judged(["--config", "whole.yaml"])
    assert yaml_of("whole.yaml") == yaml.safe_load(whole)


def test_nothing_reads_the_words_of_the_parser():
    """Sentences come from what is accepted and what is given; no pattern is matched to messages of a library."""
    for path in CONFIGURATION:
        tree = ast.parse(path.read_text())
        names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        assert "re" not in names, path
        tested = [n for n in ast.walk(tree) if isinstance(n, ast.Compare) and isinstance(n.ops[0], ast.In)]
        assert not [n for n in tested if ast.unparse(n.comparators[0]) == "str(error)"], path

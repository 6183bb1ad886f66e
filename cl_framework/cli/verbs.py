"""The verbs of ``clf`` and what may follow each, as help prints it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of ``clf``.

    Attributes:
        says: What it does.
        example: Example of its arguments.
        where: Module and function that carry it out; by default the function of its name in `run`.
    """

    says: str
    example: str
    where: str = ""


QUICK = "--config configs/quickstart.yaml"
VERBS = {
    "run": Verb("Run a stream of learn and forget requests from a config, and measure after each.", QUICK),
    "resume": Verb("Continue a run that was stopped.", "runs/quickstart"),
    "learn": Verb("Learn another experience on a finished run.", "runs/quickstart --help"),
    "forget": Verb(
        "Forget classes, experiences or samples of a finished run, and write a receipt.",
        "runs/quickstart --classes 3 7",
        "forget.forget",
    ),
    "plan-forget": Verb(
        "Show what a forget request would do, and change nothing.",
        "runs/quickstart --classes 3 7",
        "forget.plan_forget",
    ),
    "evaluate": Verb("Evaluate a run again.", "runs/quickstart", "query.evaluate"),
    "audit": Verb(
        "Audit what a run has forgotten, against models that never saw it.", "runs/quickstart --fast", "audit.audit"
    ),
    "predict": Verb(
        "Name the most likely classes of images, or of text files of a sentence each.",
        "runs/quickstart image.png",
        "query.predict",
    ),
    "plan": Verb("Show what a config would do, and run nothing.", QUICK, "query.plan"),
    "reproduce": Verb(
        "Run a published setting and compare with the published figures.",
        "simplecil_cifar100_inc5",
        "reproduce.reproduce",
    ),
    "report": Verb("Compare runs side by side.", "runs/ease runs/simplecil", "inspect.report"),
    "verify": Verb("Check every file and receipt of a run against its hash.", "runs/quickstart", "inspect.verify"),
    "list": Verb(
        "Show strategies, unlearners, scenarios, backbones, adapters, datasets or metrics.",
        "strategies",
        "inspect.list_classes",
    ),
}


def guide() -> str:
    """Return what ``clf --help`` prints."""
    width = max(len(name) for name in VERBS)
    lines = [f"  {n:<{width}}  {v.says}\n  {'':<{width}}  $ clf {n} {v.example}" for n, v in VERBS.items()]
    return "\n".join(
        [
            "usage: clf VERB ...",
            "",
            "A stream of requests for a frozen pre-trained model: learn these classes, forget those, learn more.",
            "After each request, clf measures what the model knows, what it lost, and whether the forget set is gone.",
            "",
            *lines,
            "",
            "clf VERB --help tells more about one of them; --debug shows where an error was raised.",
            "--trust NAME lets a config name a package, module or class outside the known kinds; its code will run.",
        ]
    )


def teach(verb: str) -> str:
    """Return what to type after ``run`` or ``plan``."""
    does = "carry out a stream of learn and forget requests" if verb == "run" else "show what `clf run` would do"
    return TEACH.format(verb=verb, does=does)


TEACH = """usage: clf {verb} CONFIG [CONFIG ...] [--SECTION.KEY VALUE ...]

Read YAML configs and {does}. Later configs win over earlier ones, options win over configs.
A config is a file, or a name such as quickstart of those that come with the package.

examples:
  clf {verb} --config configs/quickstart.yaml
  clf {verb} quickstart --run_dir runs/first --model.strategy SimpleCIL
  clf {verb} quickstart --data.scenario ClassIncremental --data.scenario.dataset imagefolder:PATH
  clf {verb} quickstart --trainer.max_epochs 2 --threads 2

sections:
  model     backbone, adapter, strategy, unlearner, optimizer: `clf list strategies`, `clf list backbones`, ...
  data      scenario (`clf list scenarios`) and its dataset (`clf list datasets`), batch_size
  trainer   every option of Lightning's Trainer

  --model.strategy.help EASE   the settings of one class
  --print_config               the whole config as it would be used
  --help-all                   every option there is (takes some seconds)"""

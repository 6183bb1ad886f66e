"""Arguments of each verb. Imports nothing heavy, so that a typing mistake is answered at once."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path

from cl_framework.configuration.flags import OPTIMISER
from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import ranges

FORGET = """examples:
  clf plan-forget runs/quickstart --classes 3 7          what would be deleted, retrained, edited, kept
  clf plan-forget runs/quickstart --classes 3 --all      the same, artifact by artifact, and why
  clf plan-forget runs/quickstart --classes 3 --json     the same for a program or an archive
  clf forget runs/quickstart --classes 3 7               classes, by name, or by id where no name is a number
  clf forget runs/quickstart --classes id:3              a class by its id, whatever classes are called
  clf forget runs/quickstart --experiences task-1        everything an experience brought
  clf forget runs/pets --samples cat/7.png 'dog/2019-*'   samples, by path, name, folder, pattern or id
  clf forget runs/pets --samples requests.txt --sign key.pem   a file of such words, one a line
  clf forget runs/said --where user=alice                all rows of a table with this value
  clf forget runs/finetune --classes 3 --unlearner NegGradPlus --model.unlearner.epochs 2

What is forgotten already is named with the line of its receipt, and the rest is carried out; asking again for all of
it changes nothing. Killed at any moment, the run is as before or has forgotten; give the same command again."""

RESUME = """examples:
  clf resume runs/quickstart
  clf resume runs/quickstart --model.optimizer.lr 0.01

Settings under --model.optimizer and --model.schedule may be given anew; what the run goes on with is recorded with each
event and holds for all that comes later. All others stay as they were."""

LEARN = """A class is its name: what comes of a class that is alive is more of that class, which not all methods learn.

examples:
  clf learn runs/quickstart --data.scenario ClassIncremental --data.scenario.dataset glyphs:classes=10
  clf learn runs/quickstart --data.scenario ClassIncremental --data.scenario.dataset imagefolder:PATH \\
    --data.scenario.increment 2
  clf learn runs/quickstart --as_new lab- --data.scenario ClassIncremental --data.scenario.dataset digits

`clf list scenarios` and `clf list datasets` name what can stand there. The method stays the run's own;
--model.optimizer.lr and its like may be given anew, and hold from then on."""

EVALUATE = """examples:
  clf evaluate runs/quickstart
  clf evaluate runs/quickstart --data imagefolder:PATH

Of other data the test split is taken if they have one, and all samples otherwise. Nothing of what the run learned
from is read, and nothing is compared with its record."""

AUDIT = """Audit what a run has forgotten, beside models to compare it with:

  run        the model as it is now
  original   the same stream learned without any forget request
  retrained  a fresh model trained on the retain set only; the target
  pristine   the backbone without adapters: what its features knew before any training

References are learned in memory with the run's own config, so an audit takes about as long as learning the
stream --seeds + 1 times; --fast leaves them out, and --no-relearn leaves out learning it again. What cannot be
concluded then is printed as "unknown". A good way of forgetting is hard to tell from `retrained` in every
row; docs/audit.md explains the rows and what an audit cannot show. Nothing in the run changes; DIR/audit.json is new.

  clf audit runs/quickstart
  clf audit runs/quickstart --request forget-0 --fast
  clf audit runs/quickstart --shadows 16"""

MORE = {
    "resume": OPTIMISER,
    "learn": ("--data.scenario", *OPTIMISER),
    "forget": ("--model.unlearner",),
    "plan-forget": ("--model.unlearner",),
}
"""Verbs whose options may be followed by settings of a config, and the prefixes of these."""


def parse(verb: str, argv: Sequence[str]) -> Namespace:
    """Read the arguments of a verb; unknown ones are in ``rest`` where settings of a config may follow.

    Raises:
        UserError: If an option is unknown or a setting is not one that the verb takes.
    """
    parser = PARSERS[verb](verb)
    args, rest = parser.parse_known_args(list(argv))
    wanted = MORE.get(verb, ())
    options = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    for word in rest if wanted else rest[:1]:
        name = word.partition("=")[0]
        if name.startswith("-") and not (wanted and name.startswith(wanted)):
            known = [*options, *wanted]
            raise UserError(f"`clf {verb}` has no option {name}. {did_you_mean(name, known)}")
    if rest and not rest[0].startswith("-"):
        raise UserError(f"{rest[0]!r} is too much; `clf {verb} --help` shows what it takes.")
    args.rest = rest
    return args


def _parser(verb: str, description: str, epilog: str | None = None) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"clf {verb}",
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", help="the run directory")
    parser.add_argument(
        "--relocate",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="data or weights moved from below OLD to below NEW; the run records it",
    )
    return parser


def _resume(verb: str) -> ArgumentParser:
    description = (
        "Continue a run after a kill, a crash or Ctrl-C, or with another learning rate where training diverged."
    )
    return _parser(verb, description, RESUME)


def _learn(verb: str) -> ArgumentParser:
    parser = _parser(verb, "Learn more classes on a finished run, or more of those it knows, from any data.", LEARN)
    parser.add_argument(
        "--as_new",
        metavar="PREFIX",
        help="put PREFIX before the names of the classes, so that they become new classes",
    )
    parser.add_argument("--skip_unreadable", action="store_true", help="leave out files and rows that cannot be read")
    return parser


def _evaluate(verb: str) -> ArgumentParser:
    description = "Evaluate a run again from its files and compare with its record, or evaluate it on other data."
    parser = _parser(verb, description, EVALUATE)
    parser.add_argument("--data", metavar="DATA", help="evaluate on these data instead; classes are matched by name")
    return parser


def _predict(verb: str) -> ArgumentParser:
    description = "Print the most likely classes of image files, or of text files of a sentence each."
    parser = _parser(verb, description, "example:\n  clf predict runs/quickstart picture.png --top 5")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--top", type=ranges.count, default=3, help="how many classes to print (default 3)")
    return parser


def _requesting(verb: str, description: str) -> ArgumentParser:
    parser = _parser(verb, description, FORGET)
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="names of classes, or ids as id:3")
    parser.add_argument("--experiences", "--experience", nargs="+", default=[], metavar="NAME", help="experience names")
    parser.add_argument(
        "--cells",
        nargs="+",
        default=[],
        metavar="EXPERIENCE:CLASS",
        help="the samples of a class from one experience; the class stays if other experiences brought more of it",
    )
    parser.add_argument(
        "--samples",
        nargs="+",
        default=[],
        metavar="SAMPLE",
        help="ids, paths, folders or patterns of samples, or files of them; `clf list samples DIR` lists all",
    )
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="COLUMN=VALUE", help="samples whose rows hold this in a table"
    )
    parser.add_argument(
        "--unlearner", help="an unlearner other than the config's; its settings follow as --model.unlearner.NAME"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        choices=("forget", "retain"),
        default=[],
        help="samples that are no longer there: of the forget set, of the retain set",
    )
    parser.add_argument("--all", action="store_true", help="show every artifact, what went into it, and why")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table; samples are counted")
    parser.add_argument("--ids", action="store_true", help="with --json: name the samples by id")
    return parser


def _forget(verb: str) -> ArgumentParser:
    description = "Forget classes, experiences or single samples of a finished run, and write a receipt."
    parser = _requesting(verb, description)
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and change nothing")
    parser.add_argument("--sign", metavar="KEY.pem", help="Ed25519 private key to sign the receipt with")
    parser.add_argument(
        "--requester", metavar="WHO", help="who made the request; the receipt keeps a keyed hash of the name"
    )
    parser.add_argument(
        "--history",
        choices=("rewrite", "drop"),
        default="rewrite",
        help="earlier events: remove what was replaced or erased (rewrite, the default), or all tensors (drop)",
    )
    return parser


def _plan_forget(verb: str) -> ArgumentParser:
    description = (
        "Show, for each artifact of a finished run, what went into it, what a forget request would do to it, and why.\n"
        "Nothing is changed."
    )
    return _requesting(verb, description)


def _audit(verb: str) -> ArgumentParser:
    parser = _parser(verb, AUDIT)
    parser.add_argument("--request", metavar="NAME", help="one forget request, such as forget-0; all unless given")
    parser.add_argument(
        "--original", type=Path, metavar="DIR", help="a run that forgot nothing, instead of training one"
    )
    parser.add_argument("--retrained", type=Path, metavar="DIR", help="a run that learned only the retain set")
    parser.add_argument(
        "--seeds",
        type=ranges.count,
        default=2,
        metavar="N",
        help="retrained models; their spread is the reference (2)",
    )
    parser.add_argument(
        "--shadows", type=int, default=0, metavar="N", help="shadow models for U-LiRA, trained one by one (16 or more)"
    )
    parser.add_argument("--no-relearn", action="store_true", help="leave out relearning, which takes longest")
    parser.add_argument("--fast", action="store_true", help="leave out reference models that must be trained")
    return parser


PARSERS: dict[str, Callable[[str], ArgumentParser]] = {
    "resume": _resume,
    "learn": _learn,
    "evaluate": _evaluate,
    "predict": _predict,
    "forget": _forget,
    "plan-forget": _plan_forget,
    "audit": _audit,
}
"""The parser of each verb that opens a run and needs a model."""

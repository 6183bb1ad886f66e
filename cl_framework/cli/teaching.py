"""Help for verbs that take a config, without heavy imports."""

from __future__ import annotations


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

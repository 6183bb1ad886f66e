"""What nobody foresaw ends in a sentence: memory, a part of a library, a fault of our own; `--debug` shows where."""

import pytest
import torch
from pytorch_lightning import Callback

from cl_framework.cli.main import main
from cl_framework.cli.verbs import VERBS, Verb
from cl_framework.engine import loop
from cl_framework.errors import unforeseen
from strategies.learning.finetune import Finetune


@pytest.fixture
def raising(monkeypatch):
    """A verb that raises what a test wants."""

    def install(error):
        def verb(argv):
            raise error

        monkeypatch.setitem(VERBS, "report", Verb("", "", "inspect.verify"))
        monkeypatch.setattr("cl_framework.cli.inspect.verify", verb)

    return install


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 640000000000 bytes."),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_too_little_memory_says_what_to_lower(error, raising, capsys):
    raising(error)
    assert main(["report"]) == 2
    told = capsys.readouterr().err
    assert "not enough memory" in told
    assert "lower data.batch_size" in told
    assert "Traceback" not in told
    assert ("640.0 GB" in told) == ("640000000000" in str(error))
    assert ("20.00 GiB" in told) == ("20.00 GiB" in str(error))


def test_a_fault_of_our_own_is_a_sentence_and_debug_shows_the_traceback(raising, capsys, monkeypatch):
    raising(KeyError("task-3"))
    assert main(["report"]) == 3
    told = capsys.readouterr().err
    assert "KeyError: 'task-3'" in told
    assert told.count("\n") == 1
    assert main(["report", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("CLF_DEBUG", "1")
    assert main(["report"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_callback_of_the_user_is_named(world, stream):
    class Clumsy(Callback):
        def on_train_start(self, trainer, pl_module):
            raise ValueError("no such\nthing")

    trainer = world.make_trainer(1)
    trainer.callbacks.append(Clumsy())
    with pytest.raises(ValueError, match="no such") as caught:
        loop.carry_out(world.learner(Finetune()), stream[0], lambda epochs: trainer, 8)
    assert unforeseen.mendable(caught.value) == "The callback Clumsy cannot work here: no such thing"


def test_what_a_library_raises_is_told_with_its_name():
    try:
        torch.ones(2) @ torch.ones(3)
    except RuntimeError as error:
        said = unforeseen.error_sentence(error)
    assert "RuntimeError" in said
    assert "\n" not in said

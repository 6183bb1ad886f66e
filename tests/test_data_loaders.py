"""A data loader is a file: listed without being imported, opened by its prefix, missed in one sentence."""

import sys

import pytest

from cl_framework.cli.main import main
from cl_framework.errors import UserError
from cl_framework.settings import data_loaders, discovery
from scenarios.data.open import anchored, open_source, paths_in

MINE = '''
"""`mine:PATH`: squares as bright as a file says, one class a line."""

from pathlib import Path

import torch

from cl_framework.settings import Loader
from scenarios.data.source import Pictures, Source

LOADER = Loader("mine", reads="file", give="a file with a brightness on each line", endings=(".mine",))


def load(path: str, size: int = 28) -> Source:
    bright = [int(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    images = torch.cat([torch.full((4, 1, size, size), b, dtype=torch.uint8) for b in bright])
    labels = torch.arange(len(bright)).repeat_interleave(4)
    return Source("mine", Pictures("train", images, labels), Pictures("test", images, labels), tuple(map(str, bright)))
'''
STREAM = ["--model.strategy", "SimpleCIL", "--data.scenario", "ClassIncremental", "--data.scenario.dataset"]


@pytest.fixture
def plugin(install_package):
    """The folder of an installed package of somebody else."""
    return install_package("loads_mine.data")


@pytest.fixture
def data(tmp_path):
    """A file that the loader reads."""
    file = tmp_path / "squares.mine"
    file.write_text("0\n80\n160\n240\n")
    return file


def test_a_file_in_a_plugin_package_loads_data_by_its_prefix(plugin, data, capsys):
    (plugin / "mine.py").write_text(MINE)
    assert main(["plan", *STREAM, f"mine:{data}:size=32"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines() if "task-" in line] == [
        ["task-0", "learn"],
        ["task-1", "learn"],
    ]
    assert open_source(f"mine:{data}:size=32").train.images.shape == (16, 1, 32, 32)


def test_it_is_listed_and_checked_without_being_imported(plugin, data, capsys):
    (plugin / "mine.py").write_text(MINE)
    assert main(["list", "datasets"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mine:PATH Squares as bright as a file says, one class a line. Options: size." in shown
    assert main(["plan", *STREAM, f"mine:{data}:sise=32"]) == 2
    assert "mine has no option 'sise'. Did you mean 'size'?" in capsys.readouterr().err
    assert main(["plan", *STREAM, f"mine:{data}x"]) == 2
    assert f"There is no file {data}x; give a file with a brightness on each line." in capsys.readouterr().err
    assert main(["plan", *STREAM, str(data)]) == 2
    assert f"For these data, write mine:{data}." in capsys.readouterr().err
    assert main(["plan", *STREAM, "mime:x"]) == 2
    assert "There is no data source 'mime'. Did you mean 'mine'?" in capsys.readouterr().err
    assert "loads_mine.data.mine" not in sys.modules


def test_its_path_is_told_apart_from_its_options(plugin, data):
    (plugin / "mine.py").write_text(MINE)
    assert anchored(f"mine:{data}:size=32") == (f"mine:{data}:size=32", str(data.parent), "mine")
    assert paths_in(f"mine:{data}:size=32") == [str(data)]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ('PREFIX = "mine"\nLOADER = Loader(PREFIX)', "line 2 declares LOADER otherwise than written out"),
        ('LOADER = Loader("mine", opens="file")', "line 1 declares LOADER otherwise than written out"),
        ('LOADER = "mine"', "line 1 declares LOADER otherwise than written out"),
        ('LOADER = Loader("Mine:")', "declares the prefix 'Mine:'; take small letters"),
        ('LOADER = Loader("mine", reads="disk")', "declares reads='disk'; write 'file' or 'folder'"),
        ("def load(", "is not valid Python"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_named_with_its_place(declared, said, plugin):
    (plugin / "mine.py").write_text(declared)
    with pytest.raises(UserError, match=r"mine\.py") as refused:
        data_loaders.loader_files()
    assert said in str(refused.value)


def test_a_loader_without_load_and_two_of_one_prefix_are_refused(plugin):
    (plugin / "mine.py").write_text('LOADER = Loader("mine")\n')
    with pytest.raises(UserError, match="defines no function `load`"):
        open_source("mine")
    (plugin / "other.py").write_text('LOADER = Loader("mine")\n')
    with pytest.raises(UserError, match=r"mine\.py and .*other\.py both load 'mine'; uninstall one of them"):
        open_source("mine")
    assert len(open_source("digits").train) > 1000


def test_ours_are_found_from_a_source_tree(monkeypatch):
    monkeypatch.setattr(discovery, "entry_points", lambda group: [])
    found = {each.loader.prefix: each for each in data_loaders.loader_files()}
    assert list(found) == ["csv", "digits", "glyphs", "imagefolder", "json", "torchvision"]
    assert all(each.summary for each in found.values())
    assert [found[name].subject for name in found] == ["path", None, None, "path", "path", "which"]

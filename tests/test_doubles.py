"""What is there twice is told before a run: in training and test, under two labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from cl_framework.streams.survey import unwatched
from scenarios.class_incremental import ClassIncremental
from scenarios.data.doubles import alike, duplicate_warnings
from scenarios.data.open import open_source
from scenarios.data.source import Pictures, Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 3 + 2 files, all different and of one size; nothing decodes them here."""
    for name in ("ant", "bee"):
        for split, n in (("train", 3), ("test", 2)):
            for i in range(n):
                file = tmp_path / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(f"{name} {split} {i}".ljust(20_000).encode())
    return tmp_path


def test_different_files_of_one_size_are_no_doubles(folder: Path):
    (folder / "train" / "ant" / "0.png").write_bytes(b"x" * 9000 + b"a" + b"x" * 9000)
    (folder / "train" / "bee" / "0.png").write_bytes(b"x" * 9000 + b"b" + b"x" * 9000)
    source = open_source(f"imagefolder:{folder}")
    assert alike(source) == []
    assert duplicate_warnings(source) == []


def test_a_file_in_training_and_test_and_one_under_two_labels_are_named(folder: Path):
    ant, bee = folder / "train" / "ant", folder / "train" / "bee"
    shutil.copy(ant / "0.png", folder / "test" / "ant" / "9.png")
    shutil.copy(ant / "1.png", bee / "9.png")
    both, torn = duplicate_warnings(open_source(f"imagefolder:{folder}"))
    assert both.startswith("The training split shares 1 image with the test split")
    assert f"{ant / '0.png'} (ant) = {folder / 'test' / 'ant' / '9.png'} (ant)" in both
    assert torn.startswith("Two labels are given to 1 image:")
    assert f"{ant / '1.png'} (ant) = {bee / '9.png'} (bee)" in torn


def test_names_of_classes_that_differ_only_in_how_they_are_written_are_told(tmp_path: Path):
    rows = "".join(f"{i} {c},{c}\n" for c in ("Block card", "block_card", "pay") for i in range(3))
    (tmp_path / "t.csv").write_text(f"text,label\n{rows}")
    (told,) = duplicate_warnings(open_source(f"csv:{tmp_path / 't.csv'}"))
    assert told.startswith("Names of classes differ only in case or spaces: 'Block card' = 'block_card';")


def test_many_doubles_are_counted_and_three_are_named(folder: Path):
    for i in range(5):
        (folder / "train" / "ant" / f"d{i}.png").write_bytes(f"double {i}".encode())
        (folder / "test" / "ant" / f"d{i}.png").write_bytes(f"double {i}".encode())
    (told,) = duplicate_warnings(open_source(f"imagefolder:{folder}"))
    assert "shares 5 images" in told
    assert (told.count(" = "), ", ...;" in told) == (3, True)


def test_sentences_and_pictures_in_memory_are_compared_too(tmp_path: Path):
    parts = {"train": [["pay", "a"], ["block", "b"], ["block", "a"]], "test": [["pay", "a"], ["else", "b"]]}
    (tmp_path / "t.json").write_text(json.dumps(parts))
    both, torn = duplicate_warnings(open_source(f"json:{tmp_path / 't.json'}"))
    assert "'pay' (a) = 'pay' (a)" in both
    assert "'block' (b) = 'block' (a)" in torn
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 2, 2)
    (told,) = duplicate_warnings(
        Source("mine", Pictures("train", images, [0] * 4), Pictures("test", images[2:3], [0]), ("a",))
    )
    assert "train sample 2 (a) = test sample 0 (a)" in told


def test_a_stream_is_warned_of_before_it_begins(folder: Path):
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        Image.new("RGB", (3, 3), (i, 0, 0)).save(file)
    shutil.copy(folder / "train" / "ant" / "0.png", folder / "test" / "ant" / "9.png")
    stream = ClassIncremental(f"imagefolder:{folder}", increment=1)
    found = stream.survey(unwatched)
    assert "shares 1 image" in found.warnings[0]
    assert found.unreadable == []


def test_embedded_data_have_no_doubles():
    for name in ("digits", "glyphs:classes=5"):
        assert ClassIncremental(name).survey(unwatched).warnings == []

"""Tables as people have them: other names of columns, other separators, splits by many names, mistakes at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cl_framework.errors import UserError
from scenarios.data.open import open_source
from scenarios.data.source import Source

SENTENCES = [(f"{c} {i}", c) for i in range(4) for c in ("pay", "block")]


def table(file: Path, head: str, rows: list[tuple[str, ...]], between: str = ",") -> Path:
    file.write_text("\n".join([head, *(between.join(row) for row in rows)]), encoding="utf-8")
    return file


def told(source: Source) -> set[tuple[str, str]]:
    parts = (source.train, source.test)
    return {(s, source.class_names[c]) for p in parts for s, c in zip(p.sentences, p.labels.tolist(), strict=True)}


@pytest.mark.parametrize("head", ["text,category", "Utterance,Intent", "sentence,class", " query , label "])
def test_public_names_of_columns_are_known(tmp_path: Path, head: str):
    assert told(open_source(f"csv:{table(tmp_path / 't.csv', head, SENTENCES)}")) == set(SENTENCES)


@pytest.mark.parametrize(("between", "name"), [(";", "t.csv"), ("\t", "t.csv"), ("\t", "t.tsv"), ("|", "t.txt")])
def test_what_stands_between_columns_is_found_out(tmp_path: Path, between: str, name: str):
    file = table(tmp_path / name, between.join(("text", "category")), SENTENCES, between)
    assert told(open_source(f"csv:{file}")) == set(SENTENCES)
    file.write_text(f"\ufeffsep={between}\r\n" + file.read_text())
    assert told(open_source(f"csv:{file}")) == set(SENTENCES)


def test_columns_are_named_as_options(tmp_path: Path):
    rows = [(str(i), t, "x", c) for i, (t, c) in enumerate(SENTENCES)]
    file = table(tmp_path / "t.csv", "no,what they said,label,topic", rows)
    assert told(open_source(f"csv:{file}:text=what they said,label=topic")) == set(SENTENCES)
    with pytest.raises(UserError, match=r"no column 'topics' to take as label. Did you mean 'topic'"):
        open_source(f"csv:{file}:text=what they said,label=topics")
    (tmp_path / "r.json").write_text(json.dumps([{"said": t, "topic": c} for t, c in SENTENCES]))
    assert told(open_source(f"json:{tmp_path / 'r.json'}:text=said,label=topic")) == set(SENTENCES)
    (tmp_path / "r.json").write_text(json.dumps([{"utterance": t, "intent": c} for t, c in SENTENCES]))
    assert told(open_source(f"json:{tmp_path / 'r.json'}")) == set(SENTENCES)


def test_images_may_stand_in_a_column_of_another_name(tmp_path: Path):
    for i in range(4):
        Image.new("RGB", (3, 3)).save(tmp_path / f"{i}.png")
    file = table(tmp_path / "t.csv", "filename;class", [(f"{i}.png", "ab"[i % 2]) for i in range(4)], ";")
    assert open_source(f"csv:{file}").class_names == ("a", "b")
    file = table(tmp_path / "t.csv", "photo,kind", [(f"{i}.png", "ab"[i % 2]) for i in range(4)])
    assert len(open_source(f"csv:{file}:image=photo,label=kind").train) == 2


def test_quoted_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path):
    (tmp_path / "t.csv").write_text(
        '\ufefftext,label\r\n"two\nlines, and ""quotes""",a\r\nmore,a\r\n', encoding="utf-8"
    )
    assert told(open_source(f"csv:{tmp_path / 't.csv'}")) == {('two\nlines, and "quotes"', "a"), ("more", "a")}


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev"])
def test_validation_is_the_exam_where_there_is_no_test(tmp_path: Path, name: str):
    rows = [(t, c, name if t.endswith("3") else "TRAIN") for t, c in SENTENCES]
    source = open_source(f"csv:{table(tmp_path / 't.csv', 'text,label,split', rows)}")
    assert set(source.test.sentences) == {"pay 3", "block 3"}
    rows[4:6] = [(t, c, "test") for t, c, _ in rows[4:6]]
    source = open_source(f"csv:{table(tmp_path / 't.csv', 'text,label,split', rows)}")
    assert set(source.test.sentences) == {"pay 2", "block 2"}
    assert len(source.train) == 4
    parts = {"train": SENTENCES[:4], name.lower(): SENTENCES[4:]}
    (tmp_path / "r.json").write_text(json.dumps(parts))
    assert len(open_source(f"json:{tmp_path / 'r.json'}").test) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,kind\na,x\n", "no column 'label', only 'text', 'kind'; line 1 must name"),
        ("a,b\n1,2\n", "no column 'path' or 'text', only 'a', 'b'"),
        ("text,intent,category\na,x,y\n", "'intent', 'category', which may all be the label; .* :label=intent"),
        ("text,label,label\na,x,y\n", "names the column 'label' twice"),
        ("", "is empty; line 1 must name"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("text,label\na,cat\nb,dog\nc,cat|dog\n", r"line 4: the label 'cat\|dog' names several classes"),
        ('text,label\na,"[3, 4]"\n', r"line 2: the label '\[3, 4\]' names several classes"),
        ('text,label\na,"[\'cat\']"\n', r"line 2: the label .* is a list"),
        ("text,rude,odd\na,0,1\nb,1,0\n", "'rude', 'odd' hold only 0 and 1: samples with several labels"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_columns_and_labels_is_told(tmp_path: Path, content: str, message: str):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        open_source(f"csv:{tmp_path / 't.csv'}")


def test_a_label_that_only_looks_like_several_is_one(tmp_path: Path):
    rows = [(f"{i}", c) for i in range(4) for c in ("R/D", "a, b", "x|y")]
    file = table(tmp_path / "t.csv", "text;label", rows, ";")
    assert open_source(f"csv:{file}").class_names == ("R/D", "a, b", "x|y")


def test_records_of_several_labels_are_refused(tmp_path: Path):
    (tmp_path / "r.json").write_text(json.dumps([{"text": "a", "label": ["x", "y"]}]))
    with pytest.raises(UserError, match=r"record 1: the label .* names several classes"):
        open_source(f"json:{tmp_path / 'r.json'}")


def test_all_bad_rows_are_named_at_once_and_may_be_left_out(tmp_path: Path):
    bad = [("", "pay"), ("no label", ""), ("more, much, more", "pay"), *[(" ", "block")] * 30]
    file = table(tmp_path / "t.csv", "text,label", [*SENTENCES, *bad])
    with pytest.raises(UserError) as refused:
        open_source(f"csv:{file}")
    lines = str(refused.value).splitlines()
    assert lines[0].startswith("33 samples cannot be read; ")
    assert "--skip_unreadable" in lines[0]
    assert "line 12: 2 more than the 2 columns" in str(refused.value)
    assert len(lines) == 22
    assert lines[-1] == "  ... and 13 more"
    faults: list[str] = []
    assert told(open_source(f"csv:{file}", faults)) == set(SENTENCES)
    assert len(faults) == 33


def test_a_class_whose_rows_are_all_bad_is_told_with_them(tmp_path: Path):
    file = table(tmp_path / "t.csv", "text,label,split", [("a", "x", "train"), ("", "y", "train"), ("b", "y", "test")])
    with pytest.raises(UserError, match=r"line 4: class 'y' has no training[^$]*line 3: the text is missing"):
        open_source(f"csv:{file}")


def test_single_rows_are_learned_without_an_exam(tmp_path: Path):
    source = open_source(f"csv:{table(tmp_path / 't.csv', 'text,label', [*SENTENCES, ('alone', 'z')])}")
    assert source.unexamined == ["z"]
    assert torch.bincount(source.train.labels).tolist() == [3, 3, 1]

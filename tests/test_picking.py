"""What a person may write to name samples: ids, places, paths, names, folders, patterns, lines, columns, files."""

import json
import re
from hashlib import sha256

import pytest

from cl_framework.errors import UserError
from cl_framework.operations import request_file
from cl_framework.operations.known_samples import Known
from cl_framework.operations.picking import pick
from cl_framework.operations.spellings import translated
from cl_framework.streams.sample_list import ListedSource, SplitRows, forget_rows

KEY = b"k" * 32
PLACES = ["train/cat/1.png", "train/cat/2 (copy).png", "train/dog/1.png", "train/dog/[3].png"]
USERS = ["alice", "bob", "alice", "carol"]


def rows(places, split="train", first=0, columns=()):
    return SplitRows(
        split=split,
        ids=list(range(first, first + len(places))),
        labels=[0] * len(places),
        places=list(places),
        digests=[f"digest of {p}" for p in places],
        experiences=[0] * len(places),
        columns=list(columns),
    )


def source(root, train, test=(), files=True, **more):
    return ListedSource(
        name="imagefolder", spec="", root=str(root), kind="pictures", files=files, class_names=["animal"],
        groups=[[0]], fingerprint="", train=train, test=rows(test, "test"), experiences=["task-0"], **more,
    )  # fmt: skip


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pets").mkdir()
    return tmp_path / "pets"


@pytest.fixture
def known(root, tmp_path):
    pictures = source(root, rows(PLACES), ["test/cat/9.png"])
    lines = [f"said.csv, line {n}" for n in (2, 3, 4)]
    columns = [{"user": u, "age": "7"} for u in USERS[:3]]
    table = source(tmp_path, rows([*lines, "said.json, train, record 4"], columns=[*columns, {}]), files=False)
    table.offset = 100
    return Known([pictures, None, table], KEY, "RUN")


@pytest.mark.parametrize(
    ("word", "ids"),
    [
        ("2", [2]),
        ("id:102", [102]),
        ("7777", [7777]),  # one stream has no list: whether it was ever learned is asked of the stream
        ("train/cat/1.png", [0]),
        ("./train/cat/1.png", [0]),
        ("ROOT/train/dog/1.png", [2]),
        ("ROOT/../pets/train/dog/1.png", [2]),
        ("2 (copy).png", [1]),
        ("dog/1.png", [2]),
        ("train/dog/[3].png", [3]),  # a place is taken before a pattern
        ("train/dog", [2, 3]),
        ("ROOT/train/cat/", [0, 1]),
        ("train/*/1.png", [0, 2]),
        ("train/*.png", None),
        ("**/1.png", [0, 2]),
        ("1.*", [0, 2]),  # a pattern without a folder fits names
        ("ROOT/**", [0, 1, 2, 3]),
        ("said.csv, line 3", [101]),
        ("said.csv:3", [101]),
        ("somewhere/said.csv:3", [101]),
        ("said.csv, line *", [100, 101, 102]),
        ("said.json, train, record 4", [103]),
    ],
)
def test_a_word_names_samples(word, ids, known, root):
    word = word.replace("ROOT", str(root))
    if ids is None:
        with pytest.raises(UserError, match=r"pattern .* fits no sample"):
            known.ids(word)
    else:
        assert known.ids(word) == ids


def test_a_path_is_taken_as_it_is_seen_from_here(known, root, monkeypatch):
    (root / "train").mkdir()
    monkeypatch.chdir(root / "train")
    assert known.ids("dog/1.png") == [2]
    assert known.ids("../train/cat/1.png") == [0]
    assert known.ids("*/1.png") == [0, 2]
    (root.parent / "link").symlink_to(root)
    monkeypatch.chdir(root.parent)
    assert known.ids("link/train/dog/1.png") == [2]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nowhere.txt", "'nowhere.txt' is no file, id, name or pattern of a sample; `clf list samples RUN` lists them"),
        ("1.png", "pets/train/cat/1.png (id 0), "),
        ("x*.png", "The pattern 'x*.png' fits no sample that is not forgotten; `clf list samples RUN` lists them"),
        ("test/cat/9.png", "'test/cat/9.png' is a test sample, from which the run learned nothing"),
        ("99999999999999999999", "too large for a sample's id"),
        (".", "All data lie below '.'; to name every sample write 'ROOT/**'"),
    ],
)
def test_a_word_that_names_none_or_several_is_refused(word, message, known, root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match=re.escape(message.replace("ROOT", str(root)))):
        pick(known, [word])


def test_the_same_place_below_two_roots_is_told_apart_by_its_whole_path(root, tmp_path):
    other = source(tmp_path / "more", rows(PLACES[:1]), offset=50)
    known = Known([source(root, rows(PLACES)), other], KEY)
    both = rf"could be {root}/{PLACES[0]} \(id 0\), {tmp_path}/more/{PLACES[0]} \(id 50\); give the whole path"
    with pytest.raises(UserError, match=both):
        known.ids(PLACES[0])
    assert [known.ids(str(r / PLACES[0])) for r in (root, tmp_path / "more")] == [[0], [50]]


def test_a_forgotten_file_is_found_by_its_path_as_long_as_the_key_is_there(root):
    pictures = source(root, rows(PLACES))
    forget_rows(pictures, {2}, set(), KEY)
    assert "dog/1" not in str(pictures)
    for word in (PLACES[2], str(root / PLACES[2])):
        assert Known([pictures], KEY).ids(word) == [2]
    with pytest.raises(UserError, match="is no file, id, name"):
        Known([pictures]).ids(PLACES[2])
    assert Known([pictures], KEY).ids("2") == [2]
    with pytest.raises(UserError, match=r"The run learned from no sample 4; `clf list samples RUN` lists them"):
        Known([pictures], KEY).ids("4")
    assert Known([pictures], KEY).ids("train/dog") == [3]


def test_without_a_list_only_ids_are_known():
    known = Known([None], KEY, "RUN")
    assert known.ids("3") == [3]
    with pytest.raises(UserError, match=r"RUN keeps no list of its samples, so that 'a.png' finds none; give ids"):
        known.ids("a.png")


def test_columns_name_rows_and_narrow_down(known):
    assert pick(known, [], ["user=alice"]).ids == [100, 102]
    assert pick(known, ["said.csv:2", "said.csv:3"], ["user=alice", "age=7"]).ids == [100]
    for conditions, message in (
        (["user"], "takes COLUMN=VALUE, such as user=alice; found 'user'"),
        (["usr=alice"], "has a column 'usr'. Did you mean 'user'?"),
        (["user=dora"], "No sample that is not forgotten has user=dora"),
        (["user=alice", "age=8"], "has age=8"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            pick(known, [], conditions)
    with pytest.raises(UserError, match="--samples names has user=bob; give one of the two"):
        pick(known, ["said.csv:2"], ["user=bob"])


def test_a_file_of_requests_holds_ids_paths_patterns_and_who_asked(known, tmp_path):
    file = tmp_path / "asked.txt"
    file.write_text("# by mail\n3, 2 id:0\n\ntrain/cat/2 (copy).png\nsaid.csv:*\n".replace(":*", ", line *"))
    assert pick(known, [str(file)]).ids == [3, 2, 0, 1, 100, 101, 102]
    file.write_text("ann\ttrain/cat/1.png\nben\tsaid.csv:3\nann\t2\n17\n")
    assert pick(known, [str(file), "3"]).ids == [0, 101, 2, 17, 3]
    assert pick(known, [str(file)]).who == {"ann": [0, 2], "ben": [101]}
    file.write_text("\ufeffRequester, Samples\n1001, 3\n1002,train/cat/2 (copy).png\n")
    assert pick(known, [str(file)]).who == {"1001": [3], "1002": [1]}
    told = [{"requester": "ann", "where": {"user": "alice"}}, {"requester": 8, "samples": ["1.*", 3]}, {"samples": 2}]
    file.write_text("\n".join(map(json.dumps, told)))
    assert pick(known, [str(file)]).who == {"ann": [100, 102], "8": [0, 2, 3]}
    assert pick(known, [str(file)], ["user=alice"]).who == {"ann": [100, 102], "8": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train/cat/1.png\nnone.png\n", "asked.txt, line 2: 'none.png' is no file, id"),
        ("asked.txt", "asked.txt, line 1: 'asked.txt' is no file, id"),  # no file within a file
        ("# nothing\n", "names no sample; write ids or paths"),
        ("requester;sample\nann 3\n", "line 2: 'ann 3' has no ';'"),
        ("ann\t\n", "is no file, id, name"),
        ("requester,sample\nann,\n", "line 2: 'ann' names no sample"),
        ('{"samples": ', "line 1 is no valid JSON"),
        ('{"sample": 3}', "line 1 has a key 'sample'; an object has 'requester', 'samples', 'where'"),
        ('{"requester": "ann"}', "names no sample; give 'samples' or 'where'"),
        ('{"samples": [[1]]}', "samples are ids and paths"),
        ('{"where": {"user": "dora"}}', "line 1: No sample that is not forgotten has user=dora"),
        ("\x89PNG\udcff", "is no sample that the run learned, and no text that names some"),
    ],
)
def test_a_file_that_is_no_request_is_refused_by_line(text, message, known, tmp_path):
    file = tmp_path / "asked.txt"
    file.write_bytes(text.encode("latin-1", "surrogateescape") if "\udcff" in text else text.encode())
    with pytest.raises(UserError, match=re.escape(message)):
        pick(known, [str(file)])


def test_a_quoted_place_in_a_file_of_requests_is_one(known, tmp_path):
    file = tmp_path / "asked.csv"
    file.write_text(
        'requester,sample\nben,"said.csv, line 3"\n"smith, ann", "train/cat/2 (copy).png"\nben,said.csv, line 2\n'
    )
    assert pick(known, [str(file)]).who == {"ben": [101, 100], "smith, ann": [1]}


def test_a_picture_under_another_name_is_found_by_its_content(root, tmp_path):
    listed = rows(PLACES)
    listed.digests[:] = [sha256(b"one").hexdigest(), sha256(b"two").hexdigest(), *[sha256(b"same").hexdigest()] * 2]
    known = Known([source(root, listed)], KEY, "RUN")
    renamed = tmp_path / "renamed.png"
    renamed.write_bytes(b"two")
    assert known.ids(str(renamed)) == [1]
    renamed.write_bytes(b"same")
    with pytest.raises(
        UserError, match=r"renamed.png' could be .*dog/1.png \(id 2\), .*dog/\[3\].png \(id 3\); give the"
    ):
        known.ids(str(renamed))
    renamed.write_bytes(b"other")
    with pytest.raises(UserError, match="is no file, id, name"):
        known.ids(str(renamed))


def test_rows_that_were_forgotten_are_told_to_be_found_by_no_line(tmp_path):
    table = source(tmp_path, rows(["said.csv, line 2", "said.csv, line 3"]), files=False)
    forget_rows(table, {1}, set(), KEY)
    with pytest.raises(UserError, match=r"said.csv:3' is no file, .* of a sample that is not forgotten; `clf"):
        Known([table], KEY).ids("said.csv:3")


def test_many_words_are_looked_up_in_little_time(root, tmp_path):
    places = [f"train/{i % 100}/{i}.png" for i in range(20_000)]
    known, file = Known([source(root, rows(places))], KEY), tmp_path / "asked.txt"
    file.write_text("\n".join(places[:5_000]) + "\n" + "\n".join(f"{i}.png" for i in range(15_000, 16_000)))
    assert len(pick(known, [str(file)]).ids) == 6_000


def test_stars_stay_in_a_folder():
    assert not re.fullmatch(translated("train/*"), "train/cat/1.png")
    assert re.fullmatch(translated("train/[!d]*/?.png"), "train/cat/1.png")
    assert request_file.IDS.fullmatch("1, 2;id:3")

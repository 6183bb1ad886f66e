"""Data sources: what they hold, that they repeat, and what is said when a picture, a class or a label is wrong."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cl_framework.errors import UserError
from scenarios.data import glyphs
from scenarios.data.open import open_source
from scenarios.data.source import Pictures, Source, View, stratified
from scenarios.pictures.decode import read_image
from scenarios.pictures.transforms import Pilot, Plain

ROOT = Path(__file__).parents[1]


def script(name: str):
    """Import a file of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def paint(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
    """Write a small coloured image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255 - value)).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """An image folder with train/ and test/: classes ant (3 + 2 images) and bee (2 + 1)."""
    for split, counts in (("train", {"bee": 2, "ant": 3}), ("test", {"ant": 2, "bee": 1})):
        for name, n in counts.items():
            for i in range(n):
                paint(tmp_path / split / name / f"{i}.png", 10 * i)
    return tmp_path


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_split_by_class_with_thirty_percent_for_testing():
    source = open_source("digits")
    assert (len(source.train), len(source.test)) == (1257, 540)
    held, learned = torch.bincount(source.test.labels), torch.bincount(source.train.labels)
    share = held / (held + learned)
    assert (share - 0.3).abs().max() < 0.01
    assert source.train.images.dtype == torch.uint8
    assert (int(source.train.images.min()), int(source.train.images.max())) == (0, 255)
    assert source.train.ids.tolist() == list(range(1257))


def test_digits_repeat_for_a_seed_and_differ_between_seeds():
    assert open_source("digits").fingerprint == open_source("digits:seed=0").fingerprint
    assert open_source("digits:seed=1").fingerprint != open_source("digits").fingerprint


def test_no_digit_is_both_learned_and_examined():
    source = open_source("digits")
    rows = torch.cat([source.train.images, source.test.images]).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)


# --- glyphs ---------------------------------------------------------------------------------------------------------


def test_a_glyph_picture_does_not_depend_on_how_many_are_asked_for():
    small = open_source("glyphs:classes=2,train=3,test=2")
    large = open_source("glyphs:classes=4,train=45,test=5")
    assert small.class_names == large.class_names[:2]
    for split in ("train", "test"):
        few, many = getattr(small, split), getattr(large, split)
        for c in range(2):
            part = few.images[few.labels == c]
            assert torch.equal(part, many.images[many.labels == c][: len(part)])


def test_glyphs_repeat_for_a_seed_and_differ_between_seeds_and_splits():
    first = glyphs.load.__wrapped__(classes=2, train=4, test=4)
    again = glyphs.load.__wrapped__(classes=2, train=4, test=4)
    other = glyphs.load.__wrapped__(classes=2, train=4, test=4, seed=1)
    assert first.fingerprint == again.fingerprint
    assert first.class_names == other.class_names
    assert not torch.equal(first.train.images, other.train.images)
    assert not torch.equal(first.train.images, first.test.images)


def test_glyph_characters_are_many_distinct_and_apart_from_pre_training():
    chosen = json.loads((ROOT / "scenarios" / "data" / "glyphs.json").read_text(encoding="utf-8"))
    assert len(set(chosen["stream"])) == len(chosen["stream"]) >= 300
    assert not set(chosen["stream"]) & set("".join(chosen["pretrain"]))
    assert sorted(glyphs.characters()) == sorted(chosen["stream"])


def test_no_two_sampled_glyphs_look_alike_and_none_looks_like_a_digit_or_a_pre_training_glyph():
    choose = script("choose_glyphs")
    chosen = json.loads((ROOT / "scenarios" / "data" / "glyphs.json").read_text(encoding="utf-8"))
    bound = choose.ALIKE + 1e-3
    stream = choose.descriptors(choose.masks(glyphs.characters()[:60]))
    assert choose.alike(stream, stream).fill_diagonal_(0).max() <= bound
    digits = choose.masks(list("0123456789"))
    upright = choose.masks(list(chosen["pretrain"][0])[::15])
    turned = np.rot90(choose.masks(list(chosen["pretrain"][1])[::15]), 1, (1, 2))
    for other in (digits, upright, turned):
        assert choose.alike(stream, choose.descriptors(other)).max() <= bound
    assert choose.alike(choose.descriptors(digits), choose.descriptors(turned)).max() <= bound


def test_glyphs_refuse_more_classes_than_there_are():
    with pytest.raises(UserError, match="1 to 400 classes, found classes=401"):
        open_source("glyphs:classes=401")


# --- folders and tables ---------------------------------------------------------------------------------------------


def test_an_image_folder_with_train_and_test_keeps_its_split(folders: Path):
    source = open_source(f"imagefolder:{folders}")
    assert source.class_names == ("ant", "bee")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert source.test.labels.tolist() == [0, 0, 1]
    batch = View(source.train, Plain(size=8).test())[[4, 1]]
    assert batch.x.shape == (2, 3, 8, 8)
    assert (batch.y.tolist(), batch.ids.tolist()) == ([1, 0], [4, 1])
    assert torch.allclose(batch.x[0, :, 0, 0], torch.tensor([10.0, 0.0, 245.0]) / 255)
    with pytest.raises(UserError, match=r"has a test split of its own; leave out the option test=0\.3"):
        open_source(f"imagefolder:{folders}:test=0.3")


@pytest.mark.parametrize(
    ("names", "exam"),
    [
        (("Train", "TEST"), "TEST"),
        (("TRAIN", "valid"), "valid"),
        (("training", "Validation"), "Validation"),
        (("train", "dev"), "dev"),
        (("train", "val", "test"), "test"),
    ],
)
def test_the_folders_of_splits_are_known_by_many_names(tmp_path: Path, names: tuple[str, ...], exam: str):
    for i, name in enumerate(names):
        paint(tmp_path / name / "ant" / f"{i}.png")
    source = open_source(f"imagefolder:{tmp_path}")
    assert source.train.images == (tmp_path / names[0] / "ant" / "0.png",)
    assert [p.parents[1].name for p in source.test.images] == [exam]


def test_a_class_called_train_or_valid_is_a_class(tmp_path: Path):
    for name in ("train", "plane", "valid"):
        for i in range(2):
            paint(tmp_path / name / f"{i}.png")
    assert open_source(f"imagefolder:{tmp_path}").class_names == ("plane", "train", "valid")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "Train", "test"), "has Train/ and train/; keep one"),
        (("valid", "test"), "has test/ but no train/"),
        (("Train",), "has Train/ but no test/.*, or hold out a fifth of imagefolder:.*Train"),
        (("train", "eval"), "has eval/ and train/ but no test/"),
        (("pictures/ant", "pictures/bee"), "pictures is no class, as it holds ant/, bee/; give imagefolder:.*pictures"),
        (("a/train", "a/test", "b/train", "b/test"), "a is no class, as it holds test/, train/; give imagefolder"),
        (("train/data/x", "test/data/x"), "train/data is no class, as it holds x/"),
    ],
)
def test_splits_that_cannot_be_told_are_refused(tmp_path: Path, names: tuple[str, ...], message: str):
    for name in names:
        paint(tmp_path / name / "ant" / "0.png")
    with pytest.raises(UserError, match=message):
        open_source(f"imagefolder:{tmp_path}")


def test_pictures_of_a_class_may_lie_in_deeper_folders(tmp_path: Path):
    for name in ("ant/first", "ant/second", "bee/first", "bee"):
        paint(tmp_path / name / "0.png")
    source = open_source(f"imagefolder:{tmp_path}")
    assert source.class_names == ("ant", "bee")
    assert len(source.train) + len(source.test) == 4


def test_what_file_systems_leave_behind_is_no_data(folders: Path):
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", ".thumbs/0.png", "__MACOSX/0.png", "@eaDir/0.jpg"):
        file = folders / "train" / "ant" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"no picture")
    for name in ("__MACOSX", ".hidden"):
        paint(folders / name / "0.png")
        paint(folders / "train" / name / "0.png")
    for suffix in ("jfif", "JPG", "avif", "heic"):
        (folders / "train" / "ant" / f"5.{suffix}").write_bytes(b"opened later")
    source = open_source(f"imagefolder:{folders}")
    assert source.class_names == ("ant", "bee")
    found = [p.name for p in source.train.images[:7]]
    assert found == ["0.png", "1.png", "2.png", "5.JPG", "5.avif", "5.heic", "5.jfif"]


def test_a_folder_of_classes_is_split_the_same_way_every_time(tmp_path: Path):
    for name, n in (("ant", 10), ("bee", 4)):
        for i in range(n):
            paint(tmp_path / name / f"{i}.png", i)
    source, again = (open_source(f"imagefolder:{tmp_path}:test=0.3") for _ in range(2))
    assert torch.bincount(source.test.labels).tolist() == [3, 1]
    assert source.test.images == again.test.images
    assert set(source.train.images) | set(source.test.images) == set(tmp_path.rglob("*.png"))
    assert not set(source.train.images) & set(source.test.images)
    assert open_source(f"imagefolder:{tmp_path}:test=0.3,seed=1").test.images != source.test.images


def test_a_table_gives_paths_labels_and_splits(tmp_path: Path):
    for i in range(6):
        paint(tmp_path / "pictures" / f"{i}.png", i)
    lines = [f"pictures/{i}.png,{(10, 9)[i % 2]},{'test' if i > 3 else 'train'}" for i in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *lines]))
    source = open_source(f"csv:{tmp_path / 't.csv'}")
    assert source.class_names == ("9", "10")
    assert source.train.labels.tolist() == [1, 0, 1, 0]
    assert [p.name for p in source.test.images] == ["4.png", "5.png"]


def test_a_table_without_splits_is_split_here(tmp_path: Path):
    lines = [f"{paint(tmp_path / f'{i}.png', i)},{'ab'[i % 2]}" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *lines]))
    source = open_source(f"csv:{tmp_path / 't.csv'}:test=0.25")
    assert torch.bincount(source.test.labels).tolist() == [1, 1]
    assert torch.bincount(source.train.labels).tolist() == [3, 3]


def test_paths_of_a_table_may_be_those_of_windows(tmp_path: Path):
    lines = [f"{paint(tmp_path / 'in' / f'{i}.png', i).name},{'ab'[i % 2]}" for i in range(4)]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join("in\\" + line for line in lines))
    source = open_source(f"csv:{tmp_path / 't.csv'}")
    assert {p.name for p in (*source.train.images, *source.test.images)} == {f"{i}.png" for i in range(4)}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("photo,label\n0.png,a", "no column 'path' or 'text', only 'photo', 'label'"),
        ("path,label\n0.png,\n", "line 2: the label is missing"),
        ("path,label\n0.png,nan\n", "line 2: the label is missing"),
        ("path,label\n0.png,a\ngone.png,a\n", "line 3: the image .*gone.png does not exist"),
        ("path,label,split\n0.png,a,held\n", "line 2: split is 'held'"),
        ("path,label,split\n0.png,a,train\n0.png,b,test\n", "line 3: class 'b' has no training images"),
        ("path,label,split\n0.png,a,train\n", "has no test images of any class"),
    ],
)
def test_a_faulty_table_is_reported_by_line(tmp_path: Path, table: str, message: str):
    paint(tmp_path / "0.png")
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        open_source(f"csv:{tmp_path / 't.csv'}")


# --- torchvision ----------------------------------------------------------------------------------------------------


def idx(path: Path, array: np.ndarray) -> None:
    """Write an array in MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_a_torchvision_set_in_memory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for split, n in (("train", 20), ("t10k", 10)):
        idx(tmp_path / f"MNIST/raw/{split}-images-idx3-ubyte", np.full((n, 28, 28), 7, np.uint8))
        idx(tmp_path / f"MNIST/raw/{split}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    source = open_source("torchvision:MNIST")
    assert source.train.images.shape == (20, 1, 28, 28)
    assert source.test.labels.tolist() == list(range(10))
    assert len(source.class_names) == 10
    assert View(source.test, Plain().test())[[3]].x.shape == (1, 3, 32, 32)


def test_a_torchvision_set_in_files_is_not_decoded_before_it_is_read(tmp_path: Path):
    for split in ("train", "test"):
        for c in ("AD", "BR"):
            paint(tmp_path / "country211" / split / c / "0.png")
    (tmp_path / "country211" / "valid").mkdir()
    source = open_source(f"torchvision:Country211:root={tmp_path}")
    assert source.class_names == ("AD", "BR")
    assert [p.parent.name for p in source.test.images] == ["AD", "BR"]


def test_missing_torchvision_files_are_never_fetched_unasked(tmp_path: Path):
    with pytest.raises(UserError, match=r"CIFAR100 are not complete under .*download=true.*CLF_DATA"):
        open_source(f"torchvision:CIFAR100:root={tmp_path}")
    assert not list(tmp_path.iterdir())


# --- names and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "no data source 'digit'. Did you mean 'digits'"),
        ("digits:sed=1", "no option 'sed'. Did you mean 'seed'"),
        ("digits:seed=x", "found 'x'"),
        ("digits:test=2", "from 0.01 to 0.99; found 2.0"),
        ("digits:here", "takes options such as digits:seed=1, found 'here'"),
        ("imagefolder", "needs a path after a colon"),
        ("imagefolder:/no/such/place", "no folder /no/such/place"),
        ("csv:/no/such/file.csv", "no file /no/such/file.csv"),
        ("csv:tests", "tests is no file; give imagefolder:tests, or a CSV"),
        ("imagefolder:tests/conftest.py", "no folder tests/conftest.py; give the one"),
        ("./tests", "no data source './tests'. For these data, write imagefolder:./tests."),
        ("torchvision:CIFR100", "Did you mean 'CIFAR100'"),
        ("torchvision:Caltech101", "no train and test splits"),
    ],
)
def test_a_mistyped_source_gets_a_helpful_answer(spec: str, message: str):
    with pytest.raises(UserError, match=message):
        open_source(spec)


# --- what can be wrong with pictures --------------------------------------------------------------------------------


def test_a_corrupt_image_is_named(folders: Path):
    whole = (folders / "train" / "ant" / "1.png").read_bytes()
    for content in (b"no image", whole[: len(whole) // 2]):
        (folders / "train" / "ant" / "1.png").write_bytes(content)
        view = View(open_source(f"imagefolder:{folders}").train, Plain().test())
        with pytest.raises(UserError, match=r"Cannot read the image .*ant.1\.png"):
            view[[0, 1]]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"<html>", "no image of a kind that is read"),
        (None, "it is no file, but a folder, a pipe or a device"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS .* `git lfs pull`"),
    ],
)
def test_why_an_image_cannot_be_read_is_said_once_without_its_path(tmp_path: Path, content: bytes | None, why: str):
    file = tmp_path / "x.png"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(UserError, match=rf"Cannot read the image [^()]*x\.png \({why}\)"):
        read_image(file)


def test_an_image_that_vanished_is_named(folders: Path):
    view = View(open_source(f"imagefolder:{folders}").train, Plain().test())
    (folders / "train" / "bee" / "0.png").unlink()
    with pytest.raises(UserError, match=r"bee.0\.png does not exist"):
        view[[3]]


def test_an_empty_class_folder_is_named(folders: Path):
    (folders / "train" / "cat").mkdir()
    with pytest.raises(UserError, match="Class 'cat' is empty"):
        open_source(f"imagefolder:{folders}")


def test_a_class_that_only_the_test_split_spells_so_is_named_beside_the_other(folders: Path):
    (folders / "test" / "ant").rename(folders / "test" / "Ant")
    with pytest.raises(UserError, match=r"class .Ant., which train/ lacks; .* Did you mean .ant."):
        open_source(f"imagefolder:{folders}")


def test_a_class_that_only_the_test_split_has_is_named(folders: Path):
    paint(folders / "test" / "dog" / "0.png")
    with pytest.raises(UserError, match=r"class .dog., which train/ lacks"):
        open_source(f"imagefolder:{folders}")


def test_labels_outside_the_declared_classes_are_refused():
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    good = Pictures("test", images, [0, 1, 1])
    with pytest.raises(UserError, match="classes 0 to 1, but train samples 2 are labelled 7"):
        Source("mine", Pictures("train", images, [0, 1, 7]), good, ("a", "b"))


def test_nan_in_pictures_names_the_sample():
    images = torch.rand(4, 3, 8, 8)
    images[2, 0, 1, 1] = float("nan")
    with pytest.raises(UserError, match="NaN or infinity in train samples 7;"):
        Pictures("train", images, [0, 0, 1, 1], ids=torch.tensor([5, 6, 7, 8]))


def test_nan_in_an_image_file_names_the_file(tmp_path: Path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=r"x\.tiff \(it holds NaN"):
        read_image(tmp_path / "x.tiff")


# --- splits ---------------------------------------------------------------------------------------------------------


def test_validation_never_touches_the_test_split():
    source = open_source("digits")
    held = source.validating(0.2)
    assert len(held.train) + len(held.test) == len(source.train)
    assert torch.equal(torch.cat([held.train.ids, held.test.ids]).sort().values, source.train.ids)
    assert torch.equal(held.test.images, source.train.images[held.test.ids])
    assert held.test.split == "train"
    assert held.fingerprint == source.validating(0.2).fingerprint != source.fingerprint


def test_even_a_small_class_gives_a_picture_and_keeps_one():
    kept, held = stratified(torch.tensor([0] * 50 + [1] * 2), 0.1, 0)
    assert (len(kept), len(held)) == (46, 6)
    kept, held = stratified(torch.tensor([0, 0, 1]), 0.5, 0)
    assert (kept.tolist(), held.tolist()) == ([1, 2], [0]) or (kept.tolist(), held.tolist()) == ([0, 2], [1])
    with pytest.raises(UserError, match="between 0 and 1, found 1"):
        stratified(torch.tensor([0, 0]), 1.0, 0)


def test_fingerprints_of_files_survive_a_move_and_notice_a_change(folders: Path, tmp_path_factory):
    before = open_source(f"imagefolder:{folders}").fingerprint
    moved = folders.rename(tmp_path_factory.mktemp("other") / "place")
    assert open_source(f"imagefolder:{moved}").fingerprint == before
    (moved / "test" / "bee" / "0.png").unlink()
    paint(moved / "test" / "bee" / "1.png")
    assert open_source(f"imagefolder:{moved}").fingerprint != before


# --- transforms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [Plain(), Plain(size=24), Pilot(size=32)], ids=["plain", "plain-24", "pilot"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_inputs_are_square_floats_between_zero_and_one(transform, split: str):
    torch.manual_seed(0)
    batch = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    ragged = [batch[0], torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8)]
    for images in (batch, ragged):
        x = getattr(transform, split)()(images)
        assert x.shape == (len(images), 3, transform.size, transform.size)
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1


@pytest.mark.parametrize("transform", [Plain(), Pilot(size=32)], ids=["plain", "pilot"])
def test_training_varies_each_picture_by_itself_and_tests_treat_each_alike(transform):
    torch.manual_seed(0)
    same = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8).expand(4, -1, -1, -1)
    varied = transform.train()(same)
    assert all(not torch.equal(varied[0], varied[i]) for i in range(1, 4))
    still = transform.test()(torch.cat([same[:1], 255 - same[:3]]))
    assert torch.equal(still[:1], transform.test()(same[:1]))
    torch.manual_seed(7)
    first = transform.train()(same)
    torch.manual_seed(7)
    assert torch.equal(first, transform.train()(same))


def test_plain_neither_flips_nor_loses_the_picture():
    left = torch.zeros(8, 1, 32, 32, dtype=torch.uint8)
    left[..., :16] = 255
    x = Plain().train()(left)
    assert (x[..., 4:28, :10].mean((1, 2, 3)) > 0.9).all()
    assert (x[..., 4:28, 22:].mean((1, 2, 3)) < 0.1).all()
    assert torch.equal(Plain(augment=False).train()(left), Plain().test()(left))


def test_pilot_equals_pillow_on_a_small_picture():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    big = np.array(Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC))[16:240, 16:240]
    x = Pilot().test()([torch.from_numpy(pixels).movedim(-1, 0)])
    assert torch.equal(x[0], torch.from_numpy(big).movedim(-1, 0).float() / 255)


# --- real data ------------------------------------------------------------------------------------------------------


def test_omniglot_unpacks_into_an_image_folder(tmp_path: Path):
    archive = ROOT.parent / "shared" / "data" / "omniglot" / "images_background_small1.zip"
    if not archive.is_file():
        pytest.skip("Omniglot is not beside the repository (../shared/data/omniglot)")
    assert script("prepare_omniglot").prepare(archive, tmp_path) == 2720
    source = open_source(f"imagefolder:{tmp_path}")
    assert len(source.class_names) == 136
    assert (len(source.train), len(source.test)) == (136 * 15, 136 * 5)
    assert {p.stem[-2:] for p in source.test.images} == {"16", "17", "18", "19", "20"}
    assert View(source.test, Plain().test())[[0, 500]].x.shape == (2, 3, 32, 32)

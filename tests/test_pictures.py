"""From files to inputs: batches equal Pillow one by one, and what is kept of files is right, bounded and erasable."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2

from cl_framework.auditing import audit, subjects
from cl_framework.auditing.reference_models import ReferenceTrainer
from cl_framework.auditing.shadow_models import shadow_attack
from cl_framework.engine import loop
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.streams.samples import Joined, Relabelled, Rows, Samples
from scenarios.class_incremental import ClassIncremental
from scenarios.data.open import open_source
from scenarios.data.source import Pictures, View
from scenarios.mixed import Mixed
from scenarios.pictures import resampling
from scenarios.pictures.picture_cache import CachedPictures, cache_folder, cached_pictures, row_mark
from scenarios.pictures.transforms import Fixed, Pilot, Plain, Transform
from scenarios.requests import Request
from scenarios.sample_requests import SampleRequests
from strategies.learning.finetune import Finetune
from strategies.unlearning.retrain import Retrain

GIB = 2**30


def picture(height: int, width: int, seed: int) -> Tensor:
    """Coarse random blots, so that resizing leaves something."""
    rng = torch.Generator().manual_seed(seed)
    blots = torch.rand(1, 3, 6, 6, generator=rng)
    return (255 * torch.nn.functional.interpolate(blots, (height, width), mode="bicubic").clamp(0, 1)).byte()[0]


def batch(n: int, height: int, width: int) -> Tensor:
    return torch.stack([picture(height, width, i) for i in range(n)])


def one_by_one(size: int) -> v2.Transform:
    """The published training transform, as torchvision has it."""
    crop = v2.RandomResizedCrop(size, (0.05, 1.0), (3 / 4, 4 / 3), v2.InterpolationMode.BILINEAR)
    return v2.Compose([v2.ToPILImage(), crop, v2.RandomHorizontalFlip(0.5), v2.PILToTensor()])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test."""
    monkeypatch.setenv("CLF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """An image folder: two classes of 4 + 2 pictures, no two of one size."""
    for split, n in (("train", 4), ("test", 2)):
        for c, name in enumerate(("ant", "bee")):
            for i in range(n):
                seed = 10 * n + 3 * i + c
                file = tmp_path / "data" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                shown = picture(20 + 3 * i + c, 30 - 2 * i, seed)
                Image.fromarray(shown.movedim(0, -1).numpy()).save(file)
    return tmp_path / "data"


def train_files(where: Path) -> Pictures:
    found = open_source(f"imagefolder:{where}").train
    assert isinstance(found, Pictures)
    return found


def both(samples: Pictures, how: Transform, training: bool) -> tuple[View, View]:
    """The same view with and without what is kept."""
    fixed = how.fixed(training)
    cached = cached_pictures(samples, fixed, GIB)
    assert fixed is not None
    assert cached is not None
    return View(cached, fixed.rest), View(samples, how.train() if training else how.test())


# --- batches against Pillow, one picture at a time ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (20, 70), (200, 60), (500, 375)], ids=str)
def test_crops_are_drawn_as_torchvision_draws_them(shape: tuple[int, int]):
    n, (height, width) = 3000, shape
    reference = v2.RandomResizedCrop(32, (0.05, 1.0), (3 / 4, 4 / 3))
    torch.manual_seed(0)
    drawn = resampling.draw_crops(torch.tensor([shape]).expand(n, 2), Pilot().scale, Pilot.RATIO)
    blank = [torch.empty(3, height, width)]
    told = [reference.make_params(blank) for _ in range(n)]
    wanted = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in told])
    assert (drawn[:, 0] + drawn[:, 2] <= height).all()
    assert (drawn[:, 1] + drawn[:, 3] <= width).all()
    assert (drawn >= torch.tensor([0, 0, 1, 1])).all()
    for name, measure in {
        "area": lambda b: b[:, 2] * b[:, 3] / (height * width),
        "aspect": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
    }.items():
        mine, theirs = measure(drawn).double().numpy(), measure(wanted).double().numpy()
        assert ks_2samp(mine, theirs).pvalue > 1e-3, name
        assert abs(mine.mean() - theirs.mean()) < 4 * theirs.std() * (2 / n) ** 0.5 + 1e-9, name
        assert mine.std() == pytest.approx(theirs.std(), rel=0.1, abs=1e-9), name


def test_where_no_crop_fits_the_largest_in_the_middle_is_taken():
    for shape, box in (((10, 400), [0, 193, 10, 13]), ((400, 10), [193, 0, 13, 10])):
        drawn = resampling.draw_crops(torch.tensor([shape]).expand(50, 2), (0.9, 1.0), (3 / 4, 4 / 3))
        assert drawn.tolist() == [box] * 50


@pytest.mark.parametrize("source", [Pilot(32), Pilot(32, pillow=True)], ids=["batched", "pillow"])
def test_training_inputs_are_distributed_as_those_of_torchvision(source: Pilot):
    n, images = 600, batch(1, 40, 56)[0]
    torch.manual_seed(1)
    mine = source.train()(images.expand(n, -1, -1, -1))
    reference = one_by_one(32)
    theirs = torch.stack([reference(images) for _ in range(n)]).float() / 255
    for of in (lambda x: x.mean((1, 2, 3)), lambda x: x.std((1, 2, 3)), lambda x: x[:, 0].mean((1, 2))):
        assert ks_2samp(of(mine).numpy(), of(theirs).numpy()).pvalue > 0.01
    assert (mine.mean(0) - theirs.mean(0)).abs().mean() < 4 * theirs.std(0).mean() * (2 / n) ** 0.5
    assert mine.var(0).mean() == pytest.approx(float(theirs.var(0).mean()), rel=0.1)


@pytest.mark.parametrize("source", [Pilot(16), Pilot(16, pillow=True)], ids=["batched", "pillow"])
def test_every_second_picture_is_flipped(source: Pilot):
    ramp = torch.arange(64, dtype=torch.uint8).mul(4).expand(2000, 3, 64, 64)  # brighter to the right
    torch.manual_seed(0)
    x = source.train()(ramp)
    flipped = (x[..., 0] > x[..., -1]).all(-1).all(-1).double()
    assert abs(float(flipped.mean()) - 0.5) < 4 * (0.25 / 2000) ** 0.5


@pytest.mark.parametrize("shape", [(32, 32), (50, 40), (90, 130), (300, 200)], ids=str)
def test_the_same_dice_give_the_same_crops_in_batches_and_with_pillow(shape: tuple[int, int]):
    images = batch(12, *shape)
    drawn = []
    for how in (Pilot(48), Pilot(48, pillow=True)):
        torch.manual_seed(3)
        drawn.append(how.train()(images))
    off = (drawn[0] - drawn[1]).abs() * 255  # single precision, and the order of directions in Pillow 13
    assert off.max() < 2.01
    assert (off > 0.5).float().mean() < 0.05
    torch.manual_seed(3)
    boxes = resampling.draw_crops(torch.tensor(shape).expand(12, 2), Pilot().scale, Pilot.RATIO)
    flips = torch.rand(12) < 0.5
    packed = resampling.crops(*resampling.cut(list(images), boxes, torch.device("cpu")), flips, 48)
    assert (packed - drawn[0]).abs().max() * 255 < 1.01


@pytest.mark.parametrize("pillow", [False, True], ids=["batched", "pillow"])
def test_whole_pictures_are_cropped_as_the_published_code_does(pillow: bool):
    large, how = list(batch(4, 500, 700)), Pilot(48, pillow=pillow, reduce=False)
    assert how.fixed(training=True) is None
    torch.manual_seed(3)
    mine = how.train()(large)
    torch.manual_seed(3)
    boxes = resampling.draw_crops(torch.tensor([(500, 700)] * 4), Pilot().scale, Pilot.RATIO)
    flips = torch.rand(4) < 0.5
    for x, image, box, flip in zip(mine, large, boxes.tolist(), flips.tolist(), strict=True):
        crop = v2.functional.resized_crop(v2.functional.to_pil_image(image), *box, [48, 48])
        wanted = v2.functional.pil_to_tensor(crop).float() / 255
        assert (x - (wanted.flip(-1) if flip else wanted)).abs().max() * 255 < 1.01
    torch.manual_seed(3)
    assert (Pilot(48, pillow=pillow).train()(large) - mine).abs().mean() * 255 > 2  # a reduced copy is smoother


@pytest.mark.parametrize("shape", [(32, 32), (57, 40), (224, 224), (120, 300)], ids=str)
@pytest.mark.parametrize("size", [32, 224])
def test_test_inputs_are_those_of_pillow_bit_for_bit_in_any_company(shape: tuple[int, int], size: int):
    images, side = batch(5, *shape), round(size * 256 / 224)
    resize = v2.Resize(side, interpolation=v2.InterpolationMode.BICUBIC)
    published = v2.Compose([v2.ToPILImage(), resize, v2.CenterCrop(size), v2.PILToTensor()])
    wanted = torch.stack([published(i) for i in images]).float() / 255
    for how in (Pilot(size), Pilot(size, pillow=True)):
        test = how.test()
        assert torch.equal(test(images), wanted)
        assert torch.equal(test(list(images)), wanted)
        assert torch.equal(test(images[3:4]), wanted[3:4])


# --- what is kept of files ------------------------------------------------------------------------------------------


def test_without_a_margin_a_square_picture_is_resized_to_the_inputs_themselves() -> None:
    """As the released code of RanPAC has it for CIFAR: bicubic to the side, nothing cut off."""
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    whole = v2.Compose([v2.ToPILImage(), v2.Resize(56, v2.InterpolationMode.BICUBIC), v2.PILToTensor()])
    wanted = torch.stack([whole(i) for i in pixels])
    for how in (Pilot(56, margin=False), Pilot(56, margin=False, pillow=True)):
        assert torch.equal(how.test()(pixels), wanted.float() / 255)
        assert how.name != Pilot(56).name


@pytest.mark.parametrize("margin", [False, True])
def test_inflora_resizes_tests_bilinearly_and_crops_no_less_than_eight_percent(margin: bool) -> None:
    """As its released code: torchvision's defaults, no margin for CIFAR, one for ImageNet-R."""
    pixels = torch.randint(0, 256, (4, 3, 40, 64), dtype=torch.uint8)
    steps = [v2.ToPILImage(), v2.Resize(64 if margin else 56), v2.CenterCrop(56), v2.PILToTensor()]
    wanted = torch.stack([v2.Compose(steps)(i) for i in pixels]).float() / 255
    for pillow in (False, True):
        how = Pilot(56, margin=margin, least=0.08, tests="bilinear", pillow=pillow)
        assert torch.equal(how.test()(pixels), wanted)
        assert how.name not in (Pilot(56, margin=margin).name, Pilot(56, margin=not margin, tests="bilinear").name)
    assert how.scale == v2.RandomResizedCrop(56).scale
    with pytest.raises(UserError, match="at least a share"):
        Pilot(least=0.0)


@pytest.mark.parametrize("how", [Plain(12), Pilot(16), Pilot(4), Pilot(16, pillow=True)], ids=lambda h: h.name)
@pytest.mark.parametrize("training", [False, True], ids=["test", "train"])
def test_inputs_are_the_same_bits_read_cold_warm_and_from_files(pictures: Path, how: Transform, training: bool):
    cached, plain = both(train_files(pictures), how, training)
    rows, seen = [5, 0, 3, 7, 3], []
    for view in (plain, cached, cached, both(train_files(pictures), how, training)[0]):
        torch.manual_seed(0)
        seen.append(view[rows])
    for later in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], later, strict=True))
        assert later.x.is_contiguous() == seen[0].x.is_contiguous()


def test_a_picture_is_decoded_once(pictures: Path, monkeypatch: pytest.MonkeyPatch):
    from scenarios.data import source as data_source

    read, decode = [], data_source.read_image
    monkeypatch.setattr(data_source, "read_image", lambda path: (read.append(path), decode(path))[1])
    for _ in range(2):  # as two runs would
        view, _ = both(train_files(pictures), Plain(12), training=False)
        for rows in ([0, 1], [1, 2, 3], range(8), [7]):
            view[rows]
    assert len(read) == 8
    assert len(set(read)) == 8


def test_pictures_that_are_larger_than_training_needs_are_kept_smaller(tmp_path: Path):
    fixed = Pilot(16).fixed(training=True)
    assert fixed.room == (3, 37, 37)
    assert fixed.step(batch(1, 20, 60)[0]).shape == (3, 20, 60)  # 1200 pixels, less than 37 x 37
    small = fixed.step(batch(1, 100, 200)[0])
    assert small.shape == (3, 26, 52)
    assert abs(float(small.float().mean() - batch(1, 100, 200)[0].float().mean())) < 1
    Image.fromarray(np.zeros((1, 4000, 3), np.uint8)).save(tmp_path / "long.png")  # has no room in a row
    held = CachedPictures(Pictures("train", [tmp_path / "long.png"], [0]), fixed, GIB)
    assert [held.read(torch.tensor([0]))[0].shape for _ in range(2)] == [(3, 1, 2340)] * 2


def test_a_torn_row_is_made_again_and_a_torn_file_too(pictures: Path, own_cache: Path):
    cached, plain = both(train_files(pictures), Plain(12), training=False)
    wanted = plain[range(8)].x
    cached[range(8)]
    (pixels,) = own_cache.glob("*/pixels.npy")
    (rows,) = own_cache.glob("*/rows.npy")
    for damage in ("pixels", "cut", "rows", "header"):
        if damage == "header":
            rows.write_bytes(b"nothing")
        elif damage == "cut":
            os.truncate(pixels, pixels.stat().st_size // 2)
        else:
            with (pixels if damage == "pixels" else rows).open("r+b") as file:
                file.seek(-150, os.SEEK_END)
                file.write(b"\x7f" * 100)
        again, _ = both(train_files(pictures), Plain(12), training=False)
        assert torch.equal(again[range(8)].x, wanted), damage


def test_a_picture_that_changed_is_read_anew(pictures: Path):
    before = both(train_files(pictures), Plain(12), training=False)[0][[0]].x
    file = train_files(pictures).images[0]
    old = file.stat()
    Image.open(file).rotate(180).save(file)
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    cached, plain = both(train_files(pictures), Plain(12), training=False)
    assert torch.equal(cached[[0]].x, plain[[0]].x)
    assert not torch.equal(cached[[0]].x, before)


def test_processes_that_fill_one_cache_see_the_same(pictures: Path, own_cache: Path, world: Any):
    wanted = both(train_files(pictures), Pilot(16), training=False)[1][range(8)].x

    def read(seed: int) -> None:
        torch.manual_seed(seed)
        view, _ = both(train_files(pictures), Pilot(16), training=False)
        for _ in range(40):
            rows = torch.randperm(8)[:3].tolist()
            assert torch.equal(view[rows].x, wanted[rows])

    children = [world.forked(partial(read, seed)) for seed in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(list(own_cache.iterdir())) == 1
    assert torch.equal(both(train_files(pictures), Pilot(16), training=False)[0][range(8)].x, wanted)


def taken(where: Path) -> int:
    return sum(f.stat().st_blocks * 512 for f in where.glob("*/*.npy"))


def test_the_cache_is_bounded_and_those_opened_longest_ago_leave_first(pictures: Path, own_cache: Path):
    samples, limit = train_files(pictures), 8 * (3 * 64 * 64 + 4096) + 40_000
    for age, size in enumerate((64, 63, 62)):
        fixed = Pilot(size).fixed(training=False)
        held = CachedPictures(samples, fixed, limit)
        held.read(torch.arange(8))
        assert taken(own_cache) <= limit
        for other in own_cache.iterdir():
            os.utime(other, (age + (other.stat().st_mtime > 1e6),) * 2)
    assert len(list(own_cache.iterdir())) < 3
    tight = CachedPictures(samples, Pilot(48).fixed(training=False), 20_000)
    before = set(own_cache.iterdir())
    found = tight.read(torch.arange(8))
    (place,) = set(own_cache.iterdir()) - before
    assert not np.load(place / "rows.npy")["height"].any()
    assert torch.equal(found, CachedPictures(samples, Pilot(48).fixed(training=False), limit).read(torch.arange(8)))


def test_without_room_or_a_folder_pictures_are_read_from_files(pictures: Path, own_cache: Path, monkeypatch):
    stream = ClassIncremental(f"imagefolder:{pictures}", increment=1, transform=Plain(8), cache=0)
    assert len(next(stream.steps()).exam[[0, 1]].x) == 2
    assert not own_cache.exists()
    own_cache.write_text("a file is in the way")
    cached, plain = both(train_files(pictures), Plain(8), training=False)
    assert torch.equal(cached[[1, 2]].x, plain[[1, 2]].x)
    monkeypatch.setenv("CLF_CACHE", str(pictures.parent / "other"))
    monkeypatch.setattr("scenarios.pictures.picture_cache.SPARE", 2**62)
    cached, plain = both(train_files(pictures), Plain(8), training=False)
    assert torch.equal(cached[[1, 2]].x, plain[[1, 2]].x)
    assert not list(cache_folder().iterdir())


def test_what_is_in_memory_is_not_kept(own_cache: Path):
    stream = ClassIncremental("digits", transform=Plain(8))
    assert next(stream.steps()).event.data[[0]].x.shape == (1, 3, 8, 8)
    assert not own_cache.exists()


# --- forgetting -----------------------------------------------------------------------------------------------------


def run(world, scenario, transform_seed: int = 0):
    """Learn and forget a whole stream."""
    torch.manual_seed(transform_seed)
    learner = world.learner(Finetune(), Retrain())
    journal = world.Listener(learner)
    loop.run_stream(learner, scenario, world.make_trainer, Evaluator(), journal, batch_size=4)
    return journal


def names(cache: Path) -> dict[int, bool]:
    """Whose rows there are, and whether there are any bytes in them."""
    found: dict[int, bool] = {}
    for rows in cache.glob("*/rows.npy"):
        told, pixels = np.load(rows), np.load(rows.with_name("pixels.npy"))
        for one, numbers in zip(told, pixels, strict=True):
            if one["height"]:
                found[int(one["whose"])] = True
            else:
                assert not numbers.any()
    return found


@pytest.mark.parametrize("asked", [Request(1, classes=[1]), Request(1, samples=[4, 6])], ids=["class", "samples"])
def test_a_forget_request_erases_what_was_kept_whatever_it_was_made_for(world, pictures: Path, own_cache: Path, asked):
    source = open_source(f"imagefolder:{pictures}")
    for how in (Plain(9), Pilot(16)):  # other runs were here before
        for training in (False, True):
            both(source.train, how, training)[0][range(8)]
            both(source.test, how, training)[0][range(4)]
    stream = ClassIncremental(f"imagefolder:{pictures}", increment=1, order=[1, 0], transform=Plain(8))
    run(world, Mixed(stream, [asked]))  # class 0 comes afterwards, and what was forgotten is asked about again
    left = names(own_cache)
    gone = [f for f, c in zip(source.train.images, source.train.labels.tolist(), strict=True) if c == 1]
    gone = [*gone, *source.test.images[2:]] if asked.classes else [gone[0], gone[2]]
    for file in (*source.train.images, *source.test.images):
        assert (row_mark(file) in left) == (file not in gone)
    both(source.train, Plain(8), training=False)[0][range(8)]  # the files are still there for those who read them
    assert row_mark(source.train.images[4]) in names(own_cache)


@pytest.mark.parametrize("asked", [Request(1, classes=[1]), Request(1, samples=[4, 6])], ids=["class", "samples"])
def test_an_audit_keeps_nothing_of_what_was_forgotten(world, pictures: Path, own_cache: Path, asked):
    stream = ClassIncremental(f"imagefolder:{pictures}", increment=1, order=[1, 0], transform=Plain(8))
    mixed = Mixed(stream, [asked])
    audited = run(world, mixed).learner
    before = names(own_cache)
    about = subjects.subject(list(mixed.steps()))
    make = lambda: world.learner(Finetune(), Retrain())  # noqa: E731
    trainer = ReferenceTrainer(make, world.make_trainer, 4, lambda what: None)
    audit.conduct(audited, about, trainer, audit.references(trainer, about, 0, 1))
    shadow_attack(audited, about, trainer, 8)
    assert names(own_cache) == before
    assert not {row_mark(stream.source.train.images[i]) for i in about.gone.ids.tolist()} & before.keys()


def test_choosing_atypical_samples_keeps_none_of_them(pictures: Path, own_cache: Path):
    stream = ClassIncremental(f"imagefolder:{pictures}", increment=1, transform=Plain(8))
    assert len(list(SampleRequests(stream, pick="atypical").steps())) == 4
    assert not names(own_cache)


def test_runs_with_and_without_a_cache_learn_the_same_bits(world, pictures: Path):
    told = []
    for cache in (0.0, 1.0, 1.0):  # off, cold, warm
        stream = ClassIncremental(f"imagefolder:{pictures}", increment=1, transform=Plain(8), cache=cache)
        told.append(run(world, stream))
    for later in told[1:]:
        assert later.measurements == told[0].measurements
        for (a, _), (b, _) in zip(told[0].states, later.states, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[k], b[k]) for k in a)


# --- devices --------------------------------------------------------------------------------------------------------


def test_inputs_come_on_the_device_asked_for_and_names_stay(pictures: Path):
    files = View(train_files(pictures), Plain(8).test(), "files")
    rows = Rows(torch.zeros(3, 3, 8, 8), torch.tensor([5, 6, 5]), torch.tensor([1, 2, 3]), "rows")
    nameless = files.of([1])
    nameless.key = None
    samples: Samples = Joined([Relabelled(files.of([0]), 3, 40), rows, nameless])
    assert samples.on(torch.device("cpu")) is samples
    moved = samples.on(torch.device("meta"))
    read = moved[[0, 4, 8]]
    assert (read.x.device.type, read.y.device.type, read.x.shape) == ("meta", "cpu", (3, 3, 8, 8))
    assert (read.y.tolist(), read.ids.tolist()) == (samples[[0, 4, 8]].y.tolist(), samples[[0, 4, 8]].ids.tolist())
    assert [p.key for p in moved.sources] == [p.key for p in samples.sources] == ["files+40", "rows", None]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_inputs(pictures: Path):
    cuda, memory = torch.device("cuda", 0), Pictures("train", batch(8, 32, 32), [0] * 8)
    for how in (Pilot(32), Plain(24)):
        for view in (View(memory, how.test()), *both(train_files(pictures), how, training=False)):
            here, there = view[[3, 1, 3]].x, view.on(cuda)[[3, 1, 3]].x
            assert there.device == cuda
            assert (here - there.cpu()).abs().max() <= (0 if isinstance(how, Pilot) else 1e-5)
        for view in (View(memory, how.train()), *both(train_files(pictures), how, training=True)):
            torch.manual_seed(0)
            here = view[[3, 1, 3]].x
            torch.manual_seed(0)
            assert (here - view.on(cuda)[[3, 1, 3]].x.cpu()).abs().max() < 0.02


def test_a_step_that_is_fixed_and_its_rest_make_the_whole(pictures: Path):
    images = batch(3, 30, 44)
    for how in (Plain(12), Pilot(16)):
        fixed = how.fixed(training=False)
        assert isinstance(fixed, Fixed)
        small = torch.stack([fixed.step(i) for i in images])
        assert small.shape[1:] == fixed.room
        assert small.dtype == fixed.dtype
        assert torch.equal(fixed.rest(small), how.test()(images))

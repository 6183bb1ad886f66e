"""Pictures as people have them: turned, transparent, of more than eight bits, huge, broken, of uncommon kinds."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cl_framework.errors import UserError, extras
from scenarios.pictures.decode import glance, read_image

RAMP = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
QUARTERS = np.zeros((32, 16, 3), np.uint8)
QUARTERS[:16, :8], QUARTERS[:16, 8:], QUARTERS[16:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def pixels(image: Tensor) -> np.ndarray:
    return image.movedim(0, -1).numpy()


def as_stored(upright: Image.Image, orientation: int) -> Image.Image:
    """What a camera would store for a picture that is to be shown like this."""
    back = {
        1: (), 2: ("FLIP_LEFT_RIGHT",), 3: ("ROTATE_180",), 4: ("FLIP_TOP_BOTTOM",), 5: ("TRANSPOSE",),
        6: ("ROTATE_90",), 7: ("TRANSVERSE",), 8: ("ROTATE_270",),
    }  # fmt: skip
    for name in back[orientation]:
        upright = upright.transpose(Image.Transpose[name])
    return upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tiff"])
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int, kind: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"x.{kind}"
    options = {"quality": 95} if kind == "jpg" else {}
    as_stored(Image.fromarray(QUARTERS), orientation).save(file, exif=exif, **options)
    found = pixels(read_image(file))
    assert found.shape == QUARTERS.shape
    assert np.abs(found.astype(int) - QUARTERS).mean() < 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_malformed_exif_does_not_lose_a_picture(tmp_path: Path):
    Image.fromarray(QUARTERS).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 9)
    assert read_image(tmp_path / "x.jpg").shape == (3, 32, 16)


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_wide_grey_is_as_bright_as_its_own_depth_says(tmp_path: Path, kind: str, bits: int):
    deep = (RAMP.astype(np.float64) / 255 * (2**bits - 1)).round().astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"x.{kind}")
    assert torch.equal(read_image(tmp_path / f"x.{kind}"), torch.from_numpy(RAMP).expand(3, -1, -1))


@pytest.mark.parametrize("most", [1.0, 255.0, 4095.0, 65535.0])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_floats_and_long_numbers_are_scaled_by_the_range_they_use(tmp_path: Path, most: float, dtype: type):
    if dtype is np.int32 and most == 1:
        pytest.skip("whole numbers have no scale to 1")
    Image.fromarray((RAMP / 255 * most).astype(dtype)).save(tmp_path / "x.tiff")
    assert (read_image(tmp_path / "x.tiff")[0].int() - torch.from_numpy(RAMP).int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("values", "why"),
    [([0, -3.5], "below zero, down to -3.5"), ([0, 1.4], "largest value is 1.4"), ([0, np.nan], "NaN"),
     ([0, 1e12], r"up to 1e\+12")],
)  # fmt: skip
def test_numbers_without_a_sure_white_are_refused(tmp_path: Path, values: list[float], why: str):
    Image.fromarray(np.array([values, values], np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=rf"Cannot read the image .*x\.tiff \(it.*{why}"):
        read_image(tmp_path / "x.tiff")


def test_transparent_pixels_are_laid_over_white_and_their_colour_is_hidden(tmp_path: Path):
    alpha = np.array([[0, 0, 255, 255], [0, 0, 255, 255], [128, 128, 255, 255], [128, 128, 255, 255]], np.uint8)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    shown = np.array([[[255] * 3] * 2 + [[200, 0, 0]] * 2] * 2 + [[[227, 127, 127]] * 2 + [[200, 0, 0]] * 2] * 2)
    for kind in ("png", "webp", "tiff"):
        options = {"lossless": True, "exact": True} if kind == "webp" else {}
        Image.fromarray(np.dstack([red, alpha])).save(tmp_path / f"x.{kind}", **options)
        assert np.abs(pixels(read_image(tmp_path / f"x.{kind}")).astype(int) - shown).max() <= 1, kind
    Image.fromarray(np.dstack([RAMP, alpha]), "LA").save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png")[:, 0, 0].tolist() == [255, 255, 255]


def test_strips_of_a_picture_make_the_whole(tmp_path: Path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (23, 7, 4), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    whole = read_image(tmp_path / "x.png")
    for strip in (1, 20, 7 * 22, 7 * 23):
        monkeypatch.setattr("scenarios.pictures.pixels.STRIP", strip)
        assert torch.equal(read_image(tmp_path / "x.png"), whole)


def test_palettes_and_single_transparent_colours_are_laid_over_white(tmp_path: Path):
    palette = Image.fromarray(np.zeros((2, 2), np.uint8), "P")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putpixel((1, 1), 1)
    palette.save(tmp_path / "x.png", transparency=0)
    palette.save(tmp_path / "x.gif", transparency=0)
    palette.save(tmp_path / "partly.png", transparency=b"\x00\xff")
    for name in ("x.png", "x.gif", "partly.png"):
        assert pixels(read_image(tmp_path / name)).tolist() == [[[255] * 3] * 2, [[255] * 3, [50, 60, 70]]], name
    Image.fromarray(RAMP).save(tmp_path / "l.png", transparency=0)
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "wide.png", transparency=0)
    for name in ("l.png", "wide.png"):
        assert read_image(tmp_path / name)[0].tolist() == [[255, *RAMP[0, 1:].tolist()], *RAMP[1:].tolist()], name


def test_grey_cmyk_and_two_colours_become_three_byte_channels(tmp_path: Path):
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    Image.fromarray(RAMP > 99).save(tmp_path / "bits.png")
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert torch.equal(read_image(tmp_path / "grey.png"), torch.from_numpy(RAMP).expand(3, -1, -1))
    assert torch.equal(
        read_image(tmp_path / "bits.png"), torch.from_numpy((RAMP > 99) * np.uint8(255)).expand(3, -1, -1)
    )
    assert read_image(tmp_path / "print.jpg")[:, 0, 0].tolist() == pytest.approx([254, 0, 0], abs=3)


def test_avif_and_heic_are_read_and_heic_without_its_decoder_names_the_extra(tmp_path: Path, monkeypatch):
    Image.fromarray(QUARTERS).save(tmp_path / "x.avif", quality=95)
    assert np.abs(pixels(read_image(tmp_path / "x.avif")).astype(int) - QUARTERS).mean() < 20
    heif = pytest.importorskip("pillow_heif")
    big = Image.fromarray(QUARTERS.repeat(4, 0).repeat(4, 1))
    heif.from_pillow(big).save(tmp_path / "photo.jpg", quality=90)  # as phones' exports are named now and then
    assert np.abs(pixels(read_image(tmp_path / "photo.jpg")).astype(int) - np.array(big)).mean() < 20
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"photo\.jpg is a HEIC image.*" + re.escape(extras.command("heic"))):
        read_image(tmp_path / "photo.jpg")


def bomb(path: Path, width: int, height: int) -> Path:
    """Write a one-bit PNG of nothing, which takes hardly any bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(bytes(height * ((width + 7) // 8 + 1)), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8300, 11000, 16000])  # within Pillow's own bound, warned of, and refused by it
def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, side: int):
    file = bomb(tmp_path / "x.png", side, side)
    for look in (read_image, glance):
        with pytest.raises(UserError, match=r"Cannot read the image .*x\.png \(.*pixels"):
            look(file)


def test_a_large_photo_is_decoded_smaller_unless_that_takes_as_much_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("scenarios.pictures.pixels.MOST_PIXELS", 40 * 40)
    Image.fromarray(QUARTERS.repeat(4, 0).repeat(4, 1)).save(tmp_path / "x.jpg", quality=95)
    found = read_image(tmp_path / "x.jpg")
    assert found.shape == (3, 32, 16)
    assert np.abs(pixels(found).astype(int) - QUARTERS).mean() < 12
    Image.fromarray(QUARTERS.repeat(4, 0).repeat(4, 1)).save(tmp_path / "x.jpg", progressive=True)
    with pytest.raises(UserError, match="64 x 128 are 8,192 pixels, more than 1,600: make it smaller"):
        read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_glance_finds_truncated_files_and_lets_whole_ones_pass(tmp_path: Path, kind: str):
    whole, file = io.BytesIO(), tmp_path / "x"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole, kind)
    content = whole.getvalue()
    for fine in (content, content + b"a film that a phone put behind it" * 9):
        file.write_bytes(fine)
        glance(file)
    for broken in (b"", b"no image", content[:40], content[: len(content) // 2]):
        file.write_bytes(broken)
        with pytest.raises(UserError, match="Cannot read the image"):
            glance(file)


@pytest.mark.parametrize("look", [read_image, glance])
def test_a_pipe_or_a_device_among_pictures_keeps_nobody_waiting(look, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "endless.png"):
        with pytest.raises(UserError, match=rf"Cannot read the image .*{name} \(it is no file, but a folder, a pipe"):
            look(tmp_path / name)

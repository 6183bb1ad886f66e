"""Transforms of pictures and sentences to inputs: one for training, one for tests and statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, final

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from cl_framework.errors import UserError
from cl_framework.settings import Recorded
from scenarios.pictures import resampling
from scenarios.pictures.decode import in_parallel

CPU = torch.device("cpu")


class Pipeline(Protocol):
    """From pictures or sentences to inputs.

    Pictures are ``(n, 3, H, W)``, or a list of ``(3, H, W)`` of any sizes, uint8 or floats in [0, 1]; inputs are
    ``(n, 3, S, S)`` float32 in [0, 1], made in batches where sizes agree. Sentences become inputs ``(n, bytes)`` uint8.
    Randomness is drawn anew for each picture from torch's global generator, whatever the device.
    """

    def __call__(self, images: Any, device: torch.device = CPU, /) -> Tensor:
        """Make inputs on ``device``; a tensor is there already."""


class Fixed(NamedTuple):
    """The first, deterministic step of a pipeline, whose result can be cached.

    Attributes:
        name: Unique among steps that differ.
        step: From a picture ``(3, H, W)`` uint8 to its result.
        rest: The rest of the pipeline: `rest` after `step` equals the whole.
        room: Largest result, ``(3, h, w)``; of two that differ in shape, the number of pixels counts.
        alike: Whether all results have that shape.
        dtype: Of the results.
    """

    name: str
    step: Callable[[Tensor], Tensor]
    rest: Pipeline
    room: tuple[int, int, int]
    alike: bool = True
    dtype: torch.dtype = torch.uint8


class Transform(Recorded, ABC):
    """A pair of pipelines; the one for tests has no randomness and treats each sample by itself.

    Attributes:
        takes: Kind of its samples.
        name: Unique among settings that differ at test time: part of the key of features.
    """

    takes: ClassVar[Literal["pictures", "sentences"]] = "pictures"
    name: str

    @abstractmethod
    def train(self) -> Pipeline:
        """Return the pipeline for training."""

    @abstractmethod
    def test(self) -> Pipeline:
        """Return the pipeline for tests, prototypes and statistics."""

    def fixed(self, training: bool) -> Fixed | None:
        """Return the step of a pipeline whose results can be cached; None if there is none."""
        return None

    def check(self, sentences: Sequence[str]) -> None:  # pictures of any size are taken
        """Refuse sentences that do not fit, before the first of them is read.

        Raises:
            UserError: If there are any.
        """


@final
class Plain(Transform):
    """For small pictures: resize to a square; in training also turn, move and scale a little.

    Args:
        size: Side of the inputs in pixels.
        augment: Whether training pictures vary.
    """

    ROTATE, SHIFT, SCALE = 10.0, 0.08, 0.1  # largest turn in degrees, shift as a share of the side, change of size

    def __init__(self, size: int = 32, augment: bool = True) -> None:
        """Keep the settings."""
        self.size, self.augment, self.name = size, augment, f"plain-{size}"

    def train(self) -> Pipeline:
        """Return resizing and a mild random affine map."""
        return self._varied if self.augment else self._resized

    def test(self) -> Pipeline:
        """Return resizing: bilinear, antialiased, square."""
        return self._resized

    def fixed(self, training: bool) -> Fixed:
        """Return resizing, whose results are floats: rounded ones would be other inputs."""
        rest, room = self.train() if training else self._resized, (3, self.size, self.size)
        return Fixed(self.name, lambda image: self._resized(image[None])[0], rest, room, dtype=torch.float32)

    def _resized(self, images: Tensor | list[Tensor], device: torch.device = CPU) -> Tensor:
        if not isinstance(images, Tensor):
            return torch.cat([self._resized(i[None]) for i in images]).contiguous().to(device)
        x = images.float() if images.is_floating_point() else images.float() / 255
        if x.shape[-2:] == (self.size, self.size):
            return x
        return interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)

    def _varied(self, images: Tensor | list[Tensor], device: torch.device = CPU) -> Tensor:
        x = self._resized(images, device)
        turn, across, down, size = (2 * torch.rand(len(x), 4) - 1).unbind(1)
        angle, scale = (self.ROTATE * turn).deg2rad(), 1 / (1 + self.SCALE * size)
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = torch.stack([cos, -sin, 2 * self.SHIFT * across, sin, cos, 2 * self.SHIFT * down], 1).to(x.device)
        grid = affine_grid(rows.view(-1, 2, 3), list(x.shape), align_corners=False)
        return grid_sample(x, grid, padding_mode="border", align_corners=False).clamp(0, 1)


@final
class Pilot(Transform):
    """The transforms behind the published numbers of PILOT, EASE, MOS and SSIAT: Pillow's resizing, no normalisation.

    Training crops 5 to 100 % of a picture at a ratio of 3/4 to 4/3, resizes the crop bilinearly and flips every second
    one; no colour changes. Tests resize the shorter side to 8/7 of ``size`` bicubically (256 for 224) and crop the
    middle.

    As published, it does not normalise: pixels stay in [0, 1]. Backbones normalise as their weights were trained; the
    published settings turn that off with ``model.backbone.mean: 0, std: 1``, as a comparison with them must.

    Args:
        size: Side of the inputs in pixels.
        pillow: Resize with Pillow, one picture at a time on the CPU, in place of batches on the device of training.
            Tests see the same bits, training the same pictures within two levels of 255.
        margin: Whether tests resize to 8/7 of ``size``; RanPAC's and InfLoRA's code resize CIFAR to ``size`` itself.
        least: Least share of a picture that a training crop covers; InfLoRA's code leaves it at torchvision's 0.08.
        tests: How tests resize; InfLoRA's code leaves it at torchvision's ``bilinear``.
        reduce: Whether training takes its crops from pictures of at most (16/7 size)^2 pixels, 512 x 512 for 224, to
            which larger ones in files are reduced once and kept. Without, they are decoded each time, whole, as the
            published code does; small crops of photos are then sharper.
    """

    RATIO, FLIP = (3 / 4, 4 / 3), 0.5

    def __init__(
        self,
        size: int = 224,
        pillow: bool = False,
        margin: bool = True,
        reduce: bool = True,
        least: float = 0.05,
        tests: Literal["bicubic", "bilinear"] = "bicubic",
    ) -> None:
        """Keep the settings.

        Raises:
            UserError: If a crop could cover nothing, or more than the picture.
        """
        if not 0 < least <= 1:
            raise UserError(
                f"A training crop covers at least a share of its picture, above 0 and up to 1; found {least}."
            )
        self.reduce, self.scale, self.tests = reduce, (least, 1.0), tests
        variant = ("" if margin else "-whole") + ("" if tests == "bicubic" else f"-{tests}")
        self.size, self.pillow, self.name = size, pillow, f"pilot-{size}{variant}"
        self.side, self.area = round(size * 256 / 224) if margin else size, round(size * 512 / 224) ** 2

    def train(self) -> Pipeline:
        """Return a random resized crop and a flip."""
        return self._varied

    def test(self) -> Pipeline:
        """Return a resize and a centre crop."""
        return self._centred

    def fixed(self, training: bool) -> Fixed | None:
        """Return the whole test transform; for training, reducing what is larger than need be, unless all is kept."""
        if not training:
            return Fixed(self.name, self._centre, _unit, (3, self.size, self.size))
        if not self.reduce:
            return None
        side = round(self.size * 512 / 224)
        return Fixed(f"area-{side}", self._reduced, self._varied, (3, side, side), alike=False)

    def _varied(self, images: Tensor | list[Tensor], device: torch.device = CPU) -> Tensor:
        pictures = self._taken(images)
        if self.reduce and not isinstance(pictures, Tensor):
            pictures = in_parallel(self._reduced, pictures)
        boxes = resampling.draw_crops(torch.tensor([i.shape[1:] for i in pictures]), self.scale, self.RATIO)
        flips = torch.rand(len(pictures)) < self.FLIP
        if self.pillow or not (isinstance(pictures, Tensor) or device.type == "cuda"):  # on a CPU it is faster
            return resampling.pillow_crops(pictures, boxes, flips, self.size).to(device)
        if isinstance(pictures, Tensor):
            return resampling.crops(pictures, boxes, flips, self.size)
        return resampling.crops(*resampling.cut(pictures, boxes, device), flips, self.size)

    def _centred(self, images: Tensor | list[Tensor], device: torch.device = CPU) -> Tensor:
        pictures = self._taken(images)
        if self.pillow or not isinstance(pictures, Tensor):
            return _unit(torch.stack(in_parallel(self._centre, list(pictures))), device)
        height, width = pictures.shape[-2:]
        ways = resampling.centred(height, width, self.side, self.size, pictures.device, self.tests)
        return resampling.resampled(pictures, *ways)

    def _taken(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Return pictures as bytes; floats in [0, 1] are cut off, as torchvision does for Pillow."""
        if not isinstance(images, Tensor):
            return [i if i.dtype == torch.uint8 else (i * 255).byte() for i in images]
        taken = images if images.dtype == torch.uint8 else (images * 255).byte()
        return taken.cpu() if self.pillow else taken

    def _centre(self, image: Tensor) -> Tensor:
        return resampling.pillow_centre(image, self.side, self.size, self.tests)

    def _reduced(self, image: Tensor) -> Tensor:
        return resampling.pillow_reduced(image, self.area)


@final
class Utf8(Transform):
    """For sentences: their bytes, zeros after the end. The backbone cuts them into tokens.

    Args:
        size: Room for each sentence in bytes; longer ones are refused rather than cut.
    """

    takes = "sentences"

    def __init__(self, size: int = 512) -> None:
        """Keep the room."""
        self.size, self.name = size, f"utf8-{size}"

    def train(self) -> Pipeline:
        """Return the bytes, without augmentation."""
        return self._bytes

    def test(self) -> Pipeline:
        """Return the bytes."""
        return self._bytes

    def check(self, sentences: Sequence[str]) -> None:
        """Refuse sentences that are too long, saying what room they need."""
        sizes = [len(sentence.encode()) for sentence in sentences]
        if (most := max(sizes, default=0)) <= self.size:
            return
        size, count = 1 << (most - 1).bit_length(), sum(s > self.size for s in sizes)
        raise UserError(
            f"There is room for {self.size} bytes, and {count} of {len(sizes)} sentences take more, "
            f"{sentences[sizes.index(most)][:40]!r}... {most}; shorten or drop them, or set `--data.scenario.transform "
            f"Utf8 --data.scenario.transform.size {size}`."
        )

    def _bytes(self, sentences: list[str], device: torch.device = CPU) -> Tensor:
        raw = [sentence.encode() for sentence in sentences]
        if any(len(b) > self.size for b in raw):
            self.check(sentences)
        return torch.frombuffer(bytearray(b"".join(b.ljust(self.size, b"\0") for b in raw)), dtype=torch.uint8).view(
            len(raw), self.size
        )


def _unit(images: Tensor, device: torch.device = CPU) -> Tensor:
    """Return bytes as floats in [0, 1]."""
    return images.to(device).float() / 255

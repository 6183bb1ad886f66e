"""How pictures and sentences become inputs: one way for training, one for tests, prototypes and statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias, final

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate
from torchvision.transforms import v2

from cl_framework.errors import UserError

Pipeline: TypeAlias = Callable[[Any], Tensor]
"""From pictures ``(n, 3, H, W)``, or a list of ``(3, H, W)`` of any sizes, uint8 or floats in [0, 1], to inputs
``(n, 3, S, S)`` float32 in [0, 1]. Randomness is drawn anew for each picture from torch's global generator.
Or from a list of sentences to inputs ``(n, bytes)`` uint8."""


class Transform(ABC):
    """A pair of pipelines; the one for tests has no randomness and treats each sample by itself.

    Attributes:
        takes: What it makes inputs of.
        name: Unique among settings that differ at test time: remembered features are filed under it.
    """

    takes: ClassVar[Literal["pictures", "sentences"]] = "pictures"
    name: str

    @abstractmethod
    def train(self) -> Pipeline:
        """Return the pipeline for training."""

    @abstractmethod
    def test(self) -> Pipeline:
        """Return the pipeline for everything else."""


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

    def _resized(self, images: Tensor | list[Tensor]) -> Tensor:
        if not isinstance(images, Tensor):
            return torch.cat([self._resized(i[None]) for i in images])
        x = images.float() if images.is_floating_point() else images.float() / 255
        if x.shape[-2:] == (self.size, self.size):
            return x
        return interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)

    def _varied(self, images: Tensor | list[Tensor]) -> Tensor:
        x = self._resized(images)
        turn, across, down, size = (2 * torch.rand(len(x), 4) - 1).unbind(1)
        angle, scale = (self.ROTATE * turn).deg2rad(), 1 / (1 + self.SCALE * size)
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = torch.stack([cos, -sin, 2 * self.SHIFT * across, sin, cos, 2 * self.SHIFT * down], 1)
        grid = affine_grid(rows.view(-1, 2, 3), list(x.shape), align_corners=False)
        return grid_sample(x, grid, padding_mode="border", align_corners=False).clamp(0, 1)


@final
class Pilot(Transform):
    """The transforms behind the published numbers of PILOT, EASE, MOS and SSIAT: Pillow's resizing, no normalisation.

    Args:
        size: Side of the inputs in pixels; tests resize the shorter side to 8/7 of it (256 for 224) and crop.
    """

    def __init__(self, size: int = 224) -> None:
        """Keep the size."""
        self.size, self.name = size, f"pilot-{size}"

    def train(self) -> Pipeline:
        """Return a random resized crop and a flip of every second picture."""
        crop = v2.RandomResizedCrop(self.size, scale=(0.05, 1.0), ratio=(3 / 4, 4 / 3))
        return _Each([crop, v2.RandomHorizontalFlip(0.5)])

    def test(self) -> Pipeline:
        """Return a bicubic resize and a centre crop."""
        resize = v2.Resize(round(self.size * 256 / 224), interpolation=v2.InterpolationMode.BICUBIC)
        return _Each([resize, v2.CenterCrop(self.size)])


@final
class Utf8(Transform):
    """For sentences: their bytes, zeros after the end. Where they are cut into tokens is the backbone's business.

    Args:
        size: Room for each sentence in bytes; longer ones are refused rather than cut.
    """

    takes = "sentences"

    def __init__(self, size: int = 512) -> None:
        """Keep the room."""
        self.size, self.name = size, f"utf8-{size}"

    def train(self) -> Pipeline:
        """Return the bytes: nothing is varied."""
        return self._bytes

    def test(self) -> Pipeline:
        """Return the bytes."""
        return self._bytes

    def _bytes(self, sentences: list[str]) -> Tensor:
        raw = [sentence.encode() for sentence in sentences]
        if (long := next((i for i, b in enumerate(raw) if len(b) > self.size), None)) is not None:
            raise UserError(
                f"There is room for {self.size} bytes, and the sentence {sentences[long][:40]!r}... takes "
                f"{len(raw[long])}; set `transform` to Utf8 with a larger size."
            )
        return torch.frombuffer(bytearray(b"".join(b.ljust(self.size, b"\0") for b in raw)), dtype=torch.uint8).view(
            len(raw), self.size
        )


@final
class _Each:
    """Pillow transforms applied to one picture at a time: on a whole batch they would share their dice."""

    def __init__(self, steps: list[v2.Transform]) -> None:
        self.steps = v2.Compose([v2.ToPILImage(), *steps, v2.PILToTensor()])

    def __call__(self, images: Tensor | list[Tensor]) -> Tensor:
        return torch.stack([self.steps(i) for i in images]).float() / 255

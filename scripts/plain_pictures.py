"""Pictures the plain way: opened and transformed one at a time with Pillow, each time they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

from cl_framework.errors import UserError
from scenarios.data.source import Pictures
from scenarios.pictures.transforms import Pilot, Plain, Transform

OneByOne: TypeAlias = Callable[[Image.Image], Any]


@final
class OneAtATime(Dataset[Any]):
    """Pictures of some classes, opened and transformed one by one."""

    def __init__(self, pictures: Pictures, classes: Sequence[int], transform: OneByOne) -> None:
        """Keep which rows there are."""
        self.pictures, self.transform = pictures, transform
        self.rows = torch.isin(pictures.labels, torch.tensor(classes)).nonzero()[:, 0].tolist()

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """Open and transform one picture."""
        row, held = self.rows[i], self.pictures.images
        image = functional.to_pil_image(held[row]) if isinstance(held, Tensor) else Image.open(held[row])
        return self.transform(image.convert("RGB")), int(self.pictures.labels[row])


def one_by_one(how: Transform, vary: bool) -> OneByOne:
    """Return the training (``vary``) or test transform of ``how`` for one Pillow picture."""
    if isinstance(how, Plain):
        steps = [transforms.Resize((how.size, how.size)), *([_Affine(how)] if vary and how.augment else [])]
    elif isinstance(how, Pilot) and vary:
        crop = transforms.RandomResizedCrop(how.size, how.scale, how.RATIO)
        steps = [crop, transforms.RandomHorizontalFlip(how.FLIP)]
    elif isinstance(how, Pilot):
        steps = [transforms.Resize(how.side, InterpolationMode.BICUBIC), transforms.CenterCrop(how.size)]
    else:
        raise UserError(f"The plain loop transforms pictures as Plain and Pilot do, not as {type(how).__name__}.")
    found: OneByOne = transforms.Compose([*steps, transforms.ToTensor()])
    return found


@final
class _Affine:
    """A mild random turn, shift and change of size; what comes in from outside has the corner's colour."""

    def __init__(self, how: Plain) -> None:
        self.how = how

    def __call__(self, image: Image.Image) -> Image.Image:
        h = self.how
        limits = ([-h.ROTATE, h.ROTATE], [h.SHIFT, h.SHIFT], [1 - h.SCALE, 1 + h.SCALE], None, list(image.size))
        turn, shift, scale, shear = transforms.RandomAffine.get_params(*limits)
        corner: Any = image.getpixel((0, 0))
        place = (turn, list(shift), scale, list(shear), InterpolationMode.BILINEAR, list(corner))
        found: Image.Image = functional.affine(image, *place)
        return found

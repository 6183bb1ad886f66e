"""Normalisation of pictures: as in training of the weights, unless set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from cl_framework.errors import UserError

Channels: TypeAlias = float | Sequence[float]
"""One number for all channels, or one for each of red, green and blue."""
AS_IS = "mean 0, std 1"


@final
class Pixels(nn.Module):
    """``(x - mean) / std`` of pictures ``(n, 3, H, W)`` in [0, 1]; mean 0 and std 1 leave every bit as it is.

    Attributes:
        told: The normalisation and its source, in words.
    """

    def __init__(self, mean: Channels, std: Channels, source: str) -> None:
        """Store the numbers as buffers, so that the digest of a backbone includes them; mean 0 and std 1 need none.

        Raises:
            UserError: If they are not one or three finite numbers, a deviation is not above 0, or a mean is not that of
                pixels in [0, 1].
        """
        super().__init__()
        m, s = _three(mean, "mean"), _three(std, "std")
        if min(s) <= 0:
            raise UserError(f"std is {min(s):g}, by which nothing can be divided; give numbers above 0.")
        if min(m) < -1 or max(m) > 1:
            raise UserError(f"mean is {_shown(m)}, and pixels are from 0 to 1; divide `mean` and `std` by 255.")
        self.changes = m != [0.0] * 3 or s != [1.0] * 3
        if self.changes:
            self.register_buffer("mean", torch.tensor(m).view(3, 1, 1))
            self.register_buffer("std", torch.tensor(s).view(3, 1, 1))
        how = f"mean {_shown(m)}, std {_shown(s)}" if self.changes else f"from 0 to 1, not normalised ({AS_IS})"
        self.told = f"pixels: {how}; {source}"

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised pictures."""
        return (x - self.mean) / self.std if self.changes else x  # type: ignore[operator]


def pixels(recorded: Pixels, mean: Channels | None, std: Channels | None) -> Pixels:
    """Return the normalisation recorded with the weights, or the one that was set; what is not set follows the weights.

    Args:
        recorded: Of the weights.
        mean: Set in its place, or None.
        std: Set in its place, or None.

    Raises:
        UserError: As `Pixels`.
    """
    if mean is None and std is None:
        return recorded
    own_mean = recorded.mean.flatten().tolist() if recorded.changes else 0.0  # type: ignore[operator]
    own_std = recorded.std.flatten().tolist() if recorded.changes else 1.0  # type: ignore[operator]
    return Pixels(own_mean if mean is None else mean, own_std if std is None else std, "as set")


def as_timm_says(config: Mapping[str, Any], source: str) -> Pixels:
    """Return the normalisation of a ``pretrained_cfg`` of timm's."""
    return Pixels(config.get("mean") or 0.0, config.get("std") or 1.0, source)


def as_folder_says(folder: Path) -> Pixels:
    """Return the normalisation that a folder of transformers records for its pictures.

    Args:
        folder: With a ``preprocessor_config.json``, or a ``processor_config.json`` that holds an ``image_processor``.

    Raises:
        UserError: If the file is not valid, or its numbers are none.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not (path := folder / name).is_file():
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}); fix it, or set `mean` and `std`.") from error
        settings = settings.get("image_processor", settings) if isinstance(settings, dict) else {}
        if "image_mean" not in settings and "do_normalize" not in settings:
            continue
        scale = 255 * float(settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 255.0
        scale = 1.0 if abs(scale - 1) < 1e-6 else scale
        if not settings.get("do_normalize", True):
            return Pixels(0.0, 1 / scale, f"as {name} says")
        mean, std = (_three(settings.get(f"image_{k}") or 0.5, f"image_{k} in {path}") for k in ("mean", "std"))
        return Pixels([m / scale for m in mean], [s / scale for s in std], f"as {name} says")
    return Pixels(
        0.0, 1.0, f"{folder.name} holds no preprocessor_config.json: set `mean` and `std` if it was trained so"
    )


def _three(numbers: Any, name: str) -> list[float]:
    each = [numbers] * 3 if isinstance(numbers, int | float) else numbers
    try:
        three = [float(n) for n in each]
    except (TypeError, ValueError):
        three = []
    if len(three) != 3 or not all(abs(n) < float("inf") for n in three):
        raise UserError(f"{name} is {numbers}; give one finite number, or three: of red, green and blue.")
    return three


def _shown(numbers: Sequence[float]) -> str:
    each = [f"{n:.4g}" for n in numbers]
    return each[0] if len(set(each)) == 1 else f"({', '.join(each)})"

"""Any timm vision model, frozen, with its sites resolved by role."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import timm
from torch import Tensor, nn

from cl_framework.backbones import timm_names
from cl_framework.backbones.base import Backbone, Site
from cl_framework.backbones.checkpoint import as_classifier, load_own
from cl_framework.backbones.hub import network
from cl_framework.backbones.pixels import Channels, Pixels, as_timm_says, pixels
from cl_framework.backbones.timm_sites import block_list, reached, scales_in_modules, transformer_sites
from cl_framework.backbones.weight_file import refuse_unusable
from cl_framework.errors import UserError
from cl_framework.functional.picture_check import check_layout, check_pixels

WRONG_SIZE = (AssertionError, RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError, AttributeError)
"""Errors of timm's families for a size that does not fit them."""


@final
class Timm(Backbone):
    """A timm vision model without its classifier; choose it for published settings and own checkpoints.

    It may be a transformer or a convolutional network.

    Pictures come in [0, 1] and are normalised here, as the weights were trained; the published tables of PILOT, EASE,
    MOS and SSIAT were measured without, which is ``mean: 0, std: 1``.

    Args:
        name: Architecture and weight tag, such as ``vit_base_patch16_224.augreg_in21k``; names of older versions of
            timm, such as ``vit_base_patch16_224_in21k``, stand for what timm maps them to.
        pretrained: Load the weights of the tag; without them the network is random, for trials only.
        weights: A checkpoint file to load instead: ``.safetensors``, ``.pth``, or ``.npz`` as Google
            released ViTs. Prefixes are removed, position embeddings resampled, a classification head is kept
            separately.
        image_size: Side of the input in pixels, when it differs from the architecture's own.
        download: Allow timm to fetch weights that are not on this machine.
        mean: Subtracted from each pixel, one number or three; None follows the weights.
        std: Divides each pixel after that, one number or three; None follows the weights.

    Raises:
        UserError: If the name is unknown, has no tag although weights are asked for, the weights are not here, do not
            fit or are not finite, or the architecture does not take the size.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str | None = None,
        image_size: int | None = None,
        download: bool = False,
        mean: Channels | None = None,
        std: Channels | None = None,
    ) -> None:
        """Build the network and freeze it."""
        super().__init__()
        file, tagged = Path(weights).expanduser() if weights else None, pretrained and weights is None
        asked, name = name, timm_names.current(name)
        timm_names.check_name(name, tagged)
        notes = [f"{asked} is called {name} in timm now."] if name != asked.split("/")[-1] else []
        self._whole = partial(_built, name, image_size, download, pretrained=tagged)
        self.body, self.tagged, self._own = self._whole(num_classes=0), tagged, None
        self.name = name if file is None else f"{name}@{file.name}"
        self.width = int(getattr(self.body, "head_hidden_size", None) or self.body.num_features)  # type: ignore[arg-type]
        if file is not None:
            checkpoint = load_own(self.body, file, name, self.width)
            self._own, notes = checkpoint.classifier, [*notes, checkpoint.note]
        refuse_unusable(self.body, self.name)
        self.notes = tuple(notes)
        self.pixels = pixels(_recorded(self.body, name, tagged, file), mean, std)
        self.inputs = self.pixels.told
        scales_in_modules(self.body)
        self.body.requires_grad_(False).eval()
        self.image_size = image_size or _side(self.body)
        try:
            self._sites = reached(self.body, transformer_sites(self.body), self.image_size)
        except WRONG_SIZE as error:
            raise _unfit(name, self.image_size, error) from error

    def forward(self, x: Tensor) -> Tensor:
        """Return pooled features ``(n, width)`` of images ``(n, 3, side, side)`` in [0, 1]."""
        self.check(x)
        features: Tensor = self.body(self.pixels(x))
        return features

    def check(self, x: Tensor) -> None:
        """Refuse sentences, and pictures of another layout, type or size."""
        advice = "choose `data.scenario.transform` or `model.backbone.image_size` to fit"
        check_layout(self.name, x, advice, self.image_size)

    def check_values(self, x: Tensor) -> None:
        """Refuse what is not in [0, 1]."""
        check_pixels(self.name, x)

    def sites(self) -> Mapping[str, Site]:
        """Return the sites of every block that a forward pass goes through."""
        return self._sites

    def blocks(self) -> Sequence[nn.Module]:
        """Return its blocks; none where a family does not list them."""
        return block_list(self.body)

    def classifier(self) -> Mapping[str, Tensor] | None:
        """Return the linear classifier of its tag or of its checkpoint; None if there is none, or of another kind.

        Raises:
            UserError: If the weights are no longer on this machine.
        """
        return self._classifier if self.tagged else self._own

    @cached_property
    def _classifier(self) -> Mapping[str, Tensor] | None:
        """The classifier, kept once it is read: only the whole model's weight file holds it."""
        head = self._whole().get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Linear) or head.in_features != self.width:
            return None
        return as_classifier(head.weight, head.bias)


def _built(name: str, image_size: int | None, download: bool, pretrained: bool, **options: Any) -> nn.Module:
    """Build a model of timm's for a size of pictures, downloading only if allowed."""
    sized = {**options, "img_size": image_size} if image_size else options
    try:
        try:
            with network(download):
                body: nn.Module = timm.create_model(name, pretrained=pretrained, **sized)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            with network(download):  # a convolutional network, which takes pictures of any size
                body = timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError, ConnectionError) as error:
        if not pretrained and image_size:
            raise _unfit(name, image_size, error) from error
        raise UserError(
            f"Cannot load the backbone: the weights of {name} are not on this machine ({type(error).__name__}); give "
            "`weights: FILE` or `download: true`."
        ) from error
    except WRONG_SIZE as error:
        if not image_size:
            raise
        raise _unfit(name, image_size, error) from error
    return body


def _unfit(name: str, size: int, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:100]
    return UserError(
        f"{name} does not take pictures of {size} x {size} ({reason}); leave image_size out, or give a multiple of its "
        "patches and windows."
    )


def _recorded(body: nn.Module, name: str, tagged: bool, file: Path | None) -> Pixels:
    """Return the normalisation that is recorded for the weights: beside their file, else by timm."""
    config: Mapping[str, Any] = getattr(body, "pretrained_cfg", {})
    if tagged:
        return as_timm_says(config, "as timm records for these weights")
    if file is None:
        return Pixels(0.0, 1.0, "random weights were trained with none")
    try:
        beside = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
        return as_timm_says(beside, f"as the config.json beside {file.name} says")
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is no config of timm's
        return as_timm_says(config, f"as timm records for {name}; set `mean` and `std` if {file.name} differs")


def _side(body: nn.Module) -> int:
    """Return the side of the images a model takes: what it was built for, or else what its weights were trained on."""
    built = getattr(getattr(body, "patch_embed", None), "img_size", None)
    return int(built[-1] if built else getattr(body, "pretrained_cfg", {})["input_size"][-1])

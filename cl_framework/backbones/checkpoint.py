"""Checkpoints of one's own, with any prefix, head and image size, loaded into a network of timm."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from cl_framework.backbones.weight_file import first_names, refuse_whole, tensors_in
from cl_framework.errors import UserError

Tensors: TypeAlias = Mapping[str, Tensor]
HEADS = ("head", "head.fc", "fc", "classifier")
COMPLAINTS = (KeyError, RuntimeError, AttributeError, ValueError, IndexError, TypeError, AssertionError)
"""Errors of timm's converters for a checkpoint of another family."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of loading a checkpoint.

    Attributes:
        note: What was loaded, resampled and left out, in a sentence.
        classifier: Its classification head, as `Backbone.classifier` returns one; None if it has none that fits.
    """

    note: str
    classifier: Tensors | None


def load_own(body: nn.Module, path: Path, name: str, width: int) -> Loaded:
    """Load a checkpoint into a network without a head.

    Any prefix of names is removed; of several sets of weights the average (``ema``) or the ``teacher`` is
    taken. timm's own converter for the family renames foreign tensors and resamples position embeddings.

    Args:
        body: The network, which is changed.
        path: The file, as `tensors_in` reads it; ``.npz`` as Google released ViTs, or with the network's own names.
        name: Name of the network in messages.
        width: Of its features, which a classification head has to fit.

    Raises:
        UserError: If the file cannot be read, or lacks something that the network needs.
    """
    held = tensors_in(path)
    if path.suffix.lower() == ".npz" and any("/" in k for k in held):
        return _from_jax(body, path, held, name, width)
    fit = _best(held, body)
    if not fit.found:
        raise UserError(
            f"None of the {len(held)} tensors of {path} ({first_names(list(held))}) belongs to {name}; name the "
            "architecture that it was trained with."
        )
    _check(fit, body, path, name)
    body.load_state_dict(fit.found, strict=False)
    head = _head(held, fit.prefix, body, width)
    return Loaded(_told(path, held, fit, head, body), head)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Tensors under one prefix, as the file has them and as the network names them; ``extra`` fit nowhere."""

    prefix: str
    given: Tensors
    found: Tensors
    extra: list[str] = field(default_factory=list)


def _best(held: Tensors, body: nn.Module) -> _Fit:
    """Return the fit that matches most of the network's tensors; the first of equals."""
    wanted, fits = body.state_dict().keys(), []
    convert = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    for prefix in prefixes(held, wanted):
        given = {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)}
        changed = _converted(convert, given, body)
        matching = {k: v for k, v in changed.items() if k in wanted and isinstance(v, Tensor)}
        fits.append(_Fit(prefix, given, matching, [k for k in changed if k not in wanted]))
    return max(fits, key=lambda fit: len(fit.found))


def prefixes(held: Iterable[str], wanted: Collection[str]) -> list[str]:
    """Return what may stand before the names of a network's tensors, the likeliest first.

    >>> prefixes(["student.net.a.w", "teacher.net.a.w", "student.b"], {"a.w"})[0]
    'teacher.net.'
    """
    held, names = list(held), set(wanted)
    ends: Counter[str] = Counter()
    starts: Counter[str] = Counter()
    for key in held:
        cuts = [0, *(i + 1 for i, c in enumerate(key) if c == ".")]
        ends.update(key[:i] for i in cuts if key[i:] in names)
        starts.update(key[:i] for i in cuts)
    likely = sorted(ends, key=lambda p: (-ends[p], "ema" not in p and "teacher" not in p))[:3]
    most = [p for p, count in starts.items() if 2 * count > len(held)]  # foreign names, which a converter may know
    return list(dict.fromkeys([*likely, *most]))


def _converted(convert: Callable[..., Tensors] | None, given: Tensors, body: nn.Module) -> Tensors:
    if convert is None:
        return given
    try:
        with torch.no_grad():
            return convert(dict(given), body)
    except COMPLAINTS:
        return given


def _check(fit: _Fit, body: nn.Module, path: Path, name: str) -> None:
    """Refuse tensors of other shapes, and a lack of any that would leave random weights in use."""
    target = body.state_dict()
    odd = [k for k, v in fit.found.items() if v.shape != target[k].shape]
    if odd:
        others = f", and {len(odd) - 1} tensors more differ" if len(odd) > 1 else ""
        raise UserError(
            f"{odd[0]} is {_size(fit.found[odd[0]])} in {path} and {_size(target[odd[0]])} in {name}{others}; name the "
            "architecture, or set the image_size, that it was trained with."
        )
    params = {k for k, _ in body.named_parameters()}
    refuse_whole({k: v.dtype for k, v in fit.found.items() if k in params}, path)
    needed = [k for k in target if k in params or ".running_" in f".{k}"]  # other buffers are computed again
    if lacking := [k for k in needed if k not in fit.found]:
        extra = f", and holds {first_names(fit.extra)} that it has not" if fit.extra else ""
        raise UserError(
            f"{path} lacks {len(lacking)} of the {len(needed)} tensors of {name}: {first_names(lacking)}{extra}; name "
            "the architecture that it was trained with, or give a whole checkpoint."
        )


def _head(held: Tensors, prefix: str, body: nn.Module, width: int) -> Tensors | None:
    """Return the classification head beside the weights, or above them."""
    named = getattr(body, "pretrained_cfg", {}).get("classifier") or ()
    names = dict.fromkeys([*([named] if isinstance(named, str) else named), *HEADS])
    places = [prefix[: len(prefix) - cut] for cut in _cuts(prefix)]
    for place in places:
        for name in names:
            weight = held.get(f"{place}{name}.weight")
            if weight is not None and weight.dim() == 2 and weight.shape[1] == width:
                bias = held.get(f"{place}{name}.bias")
                return as_classifier(weight, bias)
    return None


def as_classifier(weight: Tensor, bias: Tensor | None) -> Tensors:
    """Return a linear head ``(classes, width)`` as `Backbone.classifier` does."""
    w = weight.detach().float()
    return {"weight": w, "bias": w.new_zeros(len(w)) if bias is None else bias.detach().float()}


def _cuts(prefix: str) -> list[int]:
    """Return the number of characters of a dotted prefix up to the root."""
    parts = prefix.split(".")[:-1]
    return [0, *(sum(len(p) + 1 for p in parts[i:]) for i in range(len(parts) - 1, -1, -1))]


def _told(path: Path, held: Tensors, fit: _Fit, head: Tensors | None, body: nn.Module) -> str:
    """Describe what was loaded, resampled and left out."""
    under = f" under `{fit.prefix}`" if fit.prefix else ""
    sentences = [f"{path.name}: {len(fit.found)} tensors{under}"]
    for k, v in fit.found.items():
        if k in fit.given and fit.given[k].shape != v.shape and v.dim() > 1:
            sentences.append(f"{k} resampled from {_size(fit.given[k])} to {_size(v)}")
    extra = [k for k in fit.extra if head is None or k.rpartition(".")[0] not in HEADS]
    if head is not None:
        sentences.append(
            f"its head of {len(head['weight'])} classes is left out, and kept for the scenario `Pretrained`"
        )
    apart = Counter(k.partition(".")[0] for k in held if not k.startswith(fit.prefix))
    others = [*extra, *(f"{k} ({n} {'tensors' if n > 1 else 'tensor'})" for k, n in apart.items())]
    if others:
        sentences.append(f"left out: {first_names(others)}")
    return "; ".join(sentences) + "."


def _size(x: Tensor) -> str:
    return " x ".join(str(n) for n in x.shape) or "one number"


def _from_jax(body: nn.Module, path: Path, held: Tensors, name: str, width: int) -> Loaded:
    """Load a ``.npz`` as Google released ViTs, by timm's reader of the family."""
    read = getattr(body, "load_pretrained", None)
    if read is None:
        raise UserError(f"timm reads no .npz into {name}; give its weights as .safetensors or .pth.")
    blocks = {k.split("encoderblock_")[1].partition("/")[0] for k in held if "encoderblock_" in k}
    have = len(getattr(body, "blocks", ()))
    try:
        if blocks and len(blocks) != have:
            raise ValueError(f"{len(blocks)} blocks in place of {have}")
        read(str(path))
    except COMPLAINTS as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} does not hold a {name} ({reason}); name the architecture of the file.") from error
    kernel = next((v for k, v in held.items() if k.endswith("head/kernel") and v.dim() == 2), None)
    bias = next((v for k, v in held.items() if k.endswith("head/bias") and v.dim() == 1), None)
    head = as_classifier(kernel.T, bias) if kernel is not None and len(kernel) == width else None
    kept = f"; its head of {len(head['weight'])} classes is left out, and kept for `Pretrained`" if head else ""
    return Loaded(f"{path.name}: {len(held)} tensors, by timm's reader of .npz{kept}.", head)

"""Folders of sentence-transformers: where their parts are, in new and older layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from torch import nn

from cl_framework.backbones.weight_file import tensors_in
from cl_framework.errors import UserError

ACTIVATIONS = {"Tanh": nn.Tanh, "Identity": nn.Identity, "ReLU": nn.ReLU, "GELU": nn.GELU}


def _part(folder: Path, kind: str) -> list[Path]:
    """Return the folders of the parts of a kind, such as ``Pooling``, in order, as ``modules.json`` lists them."""
    listed = json_or_empty(folder / "modules.json")
    modules = [m for m in listed if isinstance(m, dict) and str(m.get("type", "")).endswith(f".{kind}")]
    return [folder / str(m.get("path", "")) for m in modules]


def encoder_folder(folder: Path) -> Path:
    """Return where the encoder lies: the folder itself, or a part of it such as ``0_Transformer``."""
    named = [p for p in (*_part(folder, "Transformer"), *sorted(folder.glob("0_*"))) if (p / "config.json").is_file()]
    return named[0] if named else folder


def pooling_of(folder: Path) -> Literal["mean", "cls"] | None:
    """Return how features are pooled, as sentence-transformers recorded it; None if it did not."""
    place = next(iter(_part(folder, "Pooling")), folder / "1_Pooling")
    settings = json_or_empty(place / "config.json")
    settings = settings if isinstance(settings, dict) else {}
    modes = [settings.get("pooling_mode"), *(k.removeprefix("pooling_mode_") for k, v in settings.items() if v is True)]
    chosen = [m for m in modes if m in ("mean", "cls", "mean_tokens", "cls_token")]
    if settings and len(chosen) != 1:
        raise UserError(f"{folder} pools in a way that is not known here; set `pooling` to mean or cls.")
    if not chosen:
        return None
    return "mean" if chosen[0].startswith("mean") else "cls"


def dense_layers(folder: Path) -> nn.Module:
    """Return the layers that pooled features go through, as in LaBSE and sentence-T5; none changes nothing.

    Raises:
        UserError: If one cannot be read.
    """
    layers: list[nn.Module] = []
    for place in _part(folder, "Dense"):
        settings = json_or_empty(place / "config.json")
        kind = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
        if kind not in ACTIVATIONS:
            raise UserError(
                f"{place} uses the activation {kind}, which is not known here; remove it from modules.json."
            )
        files = [p for name in ("model.safetensors", "pytorch_model.bin") if (p := place / name).is_file()]
        held = tensors_in(files[0] if files else place / "model.safetensors")
        weight, bias = held.get("linear.weight"), held.get("linear.bias")
        if weight is None or weight.dim() != 2:
            raise UserError(f"{place} holds no linear.weight; copy the folder again, or remove it from modules.json.")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        own = {"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()})
        layer.load_state_dict(own, assign=True)
        layers += [layer, ACTIVATIONS[kind]()]
    return nn.Sequential(*layers)


def width_after(finish: nn.Module, width: int) -> int:
    """Return the width of features after the last linear layer of ``finish``, ``width`` if there is none."""
    linear = [m for m in finish.modules() if type(m) is nn.Linear]
    return linear[-1].out_features if linear and not hasattr(finish, "probe") else width


def json_or_empty(path: Path) -> Any:
    """Return the content of a JSON file; an empty dictionary if there is no file.

    Raises:
        UserError: If it is not valid.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); fix or remove it.") from error

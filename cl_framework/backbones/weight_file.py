"""Files of weights read as named tensors, without running code from them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from cl_framework.errors import UserError
from cl_framework.settings.declared import PICKLED, WEIGHT_FORMATS, check_weights
from cl_framework.storage.lfs_pointers import unfetched

UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, BadZipFile, SafetensorError)


def tensors_in(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by dotted name; nested dictionaries such as ``state_dict`` become prefixes.

    Args:
        path: A ``.safetensors`` file, a file of ``torch.save`` (`PICKLED`), or a ``.npz`` file.

    Raises:
        UserError: If it is missing, of another kind, damaged, holds a pickled object, or no tensor at all.
    """
    if path.is_dir():
        held = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in (*PICKLED, ".safetensors", ".npz"))
        inside = f"the file in it: {first_names(held)}" if held else f"a file ({WEIGHT_FORMATS})"
        raise UserError(f"{path} is a folder; give {inside}.")
    check_weights(path)
    if not path.stat().st_size:
        raise UserError(f"{path} is empty; copy it again.")
    if unfit := unfetched(path):
        raise UserError(f"{path} is {unfit}.")
    tensors = dict(_flat(_read(path)))
    if not tensors:
        raise UserError(f"{path} holds no tensor; give a checkpoint of weights ({WEIGHT_FORMATS}).")
    return tensors


def _read(path: Path) -> object:
    kind = path.suffix.lower()
    if kind not in (*PICKLED, ".safetensors", ".npz"):
        raise UserError(f"{path} ends in {kind or 'nothing'}; a weight file is {WEIGHT_FORMATS}: rename or convert it.")
    try:
        if kind == ".safetensors":
            return load_file(path)
        if kind == ".npz":
            with np.load(path, allow_pickle=False) as held:
                return {k: torch.from_numpy(held[k]) for k in held.files if held[k].dtype.kind in "fiu"}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'torch.load' received a zip file")  # TorchScript: refused below
            try:
                return load_state_dict(str(path), weights_only=True)  # timm's: of several sets of weights the average
            except AttributeError:  # it assumes a dictionary
                return {}
    except UNREADABLE as error:
        if "globals" in str(error) and (named := _globals(path, str(error.__cause__))):
            raise UserError(
                f"{path} is a pickled model or holds pickled objects ({named}), and unpickling runs their code; load "
                "it where you trust it and save its weights alone: `torch.save(model.state_dict(), FILE)`."
            ) from error
        if "TorchScript" in f"{error} {error.__cause__}":
            raise UserError(
                f"{path} is a TorchScript program; save its weights alone: `torch.save(model.state_dict(), FILE)`."
            ) from error
        raise UserError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    if isinstance(error, OSError) or "weights_only" in reason:  # torch treats unknown files as pickles
        reason = "it was not written by torch.save, or is damaged"
    return f"{path} cannot be read as {path.suffix} ({reason}); copy it again, or save it anew."


def _globals(path: Path, message: str) -> str:
    """Return the classes that a pickled file asks for and that are no tensors."""
    try:
        named = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file of before torch 1.6, or of anything
        named = re.findall(r"GLOBAL ([\w.]+)", message)
    shown = sorted({*named} - {"argparse.Namespace"}, key=lambda n: (n.startswith("torch."), n.count("."), n))
    return first_names(shown)


def _flat(node: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield prefix[:-1] or "tensor", node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}{key}.")


def refuse_whole(held: Mapping[str, torch.dtype], where: Path) -> None:
    """Refuse weights of whole numbers, as quantised checkpoints hold: their values mean nothing without a scale.

    Args:
        held: The type of each tensor that goes into a parameter, by name.
        where: Their file.

    Raises:
        UserError: If one is not of floats.
    """
    odd = [k for k, dtype in held.items() if not dtype.is_floating_point]
    if odd:
        raise UserError(
            f"{where} holds whole numbers ({str(held[odd[0]]).removeprefix('torch.')}) as {first_names(odd)}, as "
            "quantised models do; give weights of floats."
        )


def refuse_unusable(body: nn.Module, where: str) -> None:
    """Refuse a network whose weights or running statistics are not all finite.

    Raises:
        UserError: If a tensor holds a NaN or an infinity; it names the first and counts the rest.
    """
    held = {**dict(body.named_parameters()), **{k: b for k, b in body.named_buffers() if ".running_" in f".{k}"}}
    real = {k: v for k, v in held.items() if v.is_floating_point() and not v.is_meta}
    bad = [k for k, v in real.items() if not bool(torch.isfinite(v).all())]
    if bad:
        count = int((~torch.isfinite(held[bad[0]])).sum())
        others = f", and {len(bad) - 1} tensors more hold some" if len(bad) > 1 else ""
        raise UserError(
            f"{where}: {count} of the {held[bad[0]].numel()} values of {bad[0]} are NaN or infinite{others}; "
            "give an intact checkpoint, such as one from before training diverged."
        )


def first_names(names: list[str], most: int = 3) -> str:
    """Return the first few of a list of names, and how many more there are.

    >>> first_names(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

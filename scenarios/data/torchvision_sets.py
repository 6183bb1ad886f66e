"""`torchvision:NAME`: any labelled torchvision data set that has a training and a test split."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import Loader
from scenarios.data.source import Pictures, Source

LOADER = Loader("torchvision")
_SPLITS = {"train": ("train", "trainval"), "test": ("test", "val")}


def load(which: str, root: str = "", download: bool = False) -> Source:
    """Open the data set ``which``; class ids are torchvision's.

    Args:
        which: A class of torchvision.datasets, such as CIFAR100.
        root: The folder torchvision looks in; the environment's CLF_DATA or ~/.cache/cl_framework/data by default.
        download: Whether torchvision may fetch what is missing.

    Raises:
        UserError: If there is no such data set, its files are missing, or it keeps images in a way not known here.
    """
    from torchvision import datasets

    if which not in datasets.__all__:
        raise UserError(f"torchvision has no data set {which!r}. {did_you_mean(which, datasets.__all__)}")
    kind = getattr(datasets, which)
    folder = Path(root or os.environ.get("CLF_DATA", "~/.cache/cl_framework/data")).expanduser()
    sets = {split: _opened(kind, split, folder, download) for split in _SPLITS}
    parts = {split: images_and_labels(split, s) for split, s in sets.items()}
    known = getattr(sets["train"], "classes", None) or range(int(parts["train"].labels.max()) + 1)
    names = tuple(c if isinstance(c, str) else c[0] if isinstance(c, tuple) else str(c) for c in known)
    return Source(f"torchvision:{which}", parts["train"], parts["test"], names)


def _opened(kind: Any, split: str, folder: Path, download: bool) -> Any:
    """Make torchvision's data set for ``split``, whichever way it spells its splits."""
    takes = inspect.signature(kind).parameters
    options = {"download": download} if "download" in takes else {}
    ways = [{"train": split == "train"}] if "train" in takes else [{"split": s} for s in _SPLITS[split]]
    if not takes.keys() & {"train", "split"}:
        raise UserError(f"torchvision's {kind.__name__} has no train and test splits; use imagefolder:PATH.")
    problem: Exception | None = None
    for way in ways:
        try:
            return kind(folder, **way, **options)
        except (ValueError, TypeError) as e:  # this data set calls its split something else
            problem = problem or e
        except (RuntimeError, OSError, URLError) as e:
            advice = f"add :download=true to fetch {kind.__name__}, or " if options and not download else ""
            raise UserError(
                f"The files of {kind.__name__} are not complete under {folder} ({e}); {advice}put them there, or name "
                "another folder in CLF_DATA."
            ) from e
    raise UserError(f"torchvision's {kind.__name__} cannot be opened by split alone ({problem}); use imagefolder:PATH.")


def images_and_labels(split: str, dataset: Any) -> Pictures:
    """Take images and labels out of torchvision's data set, without decoding files."""
    held = vars(dataset)
    labels = next((held[k] for k in ("targets", "labels", "_labels") if k in held), None)
    data = held.get("data")
    if labels is not None and isinstance(data, (np.ndarray, Tensor)):
        return Pictures(split, data, torch.as_tensor(np.asarray(labels)))
    files = next((held[k] for k in ("_image_files", "_images") if k in held), None)
    if labels is not None and files is not None:
        return Pictures(split, [Path(f) for f in files], labels)
    pairs = next((held[k] for k in ("samples", "_samples") if k in held), None)
    if pairs is None:
        raise UserError(f"{type(dataset).__name__} keeps its images in an unknown way; save them for imagefolder:PATH.")
    return Pictures(split, [Path(f) for f, _ in pairs], [int(c) for _, c in pairs])

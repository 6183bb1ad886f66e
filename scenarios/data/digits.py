"""`digits`: the 1,797 handwritten digits that scikit-learn ships, 8 x 8 grey pixels."""

from __future__ import annotations

import numpy as np
import torch

from cl_framework.errors import UserError
from cl_framework.settings import Loader
from scenarios.data.source import Pictures, Source

LOADER = Loader("digits")


def load(test: float = 0.3, seed: int = 0) -> Source:
    """Split the digits, stratified and seeded.

    Args:
        test: Share of the images held out for testing.
        seed: Seed of the split.

    Raises:
        UserError: If ``test`` is not from 0.01 to 0.99.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if not 0.01 <= test <= 0.99:
        raise UserError(f"digits:test is the share of images held out, from 0.01 to 0.99; found {test}.")
    data = load_digits()
    images = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    rows = train_test_split(np.arange(len(labels)), test_size=test, stratify=data.target, random_state=seed)
    train, held = map(np.sort, rows)
    parts = {s: Pictures(s, images[r], labels[r]) for s, r in (("train", train), ("test", held))}
    return Source("digits", parts["train"], parts["test"], tuple(map(str, range(10))))

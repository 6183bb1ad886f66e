"""Checks for NaN and infinity in states, features and scores, and of the shape of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.streams.lazy_inputs import Inputs

LOWER = "lower --model.optimizer.lr, which `clf resume DIR` and `clf learn DIR` take as well"
"""Advice where training diverged at the configured rate."""


def check_tensors(tensors: Mapping[str, Tensor], event: str, cause: str) -> None:
    """Require that every number of a state is finite.

    Args:
        tensors: By name; integers are ignored.
        event: The request that made them.
        cause: Probable cause and advice, as a clause.

    Raises:
        UserError: If one holds NaN or infinity.
    """
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise UserError(
            f"{event!r} left numbers that are not finite in {len(bad)} of {len(tensors)} tensors (first in {bad[0]}): "
            f"{cause}. Nothing of it was kept; the run is as it was before this request."
        )


def check_features(features: Tensor, ids: Sequence[int], inputs: Inputs, names: Sequence[str]) -> None:
    """Require that features of samples are finite.

    Args:
        features: ``(n, width)``.
        ids: Of the ``n`` samples.
        inputs: What they were computed from.
        names: The adapters in use.

    Raises:
        UserError: If one is not.
    """
    if bool(torch.isfinite(features).all()):
        return
    bad = (~torch.isfinite(features).flatten(1).all(1)).nonzero()[:, 0].tolist()
    cause = (
        f"the adapters in use ({', '.join(names)}) have diverged; {LOWER}"
        if names
        else "the backbone overflows; set trainer.precision to 32-true, or give other weights"
    )
    given = inputs.tensor[bad]
    if given.is_floating_point() and not bool(torch.isfinite(given).all()):
        cause = "the inputs themselves hold NaN or infinity; fix or remove them"
    raise UserError(f"The features of {len(bad)} samples, ids {[ids[i] for i in bad[:8]]}, are not finite: {cause}.")


def check_scores(scores: object, strategy: str, n: int, classes: int) -> Tensor:
    """Return scores; require their shape, and that they are numbers: infinite ones exclude a class and are allowed.

    Args:
        scores: What `Strategy.predict` returned.
        strategy: The strategy of the scores.
        n: Number of samples.
        classes: Number of live classes.

    Raises:
        UserError: If they are no tensor ``(n, classes)``, or one is NaN.
    """
    if not isinstance(scores, Tensor) or scores.shape != (n, classes):
        found = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise UserError(
            f"{strategy}.predict returned {found}; return a tensor of scores (n, len(model.classes)), which is "
            f"{(n, classes)} here, with columns in the order of model.classes."
        )
    if bad := int(scores.isnan().any(1).sum()):
        raise UserError(
            f"The scores of {bad} samples are no numbers, though features and state are: {strategy} overflows with its "
            "settings; lower model.optimizer.lr, or set other numbers under model.strategy."
        )
    return scores

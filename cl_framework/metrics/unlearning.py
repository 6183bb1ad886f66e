"""Unlearning metrics: what is gone, weighed against what stayed."""

from __future__ import annotations


def h_mean(retain: float, forget_before: float, forget_after: float) -> float:
    """Harmonic mean of retained accuracy and of the drop on what had to go (GS-LoRA, Zhao et al., 2024).

    ``H = 2 * retain * drop / (retain + drop)`` with ``drop = forget_before - forget_after``. It goes by two names that
    differ in one argument: **H_step** takes ``forget_before`` just before this request, and is what results report;
    **H_pre** takes it from the model as it was before any request at all, and is what the paper's tables hold.

    Args:
        retain: Accuracy on the retained classes after the request.
        forget_before: Accuracy on what had to go, before.
        forget_after: The same, after.

    Returns:
        A value in [0, 1]; 0.0 when nothing dropped or nothing is retained, where no harmonic mean exists.

    >>> h_mean(retain=1.0, forget_before=1.0, forget_after=0.5)
    0.6666666666666666
    >>> h_mean(retain=0.9, forget_before=0.5, forget_after=0.6)
    0.0
    """
    drop = forget_before - forget_after
    return 2 * retain * drop / (retain + drop) if retain > 0 and drop > 0 else 0.0

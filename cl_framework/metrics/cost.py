"""Cost of a run: images through the backbone, seconds, bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SUMMED = ("passes_train", "passes_statistics", "passes_evaluate", "features_found", "seconds")


def total_cost(events: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the cost of a run: passes and seconds are summed, memory is the highest peak, storage the last value.

    Args:
        events: Per event, images sent through the backbone while training, for statistics and for evaluation
            (``passes_*``), ``features_found`` in a shared store, ``seconds``, ``peak_memory_bytes``, and
            ``stored_bytes`` that the learner holds after it.

    >>> costs = [dict.fromkeys((*_SUMMED, "peak_memory_bytes", "stored_bytes"), n) for n in (1, 3, 2)]
    >>> total = total_cost(costs)
    >>> total["passes_train"], total["peak_memory_bytes"], total["stored_bytes"]
    (6, 3, 2)
    """
    return {
        **{name: sum(e[name] for e in events) for name in _SUMMED},
        "peak_memory_bytes": max((e["peak_memory_bytes"] for e in events), default=0),
        "stored_bytes": events[-1]["stored_bytes"] if events else 0,
    }

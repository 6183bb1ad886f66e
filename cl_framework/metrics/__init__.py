"""Metrics as pure functions of plain numbers, each named after its formula."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["continual", "cost", "membership", "ranked", "recovery", "unlearning"]
)

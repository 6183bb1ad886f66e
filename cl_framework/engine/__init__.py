"""The loop, the Lightning module, trainers, the learner's state, lineage."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Pure tensor formulas: subspaces, statistics of classes, ridge regression, sorted ids."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

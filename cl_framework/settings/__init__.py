"""Classes a config may name and ranges of its numbers, found and checked without imports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

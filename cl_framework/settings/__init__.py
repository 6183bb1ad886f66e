"""What a config may name and which numbers it may hold, found and judged without importing it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

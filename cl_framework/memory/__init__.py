"""State filed by class, experience and sample, which can be erased by them; provenance of trained state."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

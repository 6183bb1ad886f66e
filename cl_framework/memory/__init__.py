"""State that is filed by class, experience and sample and can be erased by them; where trained state comes from."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""From YAML and flags to built parts, and the sentences about mistakes in them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

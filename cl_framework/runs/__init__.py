"""The run directory: events, receipts, signatures, maintenance, the opened run, the plan of a forget request."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""What is done with a run, the same for the command line and for Python: start, resume, learn, forget, ask, audit."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

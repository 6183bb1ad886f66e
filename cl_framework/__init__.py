"""Continual learning and unlearning on frozen transformers: learn and forget in one stream."""

from cl_framework.threads import let_idle_ones_sleep

import lazy_loader

let_idle_ones_sleep()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

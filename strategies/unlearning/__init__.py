"""How to forget: one file per method."""

from cl_framework.settings import exports

__getattr__, __dir__ = exports(__name__)

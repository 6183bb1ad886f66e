"""Pictures from files: decoding, orientation, resizing, cache."""

from cl_framework.settings import exports

__getattr__, __dir__ = exports(__name__)

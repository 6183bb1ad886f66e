"""Pictures from files: decoded, turned upright, resized, kept."""

from cl_framework.settings import exports

__getattr__, __dir__ = exports(__name__)

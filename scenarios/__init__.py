"""Scenarios: one file, one way to order the world."""

from cl_framework.settings import exports

__getattr__, __dir__ = exports(__name__)

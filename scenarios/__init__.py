"""Scenarios: one file per kind of stream."""

from cl_framework.settings import exports

__getattr__, __dir__ = exports(__name__)

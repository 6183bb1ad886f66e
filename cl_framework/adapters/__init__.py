"""Families of adapters."""

"""Scenarios: one file, one way to order the world."""

"""Formulas of what was measured: pure functions of plain numbers, each named after its formula."""

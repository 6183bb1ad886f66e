"""How to forget: one file per method."""

"""One module per group of verbs: it parses, calls and prints."""

__all__: list[str] = []

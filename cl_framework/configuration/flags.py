"""A command line taken apart into options and their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cl_framework.configuration import shipped


def options(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield dotted names and texts of options.

    >>> list(options(["--config", "a.yaml", "--model.strategy=EASE", "--print_config"]))
    [('config', 'a.yaml'), ('model.strategy', 'EASE'), ('print_config', None)]
    """
    for i, word in enumerate(words):
        if word in shipped.FLAGS or word.startswith("--"):
            flag, equals, value = word.partition("=")
            after = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else None
            yield ("config" if flag == "-c" else flag[2:].rstrip("+")), value if equals else after


def left_over(words: Sequence[str]) -> str | None:
    """Return the first word that is neither an option nor the value of one.

    >>> left_over(["--threads", "2", "EASE"]), left_over(["--config=a.yaml", "--threads", "2"])
    ('EASE', None)
    """
    flags = [w in shipped.FLAGS or w.startswith("--") for w in words]
    awaited = [flag and "=" not in word for flag, word in zip(flags, words, strict=True)]
    return next((w for i, w in enumerate(words) if not flags[i] and not (i and awaited[i - 1])), None)


OPTIMISER = ("--model.optimizer", "--model.schedule")

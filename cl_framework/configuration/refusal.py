"""Why the full parser, or a class that it builds, refuses what a config says."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from lightning_utilities.core.imports import RequirementCache

from cl_framework.configuration.given import Given
from cl_framework.errors import UserError, unforeseen


def of_the_parser(error: Exception, words: Sequence[str], sections: Sequence[str] = ()) -> UserError:
    """Return what to tell of a command line that the full parser refuses.

    What passed as perhaps right is judged once more, now that it is known to be wrong. Only what nobody foresaw is
    told in the parser's own words.

    Args:
        error: What the parser raised.
        words: The command line, configs as paths.
        sections: What may be set; all unless given.
    """
    if objection := next((e for e in _causes(error) if isinstance(e, UserError)), None):
        return objection
    try:
        given = Given(sections, certain=True).words(words)
        given.check()
        if any(isinstance(e, ImportError) and isinstance(e, ValueError) for e in _causes(error)):
            given.check_trust()
    except UserError as refused:
        return refused
    return UserError(f"The config cannot be used: {' '.join(str(error).split()).rstrip('.')}.")


def of_a_class(kind: type, error: Exception, wrapped: bool) -> str | None:
    """Return what to tell of a class that could not be built; None where it is a fault of ours.

    Args:
        kind: The class.
        error: What building it raised.
        wrapped: Whether the parser replaced the error by one of its own.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        package = error.name or next(_unmet(kind), None)
        install = f": `pip install '{package}'`, or choose another class." if package else "; choose another class."
        return f"{kind.__name__} needs a package that is not installed{install}"
    if not wrapped:
        return None
    return unforeseen.mendable(error) or f"{kind.__name__}: {' '.join(str(error).split())}"


def _unmet(kind: type) -> Iterator[str]:
    """Yield the packages that the module of a class asks for and does not find."""
    for value in vars(sys.modules[kind.__module__]).values():
        if isinstance(value, RequirementCache) and not value:
            yield value.requirement or value.module or ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

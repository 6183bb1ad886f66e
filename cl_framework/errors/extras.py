"""How to install an optional feature: its packages themselves, since this package is on no registry."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

from cl_framework.errors import UserError

EXTRA = re.compile(r"""^(?P<package>[^;]+?)\s*;\s*extra\s*==\s*['"](?P<extra>\w+)['"]$""")


def command(extra: str) -> str:
    """Return the line that installs what an extra names, as the installed package's metadata tell, or in a clone."""
    try:
        matches = [EXTRA.match(line) for line in requires("cl-framework") or ()]
    except PackageNotFoundError:  # run from a source tree
        matches = []
    packages = [f"'{m['package']}'" for m in matches if m and m["extra"] == extra]
    return f"pip install {' '.join(packages)}" if packages else f"pip install -e '.[{extra}]'"


def missing_extra(problem: str, extra: str) -> UserError:
    """Return the error that says which packages a feature needs.

    >>> str(missing_extra("Signatures need cryptography", "none such"))
    "Signatures need cryptography; `pip install -e '.[none such]'` brings what is missing."
    """
    return UserError(f"{problem}; `{command(extra)}` brings what is missing.")

"""Entries of ``clf list``: names that a config may use and metrics of results, found without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import data_loaders, discovery, signatures
from cl_framework.settings.discovery import Entry

LISTED_KINDS = (*discovery.KINDS, "datasets", "metrics")


def entries(kind: str) -> list[Entry]:
    """Return what there is of a kind, with a line about each.

    Raises:
        UserError: If the kind is unknown, a package is shadowed, or a file is not valid Python.
    """
    if kind == "datasets":
        return list(_datasets())
    if kind == "metrics":
        return sorted(_metrics(), key=lambda entry: entry.name)
    if kind not in LISTED_KINDS:
        raise UserError(f"There is no list of {kind!r}. {did_you_mean(kind, LISTED_KINDS)}")
    return discovery.catalogue(kind)


def _datasets() -> Iterator[Entry]:
    for each in data_loaders.loader_files():
        subject = f":{each.subject.upper()}" if each.subject else ""
        options = f" Options: {', '.join(each.options)}." if each.options else ""
        summary = f"{each.summary[:1].upper()}{each.summary[1:]}{options}"
        yield Entry(each.loader.prefix + subject, summary, each.module)


def _metrics() -> Iterator[Entry]:
    for file in sorted((Path(__file__).parents[1] / "metrics").glob("*.py")):
        for node in signatures.tree(file).body:
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
                summary = _summary(node)
                if not summary.startswith("Return "):  # a part of figures, no figure itself
                    yield Entry(node.name, summary, f"cl_framework.metrics.{file.stem}")


def _summary(node: ast.Module | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0].replace("``", "`")

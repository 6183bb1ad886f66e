"""``clf audit``: print what an audit of a run found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_framework.auditing import verdict
from cl_framework.cli import arguments
from cl_framework.operations import run_audit
from cl_framework.operations.run_audit import AuditOptions
from cl_framework.runs.reopening import opened
from cl_framework.terminal import grid
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable


def audit(argv: Sequence[str]) -> int:
    """Carry out ``clf audit``."""
    args = arguments.parse("audit", argv)
    directory = opened(args.dir, args.relocate)
    options = AuditOptions(
        args.request, args.original, args.retrained, args.seeds, args.shadows, not args.no_relearn, args.fast
    )
    report = run_audit.audit_run(directory, options)
    for heads, rows in tables(report):
        grid.print_table(CONSOLE, heads, rows)
    for line in verdict.verdict_lines([verdict.Conclusion(**c) for c in report["conclusions"]]):
        CONSOLE.print(line, soft_wrap=not CONSOLE.is_terminal)
    CONSOLE.print(f"audit    {directory.path / run_audit.AUDIT_FILE}", soft_wrap=True)
    return 0


def tables(report: Mapping[str, Any]) -> list[tuple[list[str], list[list[grid.TableCell]]]]:
    """Return heads and rows of what is shown: metrics by model, then what the run recorded, then U-LiRA."""
    models = list(next(iter(report["metrics"].values())))
    metrics: list[list[grid.TableCell]] = [
        [metric, *((cell(values[m]), "bold" if m == "run" else "") for m in models)]
        for metric, values in report["metrics"].items()
    ]
    shown = [(["metric", *(m.replace("retrained_", "seed ") for m in models)], metrics)]
    if record := report["record"]:
        rows: list[list[grid.TableCell]] = [
            [name, *(cell(row[name]) for row in record)] for name in list(record[0])[1:]
        ]
        shown.append((["request", *(printable(row["request"]) for row in record)], rows))
    if attack := report["u_lira"]:
        shown.append((["shadow models", ""], [[name, cell(value)] for name, value in attack.items()]))
    return shown


def cell(value: float | None) -> str:
    """Return a number for a table, a dash for None.

    >>> cell(0.12345), cell(3), cell(None)
    ('0.123', '3', '-')
    """
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"

"""What comparisons report: the numbers of each cell, summed up over seeds, as a table of the docs."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from cl_framework.errors import UserError

Columns: TypeAlias = Mapping[str, tuple[str, float, int]]
COLUMNS: Columns = {
    "average_incremental_accuracy": ("average incremental accuracy", 100, 1),
    "final_accuracy": ("final accuracy", 100, 1),
    "forgetting_max_past": ("forgetting, max past", 100, 1),
    "plasticity": ("plasticity", 100, 1),
    "trainable_parameters": ("trained parameters (k)", 1e-3, 0),
    "stored_bytes": ("stored (MB)", 1e-6, 2),
    "seconds": ("seconds", 1, 0),
    "passes_per_test_image": ("passes per test image", 1, 1),
}
"""What is compared: heading, factor and decimals of each number in the table."""
REQUESTS: Columns = {
    "accuracy_forget": ("Acc_f", 100, 1),
    "accuracy_retain": ("Acc_r", 100, 1),
    "erosion": ("erosion", 100, 1),
    "accuracy_old": ("Acc_o", 100, 1),
    "h_mean_pre": ("H", 100, 1),
    "relapse": ("relapse", 100, 1),
}
"""What a run says of its forget requests: means over them, but Acc_r and Acc_o of the last and the worst relapse."""
AUDIT: Columns = {
    "recovery_probe_ridge": ("recovery, probe", 100, 0),
    "recovery_ncm_all": ("recovery, NCM", 100, 0),
    "old_rows_accuracy": ("old rows put back", 100, 1),
    "mia_loss_auc": ("MIA, loss", 100, 1),
    "mia_entropy_auc": ("MIA, entropy", 100, 1),
    "js_to_retrained": ("JS to retrain", 1, 3),
    "gap_to_retrain": ("gap to retrain", 100, 1),
}
"""What `clf audit` says of it afterwards."""
EFFORT: Columns = {
    "seconds_forget": ("s per request", 1, 2),
    "images": ("images read, % of retraining", 100, 1),
}
FORGETTING: Columns = {
    "average_incremental_accuracy": ("average accuracy", 100, 1),
    **REQUESTS, **AUDIT, **EFFORT, "seconds": ("seconds", 1, 0),
}  # fmt: skip
"""What is compared where streams forget."""
MARKED = re.compile(r"(?<=<!-- table: )(?P<name>[\w-]+) -->\n.*?(?=<!-- /table -->)", re.DOTALL)


def summary(cells: Sequence[Mapping[str, Any]], columns: Columns = COLUMNS) -> list[dict[str, Any]]:
    """Return mean and sample standard deviation over seeds of every number, by method; what is None in some is None.

    >>> [row] = summary([{"method": "EASE", "seed": s, **dict.fromkeys(COLUMNS, s)} for s in (1, 3)])
    >>> row["method"], row["mean"]["plasticity"], round(row["std"]["plasticity"], 3)
    ('EASE', 2, 1.414)
    """
    rows = []
    for method in dict.fromkeys(c["method"] for c in cells):
        values = {k: [c[k] for c in cells if c["method"] == method] for k in columns}
        known = {k: v for k, v in values.items() if None not in v}
        mean: dict[str, float | None] = dict.fromkeys(columns)
        std = dict.fromkeys(columns, 0.0)
        mean |= {k: statistics.mean(v) for k, v in known.items()}
        std.update({k: statistics.stdev(v) for k, v in known.items() if len(v) > 1})
        rows.append({"method": method, "mean": mean, "std": std})
    return rows


def markdown(title: str, rows: Sequence[Mapping[str, Any]], note: str, columns: Columns = COLUMNS) -> str:
    """Return a table; accuracies are in percent, a spread that rounds to nothing is left out, None is a dash."""

    def shown(mean: float | None, std: float, factor: float, digits: int) -> str:
        if mean is None:
            return "-"
        middle, spread = f"{mean * factor:,.{digits}f}", f"{std * factor:,.{digits}f}"
        return f"{middle} ± {spread}" if float(spread.replace(",", "")) else middle

    lines = [f"| {title} | " + " | ".join(heading for heading, _, _ in columns.values()) + " |"]
    lines += ["|---|" + "---:|" * len(columns)]
    for row in rows:
        numbers = [shown(row["mean"][k], row["std"][k], factor, digits) for k, (_, factor, digits) in columns.items()]
        lines.append(f"| {row['method']} | " + " | ".join(numbers) + " |")
    return "\n".join([*lines, "", note, ""])


def write(folder: Path, name: str, table: str, facts: Mapping[str, Any] | Sequence[Any]) -> Path:
    """Write a table and, beside it, what it was made of; return the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(table, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def filled(readme: str, tables: Path) -> str:
    """Return ``readme`` with the table NAME between each ``<!-- table: NAME -->`` and ``<!-- /table -->``.

    Raises:
        UserError: If there is no such pair, or a table is not made yet.
    """
    names = [m["name"] for m in MARKED.finditer(readme)]
    if not names:
        raise UserError("README.md has no place for a table; add lines `<!-- table: NAME -->` and `<!-- /table -->`.")
    if missing := [n for n in names if not (tables / f"{n}.md").exists()]:
        raise UserError(f"{tables} has no {missing[0]}.md; `compare.py configs/compare/{missing[0]}.yaml` makes it.")
    texts = {n: (tables / f"{n}.md").read_text(encoding="utf-8") for n in names}
    return MARKED.sub(lambda m: f"{m['name']} -->\n{texts[m['name']]}", readme)

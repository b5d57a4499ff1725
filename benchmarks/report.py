"""What every benchmark shares: its command line, its table, the machine it ran on."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memos_core.render import console, table


def parser(description: str) -> argparse.ArgumentParser:
    """`--quick` ends within a minute and keeps the shape; `--json FILE` also writes the figures."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="fewer cells, about a minute")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return made


def arguments(description: str) -> argparse.Namespace:
    """What `parser` understands, where a benchmark has no arguments of its own."""
    return parser(description).parse_args()


def machine() -> str:
    """The machine, in words, for the table's title."""
    name = platform.processor() or platform.machine()
    try:
        import torch
    except ImportError:
        return f"{os.cpu_count()} CPUs ({name})"
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} CPUs ({name}){accelerator}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def show(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    skipped: Sequence[str],
    path: Path | None,
    notes: Sequence[str] = (),
    tables: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Print one table, what was not measured and what one must know to read it, and write all as JSON where that
    is wanted. A value that is None or not in its row was not measured. With `tables` the rows are too wide for one:
    each has a title and the names of its columns."""
    out = console()
    for heading, names in (tables or {title: list(rows[0])}).items():
        right = [n for n in names if any(isinstance(row.get(n), int | float) for row in rows)]
        made = table(f"{heading}\n{machine()}", *names, right=right)
        for row in rows:
            made.add_row(*(_cell(row.get(name)) for name in names))
        out.print(made)
    for line in skipped:
        out.print(f"not measured: {line}", style="dim")
    for line in notes:
        out.print(line, style="dim")
    if path is not None:
        path.write_text(
            json.dumps(
                {
                    "title": title,
                    "machine": machine(),
                    "rows": rows,
                    "skipped": list(skipped),
                    "notes": list(notes),
                },
                indent=2,
            )
            + "\n"
        )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

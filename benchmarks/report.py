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


def arguments(description: str) -> argparse.Namespace:
    """`--quick` ends within a minute and keeps the shape; `--json FILE` also writes the figures."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer cells, about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser.parse_args()


def machine() -> str:
    """The machine, in words, for the table's title."""
    import torch

    name = platform.processor() or platform.machine()
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} CPUs ({name}){accelerator}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def show(title: str, rows: Sequence[Mapping[str, Any]], skipped: Sequence[str], path: Path | None) -> None:
    """Print one table and what was not measured, and write both as JSON where that is wanted."""
    names = list(rows[0])
    made = table(f"{title}\n{machine()}", *names, right=[n for n in names if not isinstance(rows[0][n], str)])
    for row in rows:
        made.add_row(
            *(
                f"{v:.3f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else str(v)
                for v in row.values()
            )
        )
    out = console()
    out.print(made)
    for line in skipped:
        out.print(f"not measured: {line}", style="dim")
    if path is not None:
        path.write_text(
            json.dumps({"title": title, "machine": machine(), "rows": rows, "skipped": skipped}, indent=2)
            + "\n"
        )

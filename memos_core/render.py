"""What people see in a terminal: tables of cubes and decisions. Plain text where the output is no terminal."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memos_core.cube import Activation, MemCube, Parametric, Plaintext, Scope
from memos_core.scheduler import Decision


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; 110 columns where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 110
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in the house style. `right` names the columns that are aligned to the right."""
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def cube_table(cubes: Iterable[MemCube], title: str = "") -> Table:
    """One line per cube: the end of its id, what it is, whose, and what it says."""
    made = table(title, "id", "type", "state", "v", "whose", "text", right=["v"])
    for column in made.columns[:-1]:
        column.no_wrap = True  # only the text gives way where the terminal is narrow
    for cube in cubes:
        made.add_row(
            cube.id[-8:],
            cube_type(cube),
            str(cube.state),
            str(cube.version),
            Text(whose(cube.scope)),
            Text(summary(cube), no_wrap=True, overflow="ellipsis"),
        )
    return made


def whose(scope: Scope) -> str:
    """A scope's user and agent, in few letters."""
    return "/".join(part for part in (scope.user or "-", scope.agent) if part)


def cube_type(cube: MemCube) -> str:
    """The structure of a typed cube, else its semantic type, else its kind."""
    payload = cube.payload
    if isinstance(payload, Plaintext):
        return payload.structure or cube.semantic_type
    return payload.kind


def summary(cube: MemCube, width: int = 160) -> str:
    """What a cube holds, in one line."""
    payload = cube.payload
    if isinstance(payload, Activation):
        return f"KV of {payload.n_tokens:,} tokens, {size(payload.nbytes)}, from {len(cube.derived_from)} memories"
    if isinstance(payload, Parametric):
        return f"{payload.format} for {', '.join(payload.modules)}"
    line = " ".join(payload.text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def decision_table(decisions: Iterable[Decision], title: str = "") -> Table:
    """One line per decision of the scheduler, with its reason."""
    made = table(
        title,
        "at",
        "scope",
        "did",
        "memories",
        "tokens",
        "KV",
        "seconds",
        "why",
        right=["memories", "tokens", "KV", "seconds"],
    )
    for d in decisions:
        made.add_row(
            f"{d.at:%H:%M:%S}",
            Text(d.scope.user or "-"),
            d.action,
            str(d.cubes),
            f"{d.tokens:,}",
            size(d.nbytes) if d.nbytes else "",
            f"{d.seconds:.2f}",
            Text(d.reason),
        )
    return made


def size(nbytes: int) -> str:
    """Bytes for people."""
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1_000_000 else f"{nbytes / 1e3:,.1f} kB"


def command(*words: str) -> str:
    """A `memos` command as the reader can type it here: with its path, where `memos` is in no folder of PATH."""
    own = (
        Path(sys.argv[0])
        if Path(sys.argv[0]).name.startswith("memos")
        else Path(sys.executable).parent / "memos"
    )
    folders = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    if own.parent in folders or not own.exists():
        program = "memos"
    else:
        program = str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)
    return shlex.join([program, *words])

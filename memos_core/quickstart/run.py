"""Runs the two sessions as two processes, one after the other, and says where everything is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from memos_core.errors import MemOSError
from memos_core.quickstart.script import USER
from memos_core.render import command, console


def run(vault: Path, model: str, turns: int) -> int:
    """Run the quickstart.

    Args:
        vault: the folder to keep; one from an earlier run is used again.
        model: name of the chat model, see `memos_core.activation.load_model`.
        turns: how many of the turns to tell.

    Returns:
        The exit code: 0, or that of the session that failed (which has said why).

    Raises:
        MemOSError: a session was killed.
    """
    out = console()
    out.print("[bold]MemOS quickstart[/bold]: an agent is told things in one process and asked in another.")
    out.print(f"Vault: {_short(vault)}   Model: {model}   User: {USER}\n")
    for number in ("1", "2"):
        code = _session(number, vault, model, turns)
        if code < 0:
            name = signal.Signals(-code).name
            raise MemOSError(
                f"session {number} was ended by {name}; what it stored is safe in {_short(vault)}: run it again"
            )
        if code:
            return code
    out.print("[bold]Look at what is left:[/bold]")
    where = ["--vault", _short(vault)]
    for words, what in (
        (["ls"], "every memory, newest first"),
        (
            ["show", "ID"],
            "one of them, whole, with its versions and its audit log (the end of an id is enough)",
        ),
        (["search", "--user", USER, "what does Maya like to eat?"], "find some by meaning"),
        (["kv"], "the KV caches on disk"),
    ):
        out.print(f"  {command(*where, *words)}", markup=False, soft_wrap=True)
        out.print(f"      {what}", style="dim")
    return 0


def _session(number: str, vault: Path, model: str, turns: int) -> int:
    """Run one session in a process of its own; its exit code, negative for a signal."""
    sys.stdout.flush()
    line = [sys.executable, "-m", "memos_core.quickstart.session", number, str(vault), model, str(turns)]
    # One line at a time, so that both processes' output stays in order when it is piped.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(line, check=False, env=environment).returncode  # noqa: S603 - our own module


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

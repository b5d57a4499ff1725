"""The doctor: everything about a vault that can be checked, and repairs of what can be derived again."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from memos_core.core import Core
from memos_core.errors import KVError, MemOSError
from memos_core.vault.check import Problem, problems
from memos_core.vault.checkthreads import thread_problems

_ABANDONED_S = 3600.0  # a temporary file that is older belongs to a process that died


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Args:
        kind: "database", "schema", "cube", "version", "checkpoint", "log", "index", "orphan", "KV", "file" or
            "erasure".
        what: a sentence. repaired: whether it is right now.
    """

    kind: str
    what: str
    repaired: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}" + (" (repaired)" if self.repaired else "")


@dataclass(frozen=True)
class Report:
    """What `MemOS.doctor` found."""

    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong any more."""
        return all(finding.repaired for finding in self.findings)

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "nothing is wrong"


def examine(core: Core, *, repair: bool) -> Report:
    """Check a vault and what is derived from it; see `MemOS.doctor`."""
    found = [_settled(core, problem, repair) for problem in problems(core.vault.db)]
    found += [_settled(core, problem, repair) for problem in thread_problems(core.vault.db)]
    found += _erasure(core, repair)
    found += [_removed(path, what, "KV", repair) for path, what in _kv(core)]
    found += [_removed(path, f"{path} was left behind", "file", repair) for path in _left_behind(core)]
    return Report(tuple(found))


def _settled(core: Core, problem: Problem, repair: bool) -> Finding:
    if not repair or problem.fix is None:
        return Finding(problem.kind, problem.what)
    try:
        with core.vault.db.write() as conn:
            problem.fix(conn)
    except MemOSError as err:
        return Finding(problem.kind, f"{problem.what}; it cannot be repaired: {err}")
    return Finding(problem.kind, problem.what, repaired=True)


def _erasure(core: Core, repair: bool) -> Iterator[Finding]:
    try:
        if not core.vault.erasing:
            return
        what = "an erasure is not finished: its content may still be in the files"
        done = repair and core.finish_erasure()
        yield Finding(
            "erasure", what if done or not repair else f"{what}, somebody goes on reading them", done
        )
    except MemOSError as err:
        yield Finding("erasure", f"an erasure cannot be finished: {err}")


def _kv(core: Core) -> Iterator[tuple[Path, str]]:
    """KV files that are damaged, or whose memories are gone. Without torch their checksums are not looked at."""
    if core.kv_dir is None:
        return
    from memos_core.activation import all_files, verify_file

    wrong = core.orphaned_kv()
    yield from wrong.items()
    if importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors"):
        for path in all_files(core.kv_dir):
            if path not in wrong:
                try:
                    verify_file(path)
                except KVError as err:
                    if path.exists():
                        yield path, str(err)


def _left_behind(core: Core) -> Iterator[Path]:
    file = core.vault.location.file
    if file is not None:
        for suffix in (".migrating", ".migrating-wal", ".migrating-shm"):
            path = file.with_name(file.name + suffix)
            if path.exists():
                yield path
    if core.kv_dir is not None:
        from memos_core.activation import all_files
        from memos_core.activation.header import TEMPORARY

        for path in all_files(core.kv_dir, TEMPORARY):
            with suppress(FileNotFoundError):  # finished meanwhile
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    yield path


def _removed(path: Path, what: str, kind: str, repair: bool) -> Finding:
    if not repair:
        return Finding(kind, what)
    try:
        path.unlink(missing_ok=True)
    except OSError as err:
        return Finding(kind, f"{what}; it cannot be removed: {err.strerror or err}")
    return Finding(kind, what, repaired=True)

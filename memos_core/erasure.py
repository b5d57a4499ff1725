"""Erasure: what is to be forgotten goes from everywhere, and the files are searched for what is left of it."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from memos_core.core import Core
from memos_core.cube import Activation, MemCube
from memos_core.errors import InvalidArgument, KVError, MemOSError, VaultError
from memos_core.traces import SHORTEST, Fragments, Searcher, Trace, files_below, pieces
from memos_core.vault import Actor, CubeFilter
from memos_core.vault.erase import Erased, erase, leftovers, remaining

log = logging.getLogger("memos_core")

_SHORTEST_NAMED = 4  # of a text that somebody asks for by itself


@dataclass(frozen=True)
class Erasure:
    """What `MemOS.erase` did.

    Args:
        ids: the cubes that were erased, derived ones included. threads: LangGraph threads, by id.
        verified: whether the files were searched.
        checked: how many distinct texts, vectors and other parts were looked for.
        skipped: parts that prove nothing: too short, or said by what remains too.
        traces: what is still there.
        note: what could not be done or looked at, in a sentence; "" where everything was.
    """

    ids: tuple[str, ...]
    threads: tuple[str, ...] = ()
    verified: bool = False
    checked: int = 0
    skipped: int = 0
    traces: tuple[Trace, ...] = ()
    note: str = ""

    @property
    def clean(self) -> bool:
        """Whether nothing was found, after a search."""
        return self.verified and not self.traces


def erase_cubes(
    core: Core, actor: Actor, ids: Sequence[str], which: CubeFilter | None, *, verify: bool
) -> Erasure:
    """Erase cubes, or a scope with all that is in it; see `MemOS.erase`."""
    with core.vault.writing(actor) as writer:
        done = erase(writer, core.vault.db, ids, which, content=verify)
    notes = [note for note in (_drop_derived(core, done.cubes), _rewrite(core), _out_of_reach(core)) if note]
    threads = tuple(thread for _, thread in done.threads)
    gone = tuple(c.id for c in done.cubes)
    if not verify:
        return Erasure(gone, threads, note=" ".join(notes))
    fragments = Fragments()
    for id_, what, content in done.said:
        if isinstance(content, str):
            fragments.add_text(content, id_, what)
        else:
            fragments.add_binary(content, id_, what)
    skipped, traces = _search(core, fragments)
    traces += _rows(core, done)
    traces += _kv(core, done.cubes)
    return Erasure(
        gone, threads, True, len(fragments), skipped + fragments.short, tuple(traces), " ".join(notes)
    )


def _drop_derived(core: Core, gone: Sequence[MemCube]) -> str:
    try:
        core.erased(gone)
    except MemOSError as err:  # the memories are gone; the files are looked at below, and again by `doctor`
        log.warning("erased, but not what was derived from it: %s", err)
        return f"Derived files could not be removed: {err}."
    return ""


def _rewrite(core: Core) -> str:
    """Finish the erasure; what stands in the way, in a sentence."""
    try:
        done = not core.vault.erasing or core.finish_erasure()
    except MemOSError as err:
        log.warning("erased, but the files are not rewritten yet: %s", err)
        return f"The files could not be rewritten: {err}."
    if done:
        return ""
    return (
        "Another process goes on reading an older state of the vault, so parts of the files cannot be cleared yet; "
        "this is done between turns, or by `memos doctor --repair`, as soon as it stops."
    )


def _out_of_reach(core: Core) -> str:
    location = core.vault.location
    if location.server is not None:
        return (
            "On PostgreSQL the tables were searched by SQL; the server's write-ahead log, replicas and backups are its "
            "administrator's to clear."
        )
    return "" if location.file is not None else "The vault is in memory: there are no files to search."


# -- the search ----------------------------------------------------------------------------------------------


def files_of(core: Core) -> Iterator[Path]:
    """Every file of the vault and of what is derived from it."""
    file, home = core.vault.location.file, core.vault.location.home
    seen: set[Path] = set()
    if file is not None:
        seen.update(p for p in file.parent.iterdir() if p.name.startswith(file.name) and p.is_file())
    if home is not None and home.is_dir():
        seen.update(files_below(home))
    yield from sorted(seen)


def _search(core: Core, fragments: Fragments) -> tuple[int, list[Trace]]:
    """How many fragments prove nothing, and what was found of the others."""
    searcher = Searcher(fragments)
    if searcher.empty:
        return len(searcher.bare), []
    found: list[tuple[Path, dict[bytes, tuple[int, int]]]] = []
    for path in files_of(core):
        try:
            hits = searcher.search_file(path)
        except OSError as err:
            raise VaultError(f"{path} cannot be searched for what was erased: {err.strerror or err}") from err
        if hits:
            found.append((path, hits))
    also = _still_said(core, {window for _, hits in found for window in hits})
    skipped = {owner for _, hits in found for window, (owner, _) in hits.items() if window in also}
    traces: dict[tuple[str, str, str], Trace] = {}
    for path, hits in found:
        for window, (owner, at) in hits.items():
            if window not in also:
                id_, what = searcher.where(owner)
                known = traces.get((str(path), what, id_))
                if known is None or at < known.at:
                    traces[str(path), what, id_] = Trace(str(path), what, id_, at)
    return len(skipped | searcher.bare), list(traces.values())


def _still_said(core: Core, windows: Iterable[bytes]) -> set[bytes]:
    """Those of some windows that stand in what was not erased."""
    left = set(windows)
    found: set[bytes] = set()
    for lower in (False, True):  # the text index writes all in lower case
        wanted = Fragments()
        for window in left - found:
            wanted.add(window)
        searcher = Searcher(wanted)
        if not searcher.empty:
            with core.vault.db.read() as conn:
                for _, content in remaining(conn):
                    found.update(searcher.search(content.lower() if lower else content))
    return found


def _rows(core: Core, done: Erased) -> list[Trace]:
    with core.vault.db.read() as conn:
        found = leftovers(conn, [c.id for c in done.cubes], done.threads)
    return [Trace(f"table {table}", "row", id_) for table, id_ in found]


def _kv(core: Core, gone: Sequence[MemCube]) -> list[Trace]:
    """KV files that were made from what was erased."""
    if core.kv_dir is None:
        return []
    from memos_core.activation import all_files, read_header
    from memos_core.activation.header import TEMPORARY

    ids = {c.id for c in gone}
    keys = {c.payload.key: c.id for c in gone if isinstance(c.payload, Activation)}
    found: list[Trace] = []
    for path in [*all_files(core.kv_dir), *all_files(core.kv_dir, TEMPORARY)]:
        try:
            sources = [id_ for id_, _ in read_header(path, whole=False).derived_from if id_ in ids]
        except KVError:
            sources = []
        if path.stem in keys:
            sources.append(keys[path.stem])
        found += [Trace(str(path), "KV cache", id_) for id_ in sources[:1]]
    return found


def trace(core: Core, texts: Sequence[str]) -> list[Trace]:
    """Where texts stand: in rows of the database, and in the bytes of its files and of what is derived from it.

    A text with characters that JSON writes in another form is looked for by its longest part without them.

    Raises:
        InvalidArgument: a text too short to tell anything. VaultError: a file cannot be read.
    """
    wanted: dict[bytes, str] = {}
    for text in texts:
        longest = max(pieces(text), key=len, default=b"") if isinstance(text, str) else b""
        if len(longest) < _SHORTEST_NAMED:
            raise InvalidArgument(
                f"texts: {text!r} is too short to be looked for; give {_SHORTEST_NAMED} bytes or more"
            )
        wanted[longest] = text
    found: dict[tuple[str, str], Trace] = {}
    with core.vault.db.read() as conn:
        for table, content in remaining(conn):
            for part in wanted:
                if part in content:
                    found.setdefault(
                        (f"table {table}", wanted[part]), Trace(f"table {table}", wanted[part], "")
                    )
    for path in files_of(core):
        for part, at in _find_all(path, list(wanted)):
            found[str(path), wanted[part]] = Trace(str(path), wanted[part], "", at)
    return list(found.values())


def _find_all(path: Path, parts: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                return
            with closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as content:
                for part in parts:
                    at = content.find(part)
                    if at >= 0:
                        yield part, at
    except FileNotFoundError:
        return
    except OSError as err:
        raise VaultError(f"{path} cannot be searched: {err.strerror or err}") from err


__all__ = ["SHORTEST", "Erasure", "Trace", "erase_cubes", "files_of", "trace"]

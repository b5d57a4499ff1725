"""The blobs of checkpoints in the database: what a thread has already, what it lacks, and what nothing refers to.

Every writer of a thread holds its row, so that a blob that was seen there is not swept away before it is done.
"""

from __future__ import annotations

import builtins
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from memos_core.errors import VaultError
from memos_core.vault.chunking import Blobs, Damaged, Entry, Made, Ref, children
from memos_core.vault.database import Database
from memos_core.vault.sealing import Seal, pack

_MANY = 256
_CACHE_BYTES = 4 << 20  # of each half
_KNOWN_THREADS = 256
_KNOWN_BLOBS = 50_000
_FEW = 8


class Raw:
    """Runs SQL that is written out: to build a statement, and on SQLite to describe its result, takes longer than to
    run it. `?` is a value.

    Args:
        dialect: "sqlite" or "postgresql".
    """

    def __init__(self, dialect: str) -> None:
        self._server = dialect == "postgresql"
        self._made: dict[str, str] = {}

    def __call__(self, conn: Connection, sql: str, values: Any = ()) -> Any:
        """What one statement gives: rows to go through, and `rowcount`.

        Args:
            values: a tuple; a list of tuples runs it once for each.
        """
        if self._server:
            made = self._made.get(sql) or self._made.setdefault(sql, sql.replace("?", "%s"))
            return conn.exec_driver_sql(made, values)
        if not conn.in_transaction():
            conn.begin()
        cursor = conn.connection.cursor()
        try:
            return (
                cursor.executemany(sql, values) if isinstance(values, list) else cursor.execute(sql, values)
            )
        except sqlite3.Error as err:
            raise DBAPIError.instance(sql, None, err, sqlite3.Error) from err

    def first(self, conn: Connection, sql: str, values: Any = ()) -> Any:
        """The first row of what a statement gives, or None."""
        return self(conn, sql, values).fetchone()

    @property
    def lock(self) -> str:
        """What a SELECT ends with to keep others from writing the row. On SQLite a writer is alone."""
        return " FOR UPDATE" if self._server else ""


def batches(items: Iterable[Any], size: int = _MANY) -> Iterator[tuple[str, list[Any]]]:
    """Items in lists, each with the marks for it in SQL. The last item is repeated, so that there are few different
    statements."""
    every = list(items)
    for i in range(0, len(every), size):
        some = every[i : i + size]
        room = 1 << (len(some) - 1).bit_length()
        some += some[-1:] * (min(room, size) - len(some))
        yield ",".join("?" * len(some)), some


@dataclass(frozen=True)
class Thread:
    """A thread's row.

    Args:
        tenant, id: its address. seq: its number. generation: grows when blobs of it are deleted.
    """

    tenant: str
    id: str
    seq: int
    generation: int
    expires_at: int | None = None


@dataclass
class _Known:
    """Blobs that were in the database at a generation."""

    generation: int
    refs: set[Ref] = field(default_factory=set)


class Cache:
    """Blobs that were read or written lately, as their entries (nodes) or bytes. What is in it never changes, and equal
    names are equal content. Safe from many threads: the worst that a race does is to forget."""

    def __init__(self, limit: int = _CACHE_BYTES) -> None:
        self._limit = limit
        self._young: dict[Ref, list[Entry] | bytes] = {}
        self._old: dict[Ref, list[Entry] | bytes] = {}
        self._size = 0

    def get(self, ref: Ref) -> list[Entry] | bytes | None:
        """What a blob holds; None if it is not here."""
        found = self._young.get(ref)
        if found is None and (found := self._old.get(ref)) is not None:
            self._keep(ref, found)
        return found

    def add(self, ref: Ref, blob: bytes) -> list[Entry] | bytes:
        """Keep a blob, and return what it holds.

        Raises:
            Damaged: it is no blob.
        """
        below = children(blob)
        found = blob[1:] if below is None else below
        self._keep(ref, found)
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._young, self._old, self._size = {}, {}, 0

    def _keep(self, ref: Ref, found: list[Entry] | bytes) -> None:
        self._young[ref] = found
        self._size += 200 + 64 * len(found) if isinstance(found, list) else 120 + len(found)
        if self._size > self._limit:
            self._old, self._young, self._size = self._young, {}, 0


class ChunkStore:
    """The blobs of a database's threads.

    Args:
        seal: how they lie there.
    """

    def __init__(self, db: Database, seal: Seal) -> None:
        self._run = Raw(db.engine.dialect.name)
        self._seal = seal
        self._known: dict[int, _Known] = {}
        self._lock = threading.Lock()
        self.cache = Cache()

    # -- write ---------------------------------------------------------------------------------------------

    def add(self, conn: Connection, thread: Thread, values: Iterable[Made]) -> Blobs:
        """Store what values refer to and the thread does not have. A blob that is there has everything below it.

        Returns:
            What was new: tell `stored` when it is committed.
        """
        known = self._known_of(thread)
        new: Blobs = {}
        for made in values:
            frontier = [e for e in made.entries if type(e) is Ref]
            while frontier := self._lacking(conn, thread, known, dict.fromkeys(frontier), new):
                below: list[Ref] = []
                for ref in frontier:
                    blob = made.blobs.get(ref)
                    if blob is None:
                        inside = made.elements[ref]
                        made.blobs.update(inside)
                        blob = inside[ref]
                    new[ref] = blob
                    below += [e for e in children(blob) or () if type(e) is Ref]
                frontier = below
        if new:
            rows = [
                (thread.seq, ref, self._seal.close(_place(thread, ref), blob)) for ref, blob in new.items()
            ]
            sql = "INSERT INTO checkpoint_chunks (thread, hash, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            self._run(conn, sql, rows)
        return new

    def stored(self, thread: Thread, new: Blobs) -> None:
        """Blobs of a thread were committed."""
        if not new:
            return
        for ref, blob in new.items():
            self.cache.add(ref, blob)
        self._known_of(thread).update(new)

    def _known_of(self, thread: Thread) -> set[Ref]:
        """The set of blobs that a thread is known to have, to be added to."""
        known = self._known.get(thread.seq)
        if known is None or known.generation != thread.generation:
            with self._lock:
                while len(self._known) >= _KNOWN_THREADS:
                    self._known.pop(next(iter(self._known)))
                known = self._known[thread.seq] = _Known(thread.generation)
        if len(known.refs) > _KNOWN_BLOBS:
            known.refs.clear()
        return known.refs

    def _lacking(
        self, conn: Connection, thread: Thread, known: set[Ref], refs: Iterable[Ref], new: Blobs
    ) -> list[Ref]:
        unknown = [ref for ref in refs if ref not in known and ref not in new]
        if len(unknown) <= _FEW:
            return unknown  # to ask costs more than to store what may be there
        there: set[bytes] = set()
        for marks, some in batches(unknown):
            sql = f"SELECT hash FROM checkpoint_chunks WHERE thread = ? AND hash IN ({marks})"
            there.update(row[0] for row in self._run(conn, sql, (thread.seq, *some)))
        known.update(map(Ref, there))
        return [ref for ref in unknown if ref not in there]

    # -- read ----------------------------------------------------------------------------------------------

    def fetch(
        self,
        conn: Connection,
        thread: Thread,
        entries: Iterable[Entry],
        skip: Callable[[Ref], bool] | None = None,
    ) -> dict[Ref, list[Entry] | bytes]:
        """Everything that entries refer to, and what that refers to. What is missing, or is not what its name says, is
        left out.

        Args:
            skip: blobs that are not wanted.
        """
        found: dict[Ref, list[Entry] | bytes] = {}
        frontier = list(entries)
        get = self.cache.get
        while frontier:
            missing: dict[Ref, None] = {}
            below: list[Entry] = []
            for ref in frontier:
                if type(ref) is not Ref or ref in found or (skip is not None and skip(ref)):
                    continue
                held = get(ref)
                if held is None:
                    missing[ref] = None
                else:
                    found[ref] = held
                    if type(held) is list:
                        below += held
            for marks, some in batches(missing):
                sql = f"SELECT hash, data FROM checkpoint_chunks WHERE thread = ? AND hash IN ({marks})"
                for hash_, data in self._run(conn, sql, (thread.seq, *some)):
                    ref = Ref(hash_)
                    try:
                        held = self.cache.add(ref, self.opened(thread, ref, data))
                    except Damaged:
                        continue
                    found[ref] = held
                    if type(held) is list:
                        below += held
            frontier = below
        self._known_of(thread).update(found)
        return found

    def opened(self, thread: Thread, ref: Ref, data: bytes) -> bytes:
        """A blob as it was, if it is.

        Raises:
            Damaged: it is not.
        """
        if not isinstance(data, bytes):
            raise Damaged("a part is no bytes")
        if self._seal.sealed:
            return self._seal.open(_place(thread, ref), data)
        if self._seal.name(data) != ref:
            raise Damaged("the checksum of a part does not match")
        return data

    # -- remove --------------------------------------------------------------------------------------------

    def sweep(self, conn: Connection, thread: Thread, used: Iterable[Entry]) -> int:
        """Delete what nothing refers to. The caller holds the thread's row.

        Args:
            used: the entries of everything the thread has.

        Returns:
            How many blobs were deleted.
        """
        lost = self.unused(conn, thread, used)
        for marks, some in batches(lost):
            sql = f"DELETE FROM checkpoint_chunks WHERE thread = ? AND hash IN ({marks})"
            self._run(conn, sql, (thread.seq, *some))
        if lost:
            self._run(conn, "UPDATE threads SET generation = generation + 1 WHERE seq = ?", (thread.seq,))
            self.cache.clear()
        return len(lost)

    def unused(self, conn: Connection, thread: Thread, used: Iterable[Entry]) -> list[Ref]:
        """The blobs of a thread that are not in `used` nor below it. What is below a damaged one is not known: then
        there are none."""
        below: dict[Ref, Sequence[Entry]] = {}
        sql = "SELECT hash, data FROM checkpoint_chunks WHERE thread = ?"
        for hash_, data in self._run(conn, sql, (thread.seq,)):
            ref = Ref(hash_)
            try:
                below[ref] = children(self.opened(thread, ref, data)) or ()
            except Damaged:
                return []
        seen: set[Ref] = set()
        frontier = [e for e in used if type(e) is Ref]
        while frontier:
            ref = frontier.pop()
            if ref not in seen:
                seen.add(ref)
                frontier += [e for e in below.get(ref, ()) if type(e) is Ref]
        return [ref for ref in below if ref not in seen]

    def copy(self, conn: Connection, source: Thread, target: Thread) -> None:
        """Give a thread the blobs of another."""
        if not self._seal.sealed:
            every = "SELECT ?, hash, data FROM checkpoint_chunks WHERE thread = ?"
            self._run(
                conn, f"INSERT INTO checkpoint_chunks (thread, hash, data) {every}", (target.seq, source.seq)
            )
            return
        found = list(
            self._run(conn, "SELECT hash, data FROM checkpoint_chunks WHERE thread = ?", (source.seq,))
        )
        rows = [
            (
                target.seq,
                hash_,
                self._seal.close(_place(target, hash_), self.opened(source, Ref(hash_), data)),
            )
            for hash_, data in found
        ]
        if rows:
            self._run(conn, "INSERT INTO checkpoint_chunks (thread, hash, data) VALUES (?, ?, ?)", rows)


@dataclass(frozen=True)
class Rope:
    """A stored value: the serializer's type, its entries, and the blobs they need. Equal if the content is.

    Args:
        what: what it is the value of, for messages.
    """

    kind: str
    entries: Sequence[Entry]
    blobs: Mapping[Ref, list[Entry] | bytes] = field(compare=False, repr=False, default_factory=dict)
    what: str = field(compare=False, default="a value")

    def bytes(self, held: Callable[[Ref], bytes | None] | None = None) -> bytes:
        """The serialized value.

        Args:
            held: the bytes of those blobs that were skipped.

        Raises:
            VaultError: a part of it is missing.
        """
        parts: list[bytes] = []
        stack = [iter(self.entries)]
        while stack:
            for entry in stack[-1]:
                if type(entry) is not Ref:
                    parts.append(entry)
                    continue
                if held is not None and (known := held(entry)) is not None:
                    parts.append(known)
                    continue
                found = self.part(entry)
                if isinstance(found, list):
                    stack.append(iter(found))
                    break
                parts.append(found)
            else:
                stack.pop()
        return b"".join(parts)

    def part(self, ref: Ref) -> list[Entry] | builtins.bytes:
        """What a reference refers to.

        Raises:
            VaultError: it is missing.
        """
        found = self.blobs.get(ref)
        if found is None:
            raise VaultError(f"{self.what} is damaged: a part of it is missing, or is not what was written")
        return found


def _place(thread: Thread, ref: bytes) -> bytes:
    return pack("chunk", thread.tenant, thread.id, ref)

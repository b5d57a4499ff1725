"""Checks of LangGraph's checkpoints: checksums, parts that are missing, and parts that nobody refers to.

Encrypted rows are left out: without their key nothing can be said about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Table, func, select

from memos_core.errors import VaultError
from memos_core.vault import tables as t
from memos_core.vault import threads
from memos_core.vault.check import Fix, Problem, guarded
from memos_core.vault.checkpoints import CheckpointTable
from memos_core.vault.checkrows import CHECKPOINT_COLUMNS, LATE_WRITES, WRITE_COLUMNS, Rows
from memos_core.vault.chunking import Damaged, Entry, Ref, children
from memos_core.vault.chunkstore import ChunkStore, Raw, Rope, Thread
from memos_core.vault.database import Database
from memos_core.vault.sealing import SEALED, Plain

_CONTENT = (t.checkpoints, t.checkpoint_writes, t.checkpoint_chunks)


def thread_problems(db: Database) -> Iterator[Problem]:
    """Everything that is wrong with the checkpoints of a vault."""
    yield from guarded("checkpoint", _problems(db))


def _problems(db: Database) -> Iterator[Problem]:
    yield from _strays(db)
    h = t.threads.c
    with db.read() as conn:
        rows = conn.execute(select(h.tenant, h.thread_id, h.seq, h.generation).order_by(h.seq)).all()
    for row in rows:
        with db.read() as conn:
            found = list(_Check(db, conn, Thread(*row)).run())
        yield from found


def _strays(db: Database) -> Iterator[Problem]:
    for table in _CONTENT:
        lost = table.c.thread.not_in(select(t.threads.c.seq))
        with db.read() as conn:
            n = conn.execute(select(func.count()).select_from(table).where(lost)).scalar_one()
        if n:
            yield Problem("orphan", f"{n} rows of {table.name} belong to no thread", _delete(table, lost))


def _delete(table: Table, lost: Any) -> Fix:
    def fix(conn: Connection) -> None:
        conn.execute(table.delete().where(lost))

    return fix


class _Check:
    """The checks of one thread."""

    def __init__(self, db: Database, conn: Connection, thread: Thread) -> None:
        self._db, self._conn, self._thread = db, conn, thread
        self._run = Raw(db.engine.dialect.name)
        self._rows, self._chunks = Rows(Plain()), ChunkStore(db, Plain())
        self._where = f"thread {thread.id!r}"

    def run(self) -> Iterator[Problem]:
        """What is wrong."""
        for table in ("checkpoints", "checkpoint_writes"):
            sql = f"SELECT 1 FROM {table} WHERE thread = ? AND type = ? LIMIT 1"
            if self._run.first(self._conn, sql, (self._thread.seq, SEALED)) is not None:
                return
        wrong: list[Problem] = []
        used: dict[str, Sequence[Entry]] = {}
        for what, entries in self._used(wrong):
            used[what] = entries
        yield from wrong
        nodes, damaged = self._blobs()
        yield from (
            Problem("checkpoint", f"{self._where}: {what}") for what in self._missing(used, nodes, damaged)
        )
        if not wrong and not damaged:
            entries = [entry for some in used.values() for entry in some]
            lost = self._chunks.unused(self._conn, self._thread, entries)
            if lost:
                what = f"{self._where}: {len(lost)} parts that no checkpoint refers to"
                yield Problem("orphan", what, self._sweep)
        yield from self._late()

    def _used(self, wrong: list[Problem]) -> Iterator[tuple[str, Sequence[Entry]]]:
        for row in self._run(
            self._conn, f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE thread = ?", (self._thread.seq,)
        ):
            try:
                opened = self._rows.open_checkpoint(self._thread, row)
            except (VaultError, ValueError) as err:  # no UTF-8 is damage too
                wrong.append(Problem("checkpoint", self._named(err)))
                continue
            for channel, slot in opened.refs.items():
                yield f"channel {channel!r} of checkpoint {row[1]}", slot.entries
        for row in self._run(
            self._conn, f"SELECT {WRITE_COLUMNS} FROM checkpoint_writes WHERE thread = ?", (self._thread.seq,)
        ):
            try:
                value = self._rows.open_write(self._thread, row).value
            except (VaultError, ValueError) as err:
                wrong.append(Problem("checkpoint", self._named(err)))
                continue
            assert isinstance(value, Rope)
            yield f"a write of task {row[2]} to channel {row[5]!r} of checkpoint {row[1]}", value.entries

    def _named(self, err: Exception) -> str:
        return str(err) if isinstance(err, VaultError) else f"{self._where}: {err}"

    def _blobs(self) -> tuple[dict[Ref, list[Entry]], set[Ref]]:
        """What each whole blob refers to, and the damaged ones."""
        whole: dict[Ref, list[Entry]] = {}
        damaged: set[Ref] = set()
        sql = "SELECT hash, data FROM checkpoint_chunks WHERE thread = ?"
        for hash_, data in self._run(self._conn, sql, (self._thread.seq,)):
            ref = Ref(hash_)
            try:
                whole[ref] = children(self._chunks.opened(self._thread, ref, data)) or []
            except Damaged:
                damaged.add(ref)
        return whole, damaged

    def _missing(
        self, used: dict[str, Sequence[Entry]], whole: dict[Ref, list[Entry]], damaged: set[Ref]
    ) -> Iterator[str]:
        """Each lost blob once, with the first thing that needs it."""
        seen: set[Ref] = set()
        for what, entries in used.items():
            stack = [e for e in entries if type(e) is Ref]
            while stack:
                ref = stack.pop()
                if ref in seen:
                    continue
                seen.add(ref)
                if ref in whole:
                    stack += [e for e in whole[ref] if type(e) is Ref]
                else:
                    lost = (
                        "the checksum of a part does not match"
                        if ref in damaged
                        else "a part of it is missing"
                    )
                    yield f"{what} is damaged: {lost}"
        for _ in damaged - seen:
            yield "the checksum of a part that nothing refers to does not match"

    def _sweep(self, conn: Connection) -> None:
        """Delete what nothing refers to, as it is now."""
        thread = threads.hold(self._run, conn, self._thread.tenant, self._thread.id)
        if thread is not None:
            CheckpointTable(self._db).sweep(conn, thread)

    def _late(self) -> Iterator[Problem]:
        count = f"SELECT count(*) FROM checkpoint_writes w WHERE {LATE_WRITES}"
        n = self._run.first(self._conn, count, (self._thread.seq,))[0]

        def fix(conn: Connection) -> None:
            self._run(conn, f"DELETE FROM checkpoint_writes AS w WHERE {LATE_WRITES}", (self._thread.seq,))

        if n:
            yield Problem("orphan", f"{self._where}: {n} writes whose checkpoint is gone", fix)

"""The step of an upgrade from schema version 2: LangGraph's checkpoints, whose values were stored whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, text

from memos_core.vault import threads
from memos_core.vault.checkrows import (
    CHECKPOINT_COLUMNS,
    WRITE_COLUMNS,
    Lane,
    Rows,
    Slot,
    StoredCheckpoint,
    StoredWrite,
)
from memos_core.vault.chunking import Cutter, Made, Ref
from memos_core.vault.chunkstore import Raw, Thread
from memos_core.vault.rows import digest_of
from memos_core.vault.sealing import Plain

log = logging.getLogger("memos_core.vault")
OLD_TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
_LOST = Ref(bytes(16))  # names nothing: who reads the value is told
_PAGE = 20


def move_threads(conn: Connection, old: str) -> None:
    """Move the checkpoints of version 2 (and of 1, which had no checksums) into this version's tables.

    Args:
        old: what the names of the old tables begin with.
    """
    parts = " UNION ".join(f"SELECT tenant, thread_id FROM {old}{name}" for name in OLD_TABLES)
    for row in conn.execute(text(f"{parts} ORDER BY tenant, thread_id")).all():
        _Move(conn, old, row.tenant, row.thread_id).run()


class _Move:
    """Moves one thread."""

    def __init__(self, conn: Connection, old: str, tenant: str, thread_id: str) -> None:
        self._conn, self._old = conn, old
        self._sql = Raw(conn.dialect.name)
        seal = Plain()
        self._rows, self._cutter = Rows(seal), Cutter(seal.name)
        thread = threads.hold(self._sql, conn, tenant, thread_id, make=True)
        assert thread is not None
        self._thread: Thread = thread
        self._written: set[Ref] = set()

    def run(self) -> None:
        """All of it."""
        slots: dict[tuple[str, str, str], Slot] = {}
        for row in self._stored("checkpoint_blobs"):
            made = self._value(row, f"a value of channel {row['channel']!r}")
            slots[row["checkpoint_ns"], row["channel"], row["version"]] = Slot("", made.kind, made.entries)
        for row in self._stored("checkpoints"):
            self._checkpoint(row, slots)
        for row in self._stored("checkpoint_writes"):
            made = self._value(row, f"a write to channel {row['channel']!r}")
            write = StoredWrite(row["task_id"], row["task_path"], row["idx"], row["channel"], ("", b""))
            lane = Lane(self._thread.tenant, self._thread.id, row["checkpoint_ns"])
            self._insert("checkpoint_writes", self._rows.write(lane, row["checkpoint_id"], write, made))

    def _stored(self, name: str) -> Iterator[dict[str, Any]]:
        sql = text(f"SELECT * FROM {self._old}{name} WHERE tenant = :tenant AND thread_id = :thread")
        where = {"tenant": self._thread.tenant, "thread": self._thread.id}
        with self._conn.execute(sql.execution_options(yield_per=_PAGE), where) as result:
            for row in result.mappings():
                yield {n: _writable(v) if isinstance(v, str) else v for n, v in row.items()}

    def _value(self, row: dict[str, Any], what: str) -> Made:
        data = bytes(row["value"])
        if row.get("digest", digest_of(row["type"], data)) != digest_of(row["type"], data):
            log.error("thread %r: %s is damaged; the rest of the thread is kept", self._thread.id, what)
            return Made(row["type"], [_LOST], {}, {})
        made = self._cutter.cut((row["type"], data))
        new = [(self._thread.seq, ref, blob) for ref, blob in made.blobs.items() if ref not in self._written]
        self._written.update(made.blobs)
        if new:
            sql = "INSERT INTO checkpoint_chunks (thread, hash, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            self._sql(self._conn, sql, new)
        return made

    def _checkpoint(self, row: dict[str, Any], slots: dict[tuple[str, str, str], Slot]) -> None:
        body = bytes(row["checkpoint"])
        rest = f"{row['refs']}{row['metadata']}".encode(errors="surrogateescape")
        digest = digest_of(row["type"], body + rest)
        whole = row.get("digest", digest) == digest
        lost = Slot("", "", [_LOST])
        refs: dict[str, Slot] = {}
        for channel, stored in (_json(row["refs"]) or {}).items():
            found = slots.get((row["checkpoint_ns"], channel, stored), lost)
            refs[channel] = Slot(str(stored).partition("#")[0], found.kind, found.entries)
        user = (_json(row["metadata"]) or {}).get("user_id")
        checkpoint = StoredCheckpoint(
            Lane(self._thread.tenant, self._thread.id, row["checkpoint_ns"]),
            row["checkpoint_id"],
            row["parent_id"],
            (row["type"], body),
            row["metadata"],
            run_id=row["run_id"],
            user_id=user if isinstance(user, str) and user else None,
        )
        made = self._rows.checkpoint(checkpoint, refs)
        if not whole:
            log.error("thread %r: checkpoint %s is damaged", self._thread.id, row["checkpoint_id"])
            made = (*made[:-1], b"damaged")
        self._insert("checkpoints", made)

    def _insert(self, table: str, values: tuple[Any, ...]) -> None:
        marks = ", ".join("?" * (len(values) + 1))
        names = CHECKPOINT_COLUMNS if table == "checkpoints" else WRITE_COLUMNS
        self._sql(
            self._conn, f"INSERT INTO {table} (thread, {names}) VALUES ({marks})", (self._thread.seq, *values)
        )


def _json(stored: str) -> dict[str, Any] | None:
    try:
        found = json.loads(stored)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _writable(value: str) -> str:
    """A text without bytes that are no UTF-8."""
    return value.encode(errors="backslashreplace").decode()

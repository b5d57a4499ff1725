"""The rows of LangGraph threads: found, made, held while they are written, and gone when their time has passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection

from memos_core.cube import now
from memos_core.vault.chunkstore import Raw, Thread
from memos_core.vault.rows import micros

CONTENT = ("checkpoints", "checkpoint_writes", "checkpoint_chunks")
_FIND = "SELECT seq, generation, expires_at FROM threads WHERE tenant = ? AND thread_id = ?"
_MAKE = "INSERT INTO threads (tenant, thread_id, generation) VALUES (?, ?, 0) ON CONFLICT DO NOTHING"


def find(run: Raw, conn: Connection, tenant: str, id_: str) -> Thread | None:
    """A thread, if it is there and has not expired."""
    row = run.first(conn, _FIND, (tenant, id_))
    if row is None or expired(row[2]):
        return None
    return Thread(tenant, id_, *row)


def expired(expires_at: int | None) -> bool:
    """Whether a moment has passed."""
    return expires_at is not None and expires_at <= micros(now())


def hold(run: Raw, conn: Connection, tenant: str, id_: str, *, make: bool = False) -> Thread | None:
    """A thread, held until the transaction ends: others who write it wait. One that has expired is emptied first.

    Args:
        make: make it where it is not there.
    """
    row = run.first(conn, _FIND + run.lock, (tenant, id_))
    if row is None and make:
        run(conn, _MAKE, (tenant, id_))
        row = run.first(conn, _FIND + run.lock, (tenant, id_))
    if row is None:
        return None
    thread = Thread(tenant, id_, *row)
    if not expired(thread.expires_at):
        return thread
    if not make:
        remove(run, conn, [thread.seq])
        return None
    empty(run, conn, thread.seq)
    run(
        conn, "UPDATE threads SET generation = generation + 1, expires_at = NULL WHERE seq = ?", (thread.seq,)
    )
    return replace(thread, generation=thread.generation + 1, expires_at=None)


def empty(run: Raw, conn: Connection, seq: int) -> None:
    """Delete everything that a thread stores."""
    for table in CONTENT:
        run(conn, f"DELETE FROM {table} WHERE thread = ?", (seq,))


def remove(run: Raw, conn: Connection, seqs: Sequence[int]) -> None:
    """Delete threads with everything they store."""
    for seq in seqs:
        empty(run, conn, seq)
        run(conn, "DELETE FROM threads WHERE seq = ?", (seq,))


def keep_for(run: Raw, conn: Connection, thread: Thread, ttl: timedelta) -> None:
    """A thread expires when this much time has passed from now."""
    run(conn, "UPDATE threads SET expires_at = ? WHERE seq = ?", (micros(now() + ttl), thread.seq))


def overdue(run: Raw, conn: Connection) -> list[int]:
    """The numbers of the threads whose time has passed, held where the database can do that row by row."""
    sql = "SELECT seq FROM threads WHERE expires_at <= ? ORDER BY seq" + (
        f"{run.lock} SKIP LOCKED" if run.lock else ""
    )
    return [row[0] for row in run(conn, sql, (micros(now()),))]


def any_overdue(run: Raw, conn: Connection) -> bool:
    """Whether the time of a thread has passed."""
    return (
        run.first(conn, "SELECT 1 FROM threads WHERE expires_at <= ? LIMIT 1", (micros(now()),)) is not None
    )

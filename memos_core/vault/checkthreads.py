"""Checks of LangGraph's checkpoints: checksums, values that are missing, and values that nobody refers to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, delete, func, select

from memos_core.errors import VaultError
from memos_core.vault import tables as t
from memos_core.vault.check import Fix, Problem, guarded
from memos_core.vault.checkpoints import Lane, _at, _drop_unreferenced, _verified, _whole
from memos_core.vault.database import Database

_PAGE = 64


def thread_problems(db: Database) -> Iterator[Problem]:
    """Everything that is wrong with the checkpoints of a vault."""
    yield from guarded("checkpoint", _problems(db))


def _problems(db: Database) -> Iterator[Problem]:
    for lane in _lanes(db):
        with db.read() as conn:
            found = [*_damaged(conn, lane), *_references(conn, lane)]
        yield from found


def _lanes(db: Database) -> list[Lane]:
    found: set[tuple[str, str, str]] = set()
    with db.read() as conn:
        for table in (t.checkpoints, t.checkpoint_blobs, t.checkpoint_writes):
            c = table.c
            rows = conn.execute(select(c.tenant, c.thread_id, c.checkpoint_ns).distinct())
            found.update((r.tenant, r.thread_id, r.checkpoint_ns) for r in rows)
    return [Lane(*parts) for parts in sorted(found)]


def _damaged(conn: Connection, lane: Lane) -> Iterator[Problem]:
    for table in (t.checkpoints, t.checkpoint_blobs, t.checkpoint_writes):
        query = select(table).where(*_at(table, lane)).execution_options(yield_per=_PAGE)
        for row in conn.execute(query):
            try:
                if table is t.checkpoints:
                    _whole(row)
                else:
                    _verified(row, f"a value of channel {row.channel!r}")
            except (VaultError, ValueError) as err:  # no UTF-8 is damage too
                what = str(err) if isinstance(err, VaultError) else f"thread {lane.thread_id!r}: {err}"
                yield Problem("checkpoint", what)


def _references(conn: Connection, lane: Lane) -> Iterator[Problem]:
    c, b, w = t.checkpoints.c, t.checkpoint_blobs.c, t.checkpoint_writes.c
    where = f"thread {lane.thread_id!r}" + (f" ({lane.ns})" if lane.ns else "")
    used: set[tuple[str, str]] = set()
    for row in conn.execute(select(c.checkpoint_id, c.refs).where(*_at(t.checkpoints, lane))):
        try:
            used.update(json.loads(row.refs).items())
        except (ValueError, AttributeError):
            return  # damaged, which was said: what it refers to is not known
    stored = {
        (r.channel, r.version)
        for r in conn.execute(select(b.channel, b.version).where(*_at(t.checkpoint_blobs, lane)))
    }
    for channel, _ in sorted(used - stored):
        yield Problem("checkpoint", f"{where}: a value of channel {channel!r} is missing")
    if stored - used:
        what = f"{where}: {len(stored - used)} values that no checkpoint refers to"
        yield Problem("orphan", what, _drop(lane))
    # Writes may come before their checkpoint, but not after a later one.
    last = conn.execute(select(func.max(c.checkpoint_id)).where(*_at(t.checkpoints, lane))).scalar()
    known = select(c.checkpoint_id).where(*_at(t.checkpoints, lane))
    late = (*_at(t.checkpoint_writes, lane), w.checkpoint_id.not_in(known), w.checkpoint_id < (last or ""))
    n = conn.execute(select(func.count()).select_from(t.checkpoint_writes).where(*late)).scalar_one()
    if n:
        yield Problem("orphan", f"{where}: {n} writes whose checkpoint is gone", _delete_writes(late))


def _drop(lane: Lane) -> Fix:
    return lambda conn: _drop_unreferenced(conn, lane)


def _delete_writes(late: Any) -> Fix:
    def fix(conn: Connection) -> None:
        conn.execute(delete(t.checkpoint_writes).where(*late))

    return fix

"""The statements about checkpoints, and what puts their results together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memos_core.cube import now
from memos_core.vault.checkrows import CHECKPOINT_COLUMNS, WRITE_COLUMNS, Opened, Wanted
from memos_core.vault.chunking import Entry, Ref
from memos_core.vault.chunkstore import Rope, Thread
from memos_core.vault.rows import micros

AT = "thread = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_MARKS = ", ".join("?" * 11)
ADD = f"INSERT INTO checkpoints (thread, {CHECKPOINT_COLUMNS}) VALUES ({_MARKS}) ON CONFLICT DO NOTHING"
_WRITE_MARKS = ", ".join("?" * 10)
ADD_WRITE = (
    f"INSERT INTO checkpoint_writes (thread, {WRITE_COLUMNS}) VALUES ({_WRITE_MARKS}) ON CONFLICT DO NOTHING"
)
_C = ", ".join(f"c.{name}" for name in CHECKPOINT_COLUMNS.split(", "))
_THREAD = "t.tenant, t.thread_id, t.seq, t.generation, t.expires_at"
LATEST = (
    f"SELECT {_THREAD}, {_C} FROM threads t JOIN checkpoints c ON c.thread = t.seq "
    "WHERE t.tenant = ? AND t.thread_id = ? AND c.checkpoint_ns = ? "
)
RIVAL = (
    "SELECT checkpoint_id, run_id FROM checkpoints WHERE thread = ? AND checkpoint_ns = ? AND checkpoint_id > ? "
    "AND checkpoint_id <> ?"
)


def fill(thread: Thread, opened: Opened, blobs: Mapping[Ref, list[Entry] | bytes]) -> None:
    """Give a checkpoint its values and the values of its writes.

    Args:
        blobs: what they refer to.
    """
    c = opened.checkpoint
    where = f"checkpoint {c.id} of thread {thread.id!r}"
    for channel, slot in opened.refs.items():
        c.values[channel] = Rope(slot.kind, slot.entries, blobs, f"channel {channel!r} of {where}")
    # Sorted here, not by SQL: a database's collation need not be Python's order.
    c.writes.sort(key=lambda w: (w.task_path, w.task_id, w.idx))
    for i, write in enumerate(c.writes):
        rope = write.value
        assert isinstance(rope, Rope)
        what = f"a write to channel {write.channel!r} of {where}"
        c.writes[i] = replace(write, value=Rope(rope.kind, rope.entries, blobs, what))


def listing(wanted: Wanted, after: Any, size: int) -> tuple[str, tuple[Any, ...]]:
    """The statement for a page: first the keys alone, which is cheap to sort, then their rows."""
    where, values = (
        ["t.tenant = ?", "(t.expires_at IS NULL OR t.expires_at > ?)"],
        [wanted.tenant, micros(now())],
    )
    for column, value in (
        ("t.thread_id", wanted.thread_id),
        ("c.checkpoint_ns", wanted.ns),
        ("c.checkpoint_id", wanted.id),
    ):
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    if wanted.before is not None:
        where.append("c.checkpoint_id < ?")
        values.append(wanted.before)
    if after is not None:
        # The same id can be in several lanes. The first condition is there for the index.
        thread, ns, id_ = after[1], after[5], after[6]
        where.append(
            "c.checkpoint_id <= ? AND (c.checkpoint_id < ? OR t.thread_id > ? "
            "OR (t.thread_id = ? AND c.checkpoint_ns > ?))"
        )
        values += [id_, id_, thread, thread, ns]
    order = "ORDER BY {0}checkpoint_id DESC, {1}thread_id, {0}checkpoint_ns"
    keys = (
        "SELECT t.seq, t.thread_id, c.checkpoint_ns, c.checkpoint_id FROM threads t "
        f"JOIN checkpoints c ON c.thread = t.seq WHERE {' AND '.join(where)} {order.format('c.', 't.')} LIMIT ?"
    )
    sql = (
        f"SELECT {_THREAD}, {_C} FROM ({keys}) k JOIN threads t ON t.seq = k.seq JOIN checkpoints c "
        "ON c.thread = k.seq AND c.checkpoint_ns = k.checkpoint_ns AND c.checkpoint_id = k.checkpoint_id "
        + order.format("k.", "k.")
    )
    return sql, (*values, size)

"""Erasure, the part that is SQL: what belongs to a scope, what it says, and what is still there afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, LargeBinary, String, and_, delete, false, func, select

from memos_core.cube import MemCube, Scope, new_id
from memos_core.vault import tables as t
from memos_core.vault.database import Database
from memos_core.vault.filter import CubeFilter
from memos_core.vault.writer import Writer, chunks

UNFINISHED = "erasing"  # in `meta`: an erasure was committed, and the files are not yet rewritten without it
REWRITTEN = "rewritten"  # its value when only somebody's reading of an older state is in the way
_PAGE = 500
_BUFFER = 1 << 22
_KEPT = {"audit", "tombstones"}  # name what is gone, without its content

THREAD_TABLES = (t.checkpoints, t.checkpoint_chunks, t.checkpoint_writes)

Said = tuple[str, str, str | bytes]  # (cube id or "", what it is, content)
Thread = tuple[str, str]  # (tenant of the lane, thread id)


@dataclass(frozen=True)
class Tombstone:
    """What is left of a deleted cube.

    Args:
        seq: grows with every deletion. kv_key: of a KV cache, the name of its file. action: "delete", "erase" or
            "expire".
    """

    seq: int
    cube_id: str
    kv_key: str
    scope: Scope
    action: str


@dataclass
class Erased:
    """What one erasure removed.

    Args:
        cubes: with all that was derived from them. threads: (lane's tenant, thread id).
        said: the content of all of it, if it was asked for.
    """

    cubes: list[MemCube]
    threads: list[Thread]
    said: list[Said]


def erase(
    writer: Writer, db: Database, ids: Sequence[str], which: CubeFilter | None, *, content: bool
) -> Erased:
    """Remove cubes and everything derived from them; of a whole scope also threads, plans, grants and memberships.

    Args:
        ids: these cubes. which: all cubes that match, and what else its scope has.
        content: also return what was removed, so that it can be looked for.
    """
    conn = writer.conn
    scope = which.scope if which else None
    if which and scope:
        writer.audit.lock([(scope.tenant, scope.user or "")])
        ids = list(conn.execute(select(t.cubes.c.id).where(which.where())).scalars())
    every = writer._with_derived(list(dict.fromkeys(ids)), plaintext_too=True)
    owners = {(scope.tenant, scope.user or "")} if scope else set()
    writer.audit.lock(owners | _owners(conn, every))
    every = writer._with_derived(every, plaintext_too=True)  # what was added while we waited
    threads = threads_of(conn, scope) if scope else []
    _hold(conn, threads)
    said: list[Said] = []
    if content:
        said += _said(conn, every)
        said += _said_in_threads(conn, threads)
        said += [("", "plan", text) for text in _plans_of(conn, scope)] if scope else []
    gone = writer.delete(every, "erase")
    if scope:
        _erase_threads(conn, threads)
        _erase_plans(conn, scope)
        if scope.agent is None and scope.session is None and scope.user is not None:
            _erase_person(conn, scope.tenant, scope.user)
        detail = f"everything of {scope}: {len(gone)} cubes, {len(threads)} threads"
        writer.audit.note("erase", (scope.tenant, scope.user or ""), detail=detail)
    if gone or threads or scope:
        conn.execute(db.upsert(t.meta, {"key": UNFINISHED, "value": new_id()}))
    return Erased(gone, threads, said)


def _owners(conn: Connection, ids: Iterable[str]) -> set[tuple[str, str]]:
    c = t.cubes.c
    return {
        (row.tenant, row.user)
        for chunk in chunks(ids)
        for row in conn.execute(select(c.tenant, c.user).where(c.id.in_(chunk)))
    }


# -- what it says --------------------------------------------------------------------------------------------


def _said(conn: Connection, ids: Sequence[str]) -> Iterator[Said]:
    for chunk in chunks(ids):
        for row in conn.execute(select(t.cubes).where(t.cubes.c.id.in_(chunk))).mappings():
            yield from _in_row(row, "")
        kept = select(t.versions.c.cube).where(t.versions.c.cube_id.in_(chunk))
        for stored in conn.execute(kept).scalars():
            try:
                yield from _in_row(json.loads(stored), " of an earlier version")
            except (ValueError, KeyError, TypeError):  # damaged: as it lies there
                yield "", "earlier version", stored
        v = t.vectors.c
        for row in conn.execute(select(v.cube_id, v.vector).where(v.cube_id.in_(chunk))).mappings():
            yield row["cube_id"], "vector", np.asarray(row["vector"], "<f4").tobytes()


def _in_row(row: Any, when: str) -> Iterator[Said]:
    id_ = row["id"]
    yield id_, f"text{when}", row["text"]
    if row["key"] != id_:
        yield id_, f"key{when}", row["key"]
    for what, stored in (("data", row["payload"]), ("tags", row["header"])):
        try:
            found = json.loads(stored)
            part = {k: found.get(k) for k in ("data", "slot")} if what == "data" else found.get("tags")
        except (ValueError, AttributeError):
            part = stored
        for text in strings(part):
            yield id_, f"{what}{when}", text


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def _said_in_threads(conn: Connection, threads: Sequence[Thread]) -> Iterator[Said]:
    for thread in threads:
        for table in THREAD_TABLES:
            rows = select(table).where(table.c.thread == _number(thread))
            for row in conn.execute(rows).mappings():
                for name in ("checkpoint", "refs", "value", "data"):
                    if row.get(name):
                        yield "", f"checkpoint of thread {thread[1]}", bytes(row[name])
                if row.get("metadata"):
                    yield "", f"checkpoint of thread {thread[1]}", row["metadata"]


def _hold(conn: Connection, threads: Sequence[Thread]) -> None:
    """Wait for those who write these threads, and keep others waiting."""
    c = t.threads.c
    for thread in threads:
        conn.execute(select(c.seq).where(c.tenant == thread[0], c.thread_id == thread[1]).with_for_update())


def _number(thread: Thread) -> Any:
    """The number of a thread, as a subquery."""
    c = t.threads.c
    return select(c.seq).where(c.tenant == thread[0], c.thread_id == thread[1]).scalar_subquery()


def _plans_of(conn: Connection, scope: Scope) -> Iterator[str]:
    return iter(conn.execute(select(t.plans.c.system).where(_plans(scope))).scalars().all())


# -- what goes with a scope ----------------------------------------------------------------------------------


def threads_of(conn: Connection, scope: Scope) -> list[Thread]:
    """The LangGraph threads of a scope: of its session, or of its user where it has neither session nor agent.

    A saver over a user's view has a lane of its own. In the operator's lane a thread is a user's if one of its
    checkpoints was made with that `user_id`; those that name nobody belong to no user.
    """
    if scope.agent is not None and scope.session is None:
        return []  # a thread belongs to no single agent
    found: set[Thread] = set()
    if scope.user is not None:
        lane = f"{scope.tenant}{t.SEP}{scope.user}"
        found |= {(lane, id_) for id_ in _thread_ids(conn, lane, scope.session)}
    named = _named_users(conn, scope.tenant, scope.session)
    if scope.user is not None:
        found |= {(scope.tenant, id_) for id_, users in named.items() if scope.user in users}
    else:
        every = _thread_ids(conn, scope.tenant, scope.session)
        found |= {(scope.tenant, id_) for id_ in every if not named.get(id_)}
    return sorted(found)


def _thread_ids(conn: Connection, lane: str, session: str | None) -> set[str]:
    query = select(t.threads.c.thread_id).where(t.threads.c.tenant == lane)
    if session is not None:
        query = query.where(t.threads.c.thread_id == session)
    return set(conn.execute(query).scalars())


def _named_users(conn: Connection, lane: str, session: str | None) -> dict[str, set[str]]:
    """For each thread of a lane, the users that its checkpoints name."""
    c, h = t.checkpoints.c, t.threads.c
    query = select(h.thread_id, c.user_id).join_from(t.threads, t.checkpoints, c.thread == h.seq).distinct()
    query = query.where(h.tenant == lane, c.user_id.is_not(None))
    if session is not None:
        query = query.where(h.thread_id == session)
    found: dict[str, set[str]] = {}
    for row in conn.execute(query):
        found.setdefault(row.thread_id, set()).add(row.user_id)
    return found


def _plans(scope: Scope) -> Any:
    p = t.plans.c
    if scope.session is not None:
        return false()  # a plan stands for every session of an agent
    owned = and_(p.tenant == scope.tenant, p.user == (scope.user or ""))
    return owned if scope.agent is None else and_(owned, p.agent == scope.agent)


def _erase_plans(conn: Connection, scope: Scope) -> None:
    s = t.session_plans.c
    held = [s.tenant == scope.tenant, s.user == (scope.user or "")]
    held += [s[p] == getattr(scope, p) for p in ("agent", "session") if getattr(scope, p) is not None]
    conn.execute(delete(t.session_plans).where(*held))
    conn.execute(delete(t.plans).where(_plans(scope)))


def _erase_threads(conn: Connection, threads: Sequence[Thread]) -> None:
    for thread in threads:
        for table in THREAD_TABLES:
            conn.execute(delete(table).where(table.c.thread == _number(thread)))
        conn.execute(
            delete(t.threads).where(t.threads.c.tenant == thread[0], t.threads.c.thread_id == thread[1])
        )


def _erase_person(conn: Connection, tenant: str, user: str) -> None:
    g, m = t.grants.c, t.members.c
    conn.execute(delete(t.grants).where(g.tenant == tenant, g.kind == "user", g.name == user))
    conn.execute(delete(t.members).where(m.tenant == tenant, m.user == user))


# -- what is still there -------------------------------------------------------------------------------------


def leftovers(conn: Connection, ids: Sequence[str], threads: Sequence[Thread]) -> list[tuple[str, str]]:
    """Rows that still name what was erased, the log and the tombstones aside, as (table, cube id or thread)."""
    found: list[tuple[str, str]] = []
    for table in t.metadata.sorted_tables:
        if table.name in _KEPT:
            continue
        names = [table.c[n] for n in ("cube_id", "source_id") if n in table.c]
        names += [table.c.id] if table is t.cubes else []
        for column in names:
            # What was derived in another transaction meanwhile still says so; its source is gone.
            for chunk in chunks(ids):
                rows = conn.execute(select(column).where(column.in_(chunk)).distinct()).scalars()
                found += [(table.name, id_) for id_ in rows]
    for tenant, thread in threads:
        if thread in _thread_ids(conn, tenant, thread):
            found.append((t.threads.name, thread))
    for table in THREAD_TABLES:
        lost = table.c.thread.not_in(select(t.threads.c.seq))
        if threads and conn.execute(select(table.c.thread).where(lost).limit(1)).first() is not None:
            found.append((table.name, "a thread that is gone"))
    return found


def remaining(conn: Connection) -> Iterator[tuple[str, bytes]]:
    """All texts and bytes that the database holds for good, in large pieces, each with the name of its table."""
    for table in t.metadata.sorted_tables:
        columns = [c for c in table.c if isinstance(c.type, String | LargeBinary | t.Vector)]
        buffer: list[bytes] = []
        size = 0
        for row in conn.execute(select(*columns).execution_options(yield_per=_PAGE)):
            for value in row:
                if value is not None:
                    buffer.append(_raw(value))
                    size += len(buffer[-1])
            if size >= _BUFFER:
                yield table.name, b"\0".join(buffer)
                buffer, size = [], 0
        if buffer:
            yield table.name, b"\0".join(buffer)
    if conn.dialect.name == "sqlite":
        schema = conn.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").scalars()
        yield "sqlite_master", "\0".join(schema).encode()


def _raw(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="replace")
    return bytes(value) if isinstance(value, bytes | memoryview) else np.asarray(value, "<f4").tobytes()


def existing(conn: Connection, ids: Iterable[str]) -> set[str]:
    """Those of `ids` that are cubes."""
    return {
        id_
        for chunk in chunks(ids)
        for id_ in conn.execute(select(t.cubes.c.id).where(t.cubes.c.id.in_(chunk))).scalars()
    }


# -- what became of others' deletions ------------------------------------------------------------------------


def tombstones(conn: Connection, after: int) -> list[Tombstone]:
    """Deletions with a higher number, oldest first."""
    s = t.tombstones.c
    rows = conn.execute(select(t.tombstones).where(s.seq > after).order_by(s.seq))
    return [
        Tombstone(r.seq, r.cube_id, r.kv_key, Scope(tenant=r.tenant, user=r.user or None), r.action)
        for r in rows
    ]


def last_tombstone(conn: Connection) -> int:
    """The number of the newest deletion; 0 if there is none."""
    return int(conn.execute(select(func.coalesce(func.max(t.tombstones.c.seq), 0))).scalar_one())


def any_rows(conn: Connection) -> bool:
    """Whether a vault holds anything but its own settings."""
    return any(
        conn.execute(select(*table.primary_key).limit(1)).first() is not None
        for table in t.metadata.sorted_tables
        if table is not t.meta
    )

"""The audit log: who did what to which cube, through which adapter. It is written in the transaction of what it
tells of, and never changed: the records of a user form a hash chain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, insert, select, update

from memos_core.cube import ANY_USER, MemCube, Scope
from memos_core.errors import InvalidArgument
from memos_core.vault import tables as t
from memos_core.vault.database import Database
from memos_core.vault.rows import micros, moment

_HASHED = ("n", "at", "principal", "adapter", "action", "cube_id", "version", "tenant", "user", "detail")
_PAGE = 1000

Owner = tuple[str, str]  # (tenant, user)


@dataclass(frozen=True)
class Actor:
    """Who does it and through what, for the audit log."""

    principal: str = "operator"
    adapter: str = "memos"


@dataclass(frozen=True)
class AuditRecord:
    """One line of the audit log. It names cubes and never holds their content.

    Args:
        user: whose cube; None for one that belongs to no user.
        n: its place in that user's chain, from 1. hash: SHA-256 of this record and the one before it.
    """

    at: datetime
    principal: str
    adapter: str
    action: str
    cube_id: str
    version: int
    detail: str
    user: str | None
    n: int
    hash: str


@dataclass(frozen=True)
class LogQuery:
    """Which records; a part that is None matches all.

    Args:
        scope: of its tenant and user ("*": all users of the tenant).
        cube_id: of this cube. action: "write", "update", "delete", … or its beginning, "state:".
        principal, adapter: of who did it, and through what.
        since, until: done at or after, and before.
        limit: how many at most. newest_first: else oldest first.
        clearance: not of cubes with other sensitivity labels; None: of all.
    """

    scope: Scope
    cube_id: str | None = None
    action: str | None = None
    principal: str | None = None
    adapter: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = 100
    newest_first: bool = True
    clearance: frozenset[str] | None = None

    def select(self) -> Select[Any]:
        """The query.

        Raises:
            InvalidArgument: a moment without a time zone, or a negative limit.
        """
        if self.limit is not None and self.limit < 0:
            raise InvalidArgument(f"limit must be 0 or more, got {self.limit}")
        a = t.audit.c
        query = select(t.audit).where(a.tenant == self.scope.tenant)
        if self.scope.user != ANY_USER:
            query = query.where(a.user == (self.scope.user or ""))
        for column, value in (
            (a.cube_id, self.cube_id),
            (a.principal, self.principal),
            (a.adapter, self.adapter),
        ):
            if value is not None:
                query = query.where(column == value)
        if self.action is not None:
            matches = a.action.startswith(self.action, autoescape=True)
            query = query.where(matches if self.action.endswith(":") else a.action == self.action)
        if self.since is not None:
            query = query.where(a.at >= micros(self.since))
        if self.until is not None:
            query = query.where(a.at < micros(self.until))
        if self.clearance is not None:
            label = t.labels.c
            above = select(label.cube_id).where(
                label.cube_id == a.cube_id, label.label.not_in(self.clearance)
            )
            query = query.where(~above.exists())
        return query.order_by(a.seq.desc() if self.newest_first else a.seq).limit(self.limit)


class AuditWriter:
    """Adds records within one write transaction. What it locks stays locked until the transaction ends."""

    def __init__(self, conn: Connection, db: Database, actor: Actor, at: int) -> None:
        self._conn = conn
        self._db = db
        self._actor = actor
        self._at = at
        self._heads: dict[Owner, tuple[int, str]] = {}
        self._rows: list[dict[str, Any]] = []

    def lock(self, owners: Iterable[Owner]) -> None:
        """Wait until no other transaction writes to these users' memory, and keep others waiting. In one order,
        so that two writers never wait for each other."""
        for tenant, user in sorted(set(owners) - self._heads.keys()):
            self._heads[tenant, user] = hold(self._conn, self._db, (tenant, user))

    def add(self, action: str, cube: MemCube, detail: str = "") -> None:
        """Note what was done to a cube."""
        self.note(action, (cube.scope.tenant, cube.scope.user or ""), cube.id, cube.version, detail)

    def note(self, action: str, owner: Owner, cube_id: str = "", version: int = 0, detail: str = "") -> None:
        """Note what was done in a user's memory."""
        self.lock([owner])
        n, before = self._heads[owner]
        row: dict[str, Any] = {
            "n": n + 1,
            "at": self._at,
            "principal": self._actor.principal,
            "adapter": self._actor.adapter,
            "action": action,
            "cube_id": cube_id,
            "version": version,
            "tenant": owner[0],
            "user": owner[1],
            "detail": detail,
        }
        row["hash"] = chain_hash(before, row)
        self._heads[owner] = (n + 1, row["hash"])
        self._rows.append(row)

    def flush(self) -> None:
        """Store the records, at the end of the transaction."""
        if not self._rows:
            return
        self._db.prepared.execute_many(self._conn, _ADD, self._rows)
        changed = sorted({(row["tenant"], row["user"]) for row in self._rows})
        ends = [
            {"of_tenant": x[0], "of_user": x[1], "n": self._heads[x][0], "hash": self._heads[x][1]}
            for x in changed
        ]
        self._db.prepared.execute_many(self._conn, _END, ends)
        self._rows = []


def hold(conn: Connection, db: Database, owner: Owner) -> tuple[int, str]:
    """Lock a user's memory until the transaction ends, and return the end of its chain: its length and hash."""
    values = {"tenant": owner[0], "user": owner[1], "n": 0, "hash": ""}
    [head] = db.prepared.execute(conn, _hold(type(db)), values)
    return head.n, head.hash


@cache
def _hold(kind: type[Database]) -> Any:
    """The statement that makes the row of a chain's end if there is none, locks it and reads it."""
    h = t.audit_heads
    new = kind.insert(h).values({name: bindparam(name) for name in h.c.keys()})  # noqa: SIM118
    same = new.on_conflict_do_update(index_elements=["tenant", "user"], set_={"n": h.c.n})
    return same.returning(h.c.n, h.c.hash)


# Built once: building a statement costs more than running it.
_ADD = insert(t.audit)
_END = (
    update(t.audit_heads)
    .where(t.audit_heads.c.tenant == bindparam("of_tenant"), t.audit_heads.c.user == bindparam("of_user"))
    .values(n=bindparam("n"), hash=bindparam("hash"))
)


def chain_hash(before: str, row: Mapping[str, Any]) -> str:
    """The hash of a record: SHA-256 of the hash before it and the record's fields as JSON."""
    return sha256((before + json.dumps([row[name] for name in _HASHED])).encode()).hexdigest()


def read_log(conn: Connection, query: LogQuery) -> list[AuditRecord]:
    """The records that match."""
    return [_record(r) for r in conn.execute(query.select())]


def broken_chains(conn: Connection, scope: Scope | None) -> list[str]:
    """What does not fit in the chains of a scope's tenant and user (of all where None), in sentences."""
    a, h = t.audit.c, t.audit_heads.c
    rows, heads = select(t.audit).order_by(a.tenant, a.user, a.n), select(t.audit_heads)
    if scope is not None:
        rows, heads = rows.where(a.tenant == scope.tenant), heads.where(h.tenant == scope.tenant)
        if scope.user != ANY_USER:
            rows, heads = rows.where(a.user == (scope.user or "")), heads.where(h.user == (scope.user or ""))
    wrong: list[str] = []
    ends: dict[Owner, tuple[int, str]] = {}
    for row in conn.execute(rows.execution_options(yield_per=_PAGE)):
        whose = (row.tenant, row.user)
        n, before = ends.get(whose, (0, ""))
        if row.n != n + 1:
            wrong.append(f"the audit log of user {row.user!r} lacks its records {n + 1} to {row.n - 1}")
        elif row.hash != chain_hash(before, dict(row._mapping)):
            wrong.append(f"record {row.n} of the audit log of user {row.user!r} was changed")
        ends[whose] = (row.n, row.hash)
    for head in conn.execute(heads):
        if ends.get((head.tenant, head.user), (0, "")) != (head.n, head.hash):
            wrong.append(f"the audit log of user {head.user!r} does not end with its record {head.n}")
    return wrong


def _record(r: Row[Any]) -> AuditRecord:
    return AuditRecord(
        moment(r.at),
        r.principal,
        r.adapter,
        r.action,
        r.cube_id,
        r.version,
        r.detail,
        r.user or None,
        r.n,
        r.hash,
    )

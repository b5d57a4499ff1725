"""The audit log: who did what to which cube. It is written in the transaction of what it tells of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select

from memos_core.cube import ANY_USER, MemCube, Scope, now
from memos_core.vault import tables as t
from memos_core.vault.rows import micros, moment


@dataclass(frozen=True)
class Actor:
    """Who does it and through what, for the audit log."""

    principal: str = "operator"
    adapter: str = "memos"


@dataclass(frozen=True)
class AuditRecord:
    """One line of the audit log. It names cubes and never holds their content."""

    at: datetime
    principal: str
    adapter: str
    action: str
    cube_id: str
    version: int
    detail: str


def read_log(conn: Connection, scope: Scope, cube_id: str | None, limit: int) -> list[AuditRecord]:
    """The newest records of a scope's tenant and user first, of one cube or of all."""
    query = (
        select(t.audit).where(t.audit.c.tenant == scope.tenant).order_by(t.audit.c.seq.desc()).limit(limit)
    )
    if scope.user != ANY_USER:
        query = query.where(t.audit.c.user == (scope.user or ""))
    if cube_id is not None:
        query = query.where(t.audit.c.cube_id == cube_id)
    return [
        AuditRecord(moment(r.at), r.principal, r.adapter, r.action, r.cube_id, r.version, r.detail)
        for r in conn.execute(query)
    ]


def write_log(conn: Connection, actor: Actor, entries: Sequence[tuple[str, MemCube, str]]) -> None:
    """Add records of (action, cube, detail), within the transaction of `conn`."""
    if not entries:
        return
    at = micros(now())
    rows = [
        {
            "at": at,
            "principal": actor.principal,
            "adapter": actor.adapter,
            "action": action,
            "cube_id": cube.id,
            "version": cube.version,
            "tenant": cube.scope.tenant,
            "user": cube.scope.user or "",
            "detail": detail,
        }
        for action, cube, detail in entries
    ]
    conn.execute(insert(t.audit), rows)

"""Resident plans: which memories stand in front of a user's prompts, and which plan a session began with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select

from memos_core.cube import Scope, new_id, now
from memos_core.vault import tables as t
from memos_core.vault.audit import hold
from memos_core.vault.database import Database
from memos_core.vault.rows import micros, moment


@dataclass(frozen=True)
class Plan:
    """The resident memory of one scope (tenant, user, agent): cubes in prompt order, behind a system text."""

    scope: Scope
    system: str
    cube_ids: tuple[str, ...]
    reason: str
    id: str = field(default_factory=new_id)
    planned_at: datetime = field(default_factory=now)


class PlanTable:
    """Plans are added, never changed; the newest of a scope is the one that new sessions get."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, plan: Plan) -> None:
        """Store a plan; from now on it is the current one of its scope."""
        row: dict[str, Any] = {
            "id": plan.id,
            **_address(plan.scope),
            "system": plan.system,
            "cube_ids": json.dumps(plan.cube_ids),
            "reason": plan.reason,
            "planned_at": micros(plan.planned_at),
        }
        p = t.plans.c
        with self._db.write(derived=True) as conn:
            hold(
                conn, self._db, (row["tenant"], row["user"])
            )  # no session takes up a plan that is pruned here
            conn.execute(insert(t.plans).values(**row))
            # Older plans stay only while a session still uses them.
            held = select(t.session_plans.c.plan_id)
            old = [p[k] == v for k, v in _address(plan.scope).items()]
            conn.execute(delete(t.plans).where(*old, p.id < plan.id, p.id.not_in(held)))

    def current(self, scope: Scope) -> Plan | None:
        """The newest plan of a scope."""
        p = t.plans.c
        where = [p[k] == v for k, v in _address(scope).items()]
        with self._db.read() as conn:
            row = conn.execute(select(t.plans).where(*where).order_by(p.id.desc()).limit(1)).one_or_none()
        return _plan(row) if row else None

    def for_session(self, scope: Scope) -> Plan | None:
        """The plan this session holds: the current one of its first prompt, or of the first prompt after there
        was one."""
        if scope.session is None:
            return self.current(scope)
        s = t.session_plans.c
        address = {**_address(scope), "session": scope.session}
        held = select(s.plan_id).where(*(s[k] == v for k, v in address.items()))
        with self._db.read() as conn:
            plan_id = conn.execute(held).scalar()
        if plan_id is None and self.current(scope) is None:
            return None  # nothing to hold yet
        if plan_id is None:
            p = t.plans.c
            newest = select(func.max(p.id)).where(*(p[k] == v for k, v in _address(scope).items()))
            with self._db.write() as conn:
                hold(conn, self._db, (address["tenant"], address["user"]))
                plan_id = conn.execute(held).scalar()  # another process may have begun it meanwhile
                if plan_id is None:
                    # In one transaction, so that no newer plan prunes this one before it is held.
                    plan_id = conn.execute(newest).scalar()
                    if plan_id is not None:
                        conn.execute(insert(t.session_plans).values(plan_id=plan_id, **address))
        with self._db.read() as conn:
            row = conn.execute(select(t.plans).where(t.plans.c.id == plan_id)).one_or_none()
        return _plan(row) if row else None

    def recent(self, limit: int = 32, *, tenant: str | None = None) -> list[Plan]:
        """The current plan of each scope, the most recently planned first; of one tenant, or of all."""
        newest = select(t.plans.c.id, t.plans.c.tenant, t.plans.c.user, t.plans.c.agent).order_by(
            t.plans.c.id.desc()
        )
        if tenant is not None:
            newest = newest.where(t.plans.c.tenant == tenant)
        with self._db.read() as conn:
            ids: dict[tuple[str, str, str], str] = {}
            for row in conn.execute(newest):
                ids.setdefault((row.tenant, row.user, row.agent), row.id)
            rows = conn.execute(
                select(t.plans)
                .where(t.plans.c.id.in_(list(ids.values())[:limit]))
                .order_by(t.plans.c.id.desc())
            )
            return [_plan(r) for r in rows]

    def moments(self, scope: Scope, limit: int) -> list[tuple[str | None, datetime]]:
        """When something was said in a scope, and in which session: of its memories that changed last, oldest first.

        Args:
            scope: of one user and agent, or of nobody; its session is not looked at.
        """
        c = t.cubes.c
        where = [c[k] == v for k, v in _address(scope).items()]
        query = select(c.session, c.created_at).where(*where, c.kind == "plaintext")
        with self._db.read() as conn:
            rows = conn.execute(query.order_by(c.updated_at.desc()).limit(limit)).all()
        return [
            (row.session or None, moment(row.created_at)) for row in sorted(rows, key=lambda r: r.created_at)
        ]


def _address(scope: Scope) -> dict[str, str]:
    return {"tenant": scope.tenant, "user": scope.user or "", "agent": scope.agent or ""}


def _plan(row: Row[Any]) -> Plan:
    scope = Scope(tenant=row.tenant, user=row.user or None, agent=row.agent or None)
    return Plan(
        scope, row.system, tuple(json.loads(row.cube_ids)), row.reason, row.id, moment(row.planned_at)
    )

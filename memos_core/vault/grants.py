"""Grants of cubes to others, and the groups they name. Written in the transaction of the audit record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, select

from memos_core.vault import tables as t
from memos_core.vault.database import Database
from memos_core.vault.filter import Right, granted_ids
from memos_core.vault.writer import chunks

Grantee = tuple[str, str]  # (user | group | everyone, name)


class GrantTable:
    """Who else may do what with a cube."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(
        self, conn: Connection, tenant: str, ids: Iterable[str], to: Grantee, rights: Sequence[Right]
    ) -> None:
        """Grant rights to cubes of a tenant; what is granted already stays."""
        rows = [
            {"cube_id": i, "right": r, "tenant": tenant, "kind": to[0], "name": to[1]}
            for i in ids
            for r in rights
        ]
        for row in rows:
            conn.execute(self._db.insert(t.grants).values(**row).on_conflict_do_nothing())

    def remove(self, conn: Connection, ids: Iterable[str], to: Grantee, rights: Sequence[Right]) -> None:
        """Take rights back; what was not granted is ignored."""
        g = t.grants.c
        for chunk in chunks(ids):
            conn.execute(
                delete(t.grants).where(
                    g.cube_id.in_(chunk), g.kind == to[0], g.name == to[1], g.right.in_(rights)
                )
            )

    def of(self, ids: Sequence[str]) -> list[Any]:
        """The grants of cubes: rows of cube_id, kind, name and right."""
        g = t.grants.c
        with self._db.read() as conn:
            return [
                row
                for chunk in chunks(ids)
                for row in conn.execute(
                    select(t.grants).where(g.cube_id.in_(chunk)).order_by(g.cube_id, g.kind, g.name, g.right)
                )
            ]

    def rights(self, conn: Connection, tenant: str, user: str, cube_id: str) -> set[Right]:
        """What a user was granted to do with a cube."""
        every: tuple[Right, ...] = ("read", "write", "share")
        here = t.grants.c.cube_id == cube_id
        return {
            r for r in every if conn.execute(granted_ids(tenant, user, r).where(here)).first() is not None
        }

    def set_members(
        self, conn: Connection, tenant: str, group: str, users: Iterable[str], *, member: bool
    ) -> None:
        """Add users to a group of a tenant, or take them out."""
        m = t.members
        for user in users:
            row = {"tenant": tenant, "group": group, "user": user}
            if member:
                conn.execute(self._db.insert(m).values(**row).on_conflict_do_nothing())
            else:
                conn.execute(delete(m).where(*(m.c[k] == v for k, v in row.items())))

    def groups(self, tenant: str) -> dict[str, list[str]]:
        """The groups of a tenant and who is in them, sorted."""
        m = t.members.c
        found: dict[str, list[str]] = {}
        with self._db.read() as conn:
            for row in conn.execute(
                select(m.group, m.user).where(m.tenant == tenant).order_by(m.group, m.user)
            ):
                found.setdefault(row.group, []).append(row.user)
        return found

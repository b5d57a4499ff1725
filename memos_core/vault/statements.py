"""The statements of a write, built once for each kind of database: to build one costs more than to run it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, bindparam, delete, insert, or_, select, update

from memos_core.vault import tables as t
from memos_core.vault.among import Among
from memos_core.vault.database import Database
from memos_core.vault.filter import CubeFilter

BEHAVIOUR = (t.behaviour.c.reads, t.behaviour.c.last_read, t.behaviour.c.frequency)
INSERT_CUBE = insert(t.cubes)
INSERT_VERSION = insert(t.versions)
INSERT_SOURCE = insert(t.sources)
INSERT_LABEL = insert(t.labels)
INSERT_TOMBSTONE = insert(t.tombstones)
QUEUE = insert(t.index_queue)
UPDATE_CUBE = (
    update(t.cubes)
    .where(t.cubes.c.id == bindparam("the_id"))
    .values({c.name: bindparam(c.name) for c in t.cubes.c if c.name != "seq"})
)
# What is kept about a cube beside it.
ABOUT = (t.versions, t.sources, t.behaviour, t.index_queue, t.vectors, t.labels, t.grants)


def with_behaviour() -> Select[Any]:
    """Rows of `cubes` with what is needed to make cubes of them."""
    return select(t.cubes, *BEHAVIOUR).outerjoin(t.behaviour, t.behaviour.c.cube_id == t.cubes.c.id)


class Statements:
    """Those that take lists of ids, as the parameter `ids`; its value is `Database.listed(ids)`.

    Args:
        db: of this kind.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        c, ids = t.cubes.c, self._ids()
        self.owners = select(c.tenant, c.user).where(Among(c.id, ids)).distinct()
        self.cubes = with_behaviour().where(Among(c.id, ids)).order_by(c.id)
        self.state = update(t.cubes).where(Among(c.id, ids)).values(state=bindparam("new_state"))
        self.forget = {table: delete(table).where(Among(table.c.cube_id, ids)) for table in ABOUT}
        self.delete = delete(t.cubes).where(Among(c.id, ids))
        self.derived = self._derived()
        self.derived_forms = self.derived.where(c.kind != "plaintext")
        self.at_addresses = self._at_addresses()
        self.queue = self._upsert(t.index_queue)
        self.note = self._upsert(t.meta)

    def of_filter(self, which: CubeFilter) -> Select[Any]:
        """Like `cubes`, those that match; for `Prepared.run`."""
        return self.cubes.where(which.where())

    def _ids(self, name: str = "ids") -> Select[Any]:
        return select(self._db.each(name).c.value)

    def _derived(self) -> Select[Any]:
        """Ids of the cubes that were made from some, within the tenant."""
        c, source = t.cubes.c, t.cubes.alias("source")
        return (
            select(c.id)
            .join(t.sources, t.sources.c.cube_id == c.id)
            .join(source, source.c.id == t.sources.c.source_id)
            .where(Among(t.sources.c.source_id, self._ids()), c.tenant == source.c.tenant)
        )

    def _at_addresses(self) -> Select[Any]:
        """The cubes at some addresses of one namespace, and those with one of some ids."""
        c = t.cubes.c
        here = (
            c.tenant == bindparam("at_tenant"),
            c.user == bindparam("at_user"),
            c.namespace == bindparam("at_namespace"),
        )
        there = and_(*here, Among(c.key, self._ids("at_keys")))
        return with_behaviour().where(or_(there, Among(c.id, self._ids("with_ids"))))

    def _upsert(self, table: Any) -> Any:
        return self._db.upsert(table, {c.name: bindparam(c.name) for c in table.c})


def statements(db: Database) -> Statements:
    """Those of a database's kind."""
    if type(db) not in _MADE:
        _MADE[type(db)] = Statements(db)
    return _MADE[type(db)]


_MADE: dict[type[Database], Statements] = {}

"""Cubes as a key-value store shows them: address, value and times, read without making cubes of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Integer, Row, Select, and_, bindparam, func, or_, select, update

from memos_core.cube import ANY_USER, Namespace, State, now
from memos_core.vault import tables as t
from memos_core.vault.audit import Owner, hold
from memos_core.vault.database import Database
from memos_core.vault.filter import CubeFilter
from memos_core.vault.rows import CubeDamaged, intact, micros, moment, unpack_namespace

log = logging.getLogger("memos_core.vault")
_FIRST_PAGE, _LAST_PAGE = 256, 16_384  # rows looked through at a time
_MICROSECOND = timedelta(microseconds=1)
_LATEST = micros(datetime.max.replace(tzinfo=UTC))
_ORDER = (t.cubes.c.updated_at.desc(), t.cubes.c.id.desc())
_N, _SKIP = bindparam("n", type_=Integer), bindparam("skip", type_=Integer)
_PROLONG = (
    update(t.cubes)
    .where(
        t.cubes.c.id == bindparam("of_id"),
        t.cubes.c.expires_at > bindparam("alive_at"),
        t.cubes.c.expires_at < bindparam("until"),
        t.cubes.c.state != str(State.EXPIRED),
    )
    .values(expires_at=bindparam("until"))
)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A cube, seen as an item.

    Args:
        user: whose it is, "" for nobody's.
        data: its JSON; of a KV cache or an adapter its description. text: what it is found by.
        ttl: how long it lives since it was last used; None: for ever.
    """

    id: str
    version: int
    user: str
    namespace: Namespace
    key: str
    data: Any
    text: str
    created_at: datetime
    updated_at: datetime
    ttl: timedelta | None


class ItemTable:
    """Reads items, and extends their lives."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def at(self, which: CubeFilter, keys: Collection[str]) -> dict[str, StoredItem]:
        """The items with these keys, by key.

        Args:
            which: of one namespace, exactly.

        Raises:
            CubeDamaged: one of them is not what was written.
        """
        return {row.key: _item(row) for row in self._rows_at(which, keys)}

    def ids_at(self, which: CubeFilter, keys: Collection[str]) -> list[str]:
        """The ids of the items with these keys, damaged or not."""
        return [row.id for row in self._rows_at(which, keys)]

    def _rows_at(self, which: CubeFilter, keys: Collection[str]) -> list[Any]:
        def made(which: CubeFilter) -> Select[Any]:
            given, c = self._db.each("keys"), t.cubes.c
            # An outer join: each is looked up, and no planner goes through the namespace instead.
            return select(t.cubes).select_from(
                given.outerjoin(t.cubes, and_(c.key == given.c.value, which.where()))
            )

        with self._db.read() as conn:
            values = {"keys": self._db.listed(list(keys))}
            rows = self._db.prepared.run(conn, "items at", which, made, values)
            return [row for row in rows if row.id is not None]

    def newest(self, which: CubeFilter, limit: int, offset: int = 0) -> list[StoredItem]:
        """Items in the order of their last update, newest first."""
        with self._db.read() as conn:
            rows = self._db.prepared.run(conn, "newest", which, _newest, {"n": limit, "skip": offset})
            return _whole(rows)

    def matching(
        self, which: CubeFilter, accept: Callable[[str, str, str], bool], limit: int
    ) -> list[StoredItem]:
        """The first `limit` of those that `accept` takes, in the same order.

        Args:
            accept: a condition on the id, the text and the payload (JSON, as it is stored).
        """
        found: list[str] = []
        with self._db.held(), self._db.read() as conn:
            for row in self._payloads(conn, which):
                if accept(row.id, row.text, row.payload):
                    found.append(row.id)
                    if len(found) == limit:
                        break
            rows = self._db.prepared.run(conn, "found", which, self._among, {"ids": self._db.listed(found)})
        place = {id_: i for i, id_ in enumerate(found)}
        return _whole(sorted((row for row in rows if row.id is not None), key=lambda row: place[row.id]))

    def _among(self, which: CubeFilter) -> Select[Any]:
        given, c = self._db.each("ids"), t.cubes.c
        return select(t.cubes).select_from(
            given.outerjoin(t.cubes, and_(c.id == given.c.value, which.where()))
        )

    def _payloads(self, conn: Connection, which: CubeFilter) -> Iterator[Row[Any]]:
        size, offset = _FIRST_PAGE, 0
        while True:
            rows = self._db.prepared.run(conn, "payloads", which, _payloads, {"n": size, "skip": offset})
            yield from rows
            if len(rows) < size:
                return
            offset += size
            size = min(size * 16, _LAST_PAGE)

    def namespaces(self, which: CubeFilter) -> list[Namespace]:
        """The distinct namespaces of those that match, sorted: from one to the next through the index, not through
        every item."""
        with self._db.read() as conn:
            rows = self._db.prepared.run(conn, "namespaces", which, _namespaces, {})
            return sorted(unpack_namespace(row.namespace) for row in rows if row.namespace is not None)

    def prolong(self, owner: Owner, items: Iterable[StoredItem]) -> None:
        """Let items of one user that have a ttl live that long from now on. A power failure may take this back."""
        at = micros(now())
        rows = [
            {"of_id": item.id, "alive_at": at, "until": min(at + item.ttl // _MICROSECOND, _LATEST)}
            for item in items
            if item.ttl is not None
        ]
        if rows:
            with self._db.write(derived=True) as conn:
                hold(conn, self._db, owner)
                conn.execute(_PROLONG, sorted(rows, key=lambda row: str(row["of_id"])))

    def over(self, conn: Connection, which: CubeFilter) -> list[str]:
        """The ids of those whose time is over.

        Args:
            which: with `expired` and all states.
        """
        c = t.cubes.c
        late = and_(c.expires_at <= micros(now()), c.frozen.is_(False))
        query = select(c.id).where(which.where(), or_(late, c.state == str(State.EXPIRED)))
        return list(conn.execute(query).scalars())


def _newest(which: CubeFilter) -> Select[Any]:
    c = t.cubes.c
    # Only the numbers of rows are sorted, not all that is in them.
    first = select(c.seq).where(which.where()).order_by(*_ORDER).limit(_N).offset(_SKIP)
    return select(t.cubes).where(c.seq.in_(first)).order_by(*_ORDER)


def _payloads(which: CubeFilter) -> Select[Any]:
    c = t.cubes.c
    return select(c.id, c.text, c.payload).where(which.where()).order_by(*_ORDER).limit(_N).offset(_SKIP)


def _namespaces(which: CubeFilter) -> Select[Any]:
    c = t.cubes.c
    if which.scope.user == ANY_USER:  # the index is sorted by users first
        return select(c.namespace).where(which.where()).distinct()
    found = select(func.min(c.namespace).label("namespace")).where(which.where()).cte("found", recursive=True)
    after = select(func.min(c.namespace)).where(which.where(), c.namespace > found.c.namespace)
    found = found.union_all(select(after.scalar_subquery()).where(found.c.namespace.is_not(None)))
    return select(found.c.namespace)


def _whole(rows: Iterable[Row[Any]]) -> list[StoredItem]:
    """The items of rows; one that is damaged does not take the others with it."""
    whole: list[StoredItem] = []
    for row in rows:
        try:
            whole.append(_item(row))
        except CubeDamaged as err:
            log.error("%s (`memos doctor` lists every damage)", err)
    return whole


def _item(row: Row[Any]) -> StoredItem:
    if not intact(row):
        raise CubeDamaged(
            f"the stored cube {row.id} (key {row.key!r}) is damaged: its checksum does not match; restore it from a "
            "backup or delete it"
        )
    payload = json.loads(row.payload)
    header = json.loads(row.header) if row.expires_at is not None else {}
    return StoredItem(
        id=row.id,
        version=row.version,
        user=row.user,
        namespace=unpack_namespace(row.namespace),
        key=row.key,
        data=payload["data"] if row.kind == "plaintext" else {"kind": row.kind, **payload},
        text=row.text,
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        ttl=timedelta(microseconds=header["ttl"]) if "ttl" in header else None,
    )

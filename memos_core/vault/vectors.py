"""Vectors of cubes, as derived data beside them, and the queue of those that are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    LargeBinary,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    type_coerce,
    update,
)

from memos_core.cube import LIVE, new_id
from memos_core.vault import tables as t
from memos_core.vault.among import Among
from memos_core.vault.audit import hold
from memos_core.vault.database import Database
from memos_core.vault.filter import CubeFilter, granted_ids
from memos_core.vault.writer import chunks

Matrix = npt.NDArray[np.float32]
Owner = tuple[str, str | None]  # tenant and user; None: every user of the tenant

_SHORT_QUEUE = 256  # `_QUEUED` counts to one more
_CHUNK = 2_048
_EPOCH = "index_epoch"  # in `meta`: an ANN index of an earlier epoch may hold what was erased
_RESET = "index_reset"
_STAMPS = "index_stamps"
_AFTER = (
    "SELECT seq, cube_id, version, embedder, dims, vector FROM vectors "
    "WHERE {} AND seq > :seq ORDER BY seq LIMIT :n"
)
# The plus keeps SQLite from an index that knows no order of all users' rows.
_AFTER_ALL = text(_AFTER.format("+tenant = :tenant"))
_AFTER_OWN = text(_AFTER.format('tenant = :tenant AND "user" = :user'))
_BATCH = 500
_ADD = insert(t.vectors)
_WAITING = (
    select(t.cubes.c.id, t.cubes.c.version, t.cubes.c.text)
    .join(t.index_queue, t.index_queue.c.cube_id == t.cubes.c.id)
    .order_by(t.cubes.c.seq)
    .limit(bindparam("up_to", type_=Integer()))
)
_QUEUED = text("SELECT count(*) FROM (SELECT 1 FROM index_queue LIMIT 257) AS found")


class VectorRow(NamedTuple):
    """One vector as it is stored: float32 bytes, little-endian."""

    seq: int
    cube_id: str
    version: int
    embedder: str
    dims: int
    vector: bytes


class VectorTable:
    """Float32 vectors of unit length, one a cube, for one embedder at a time."""

    def __init__(self, db: Database) -> None:
        self._db = db
        c, q, v, given = t.cubes.c, t.index_queue.c, t.vectors.c, db.each("ids")
        listed = select(given.c.value)
        self._owners = select(c.tenant, c.user).where(Among(c.id, listed)).distinct()
        self._queued = (
            select(q.cube_id, q.version, c.tenant, c.user)
            .join(t.cubes, c.id == q.cube_id)
            .where(Among(q.cube_id, listed))
        )
        self._unqueue = delete(t.index_queue).where(Among(q.cube_id, listed))
        self._remove = delete(t.vectors).where(Among(v.cube_id, listed))

    # -- the queue -----------------------------------------------------------------------------------------

    def pending(self, which: CubeFilter | None = None, limit: int = 512) -> list[tuple[str, int, str]]:
        """Cubes whose vector is missing or stale, as (id, version, text), oldest first."""
        c, q = t.cubes.c, t.index_queue.c
        with self._db.read() as conn:
            waiting = self._db.prepared.execute(conn, _QUEUED, {})[0][0]
            if not waiting:
                return []
            short = which is not None and waiting <= _SHORT_QUEUE

            def made(which: CubeFilter) -> Select[Any]:
                query = select(c.id, c.version, c.text)
                if short:  # an outer join, so that the queue is gone through, not the cubes
                    mine = and_(c.id == q.cube_id, which.where())
                    return query.select_from(t.index_queue.outerjoin(t.cubes, mine)).order_by(c.seq)
                query = query.join(t.index_queue, q.cube_id == c.id).where(which.where())
                return query.order_by(c.seq).limit(bindparam("up_to", type_=Integer()))

            if which is None:
                rows = self._db.prepared.execute(conn, _WAITING, {"up_to": limit})
            else:
                about = {} if short else {"up_to": limit}
                rows = self._db.prepared.run(conn, f"queued {short}", which, made, about)
            return [(r.id, r.version, r.text) for r in rows if r.id is not None][:limit]

    def put(self, entries: Sequence[tuple[str, int]], vectors: Matrix, embedder: str) -> None:
        """Store vectors and clear the queue. A cube that changed since it was read stays queued.

        Args:
            entries: (id, version) of each row of `vectors` (shape: entries x dims, float32, unit length).
        """
        run, many = self._db.prepared.execute, self._db.prepared.execute_many
        with self._db.write(derived=True) as conn:
            for i in range(0, len(entries), _BATCH):
                part = entries[i : i + _BATCH]
                ids = {"ids": self._db.listed([id_ for id_, _ in part])}
                # Their users' memory is locked as by a writer, so that none of them is deleted or embedded elsewhere
                # before this is stored.
                for owner in sorted((r.tenant, r.user) for r in run(conn, self._owners, ids)):
                    hold(conn, self._db, owner)
                queued = {row.cube_id: row for row in run(conn, self._queued, ids)}
                rows = []
                for (id_, version), vector in zip(part, vectors[i : i + _BATCH], strict=True):
                    row = queued.get(id_)
                    if row is None or row.version != version:
                        continue  # deleted, changed, or embedded by another process meanwhile
                    address = {"cube_id": id_, "tenant": row.tenant, "user": row.user}
                    kind = {"version": version, "embedder": embedder, "dims": len(vector), "in_index": False}
                    rows.append({**address, **kind, "vector": self._stored_form(vector)})
                done = {"ids": self._db.listed([row["cube_id"] for row in rows])}
                run(conn, self._unqueue, done)
                run(conn, self._remove, done)
                many(conn, _ADD, rows)

    def _stored_form(self, vector: Matrix) -> Any:
        vector = np.ascontiguousarray(vector, "<f4")
        return vector.tobytes() if self._sqlite else vector

    # -- compare -------------------------------------------------------------------------------------------

    def after(self, owner: Owner, seq: int, limit: int) -> list[VectorRow]:
        """The vectors of an owner that were stored behind `seq`, in that order. SQLite only, where one writer at a
        time makes the order of `seq` that of the commits."""
        tenant, user = owner
        about: dict[str, Any] = {"tenant": tenant, "seq": seq, "n": limit}
        with self._db.read() as conn:
            run = self._db.prepared.execute
            if user is None:
                rows = run(conn, _AFTER_ALL, about)
            else:
                rows = run(conn, _AFTER_OWN, {**about, "user": user})
            return [VectorRow(*row) for row in rows]

    def size(self, owner: Owner) -> int:
        """How many vectors an owner has, of any embedder."""
        v = t.vectors.c
        query = select(func.count()).select_from(t.vectors).where(v.tenant == owner[0])
        if owner[1] is not None:
            query = query.where(v.user == owner[1])
        with self._db.read() as conn:
            return conn.execute(query).scalar_one()

    def versions(
        self, which: CubeFilter, ids: Sequence[str] | None = None, limit: int | None = None
    ) -> dict[str, int]:
        """The cubes that match (of `ids`, where given), with their current versions; at most `limit` of them."""
        c = t.cubes.c

        def made(which: CubeFilter) -> Select[Any]:
            given = self._db.each("ids")
            # An outer join: each is looked up.
            return select(c.id, c.version).select_from(
                given.outerjoin(t.cubes, and_(c.id == given.c.value, which.where()))
            )

        def some(which: CubeFilter) -> Select[Any]:
            return select(c.id, c.version).where(which.where()).limit(bindparam("up_to", type_=Integer()))

        with self._db.read() as conn:
            if limit is not None:
                rows: Sequence[Any] = self._db.prepared.run(conn, "some", which, some, {"up_to": limit})
            elif ids is None:
                rows = list(conn.execute(select(c.id, c.version).where(which.where())).all())
            else:
                values = {"ids": self._db.listed(ids)}
                rows = self._db.prepared.run(conn, "versions", which, made, values)
            return {row.id: row.version for row in rows if row.id is not None}

    def scan(
        self,
        which: CubeFilter,
        embedder: str,
        dims: int,
        *,
        outside_index: bool = False,
        granted: bool = False,
        ids: Sequence[str] | None = None,
    ) -> Iterator[tuple[list[str], Matrix]]:
        """The current vectors of the cubes that match, a few thousand at a time, as ids and a matrix.

        Args:
            outside_index: only those that the ANN index does not hold. granted: only those that were granted by
                others. ids: only these.
        """
        c, v = t.cubes.c, t.vectors.c
        current = and_(v.embedder == embedder, v.dims == dims, v.version == c.version)
        raw = type_coerce(v.vector, LargeBinary) if self._sqlite else v.vector
        if ids is not None:
            given = self._db.each("ids")
            looked_up = given.outerjoin(t.cubes, and_(c.id == given.c.value, which.where()))
            query = select(v.cube_id, raw.label("vector")).select_from(
                looked_up.outerjoin(t.vectors, and_(v.cube_id == c.id, current))
            )
        elif outside_index:
            mine = and_(c.id == v.cube_id, which.where(), current)
            query = (
                select(c.id, raw.label("vector"))
                .select_from(t.vectors.outerjoin(t.cubes, mine))
                .where(v.in_index.is_(False))
            )
        else:
            query = (
                select(v.cube_id, raw.label("vector"))
                .join(t.cubes, c.id == v.cube_id)
                .where(which.where(), current)
            )
            if granted and which.granted is not None and which.scope.user is not None:
                query = query.where(
                    c.id.in_(granted_ids(which.scope.tenant, which.scope.user, which.granted))
                )
        with self._db.read() as conn:
            values = {} if ids is None else {"ids": self._db.listed(ids)}
            result = conn.execute(query.execution_options(yield_per=_CHUNK), values)
            for part in result.partitions():
                rows = [(id_, vector) for id_, vector in part if id_ is not None]
                if rows:
                    yield [id_ for id_, _ in rows], self._stacked([vector for _, vector in rows], dims)

    def nearest(
        self, which: CubeFilter, vector: Matrix, embedder: str, limit: int
    ) -> list[tuple[str, float]] | None:
        """The cubes nearest to a vector among those that match, as (id, cosine), nearest first. Exact: pgvector
        compares all of them. None on SQLite, which cannot."""
        if self._sqlite:
            return None
        v = t.vectors.c
        distance = v.vector.op("<#>", return_type=Float())(bindparam("question", vector, type_=v.vector.type))
        query = (
            select(t.cubes.c.id, (-distance).label("similarity"))
            .join(t.vectors, v.cube_id == t.cubes.c.id)
            .where(
                which.where(), v.embedder == embedder, v.version == t.cubes.c.version, v.dims == len(vector)
            )
            .order_by(distance)
            .limit(limit)
        )
        with self._db.read() as conn:
            return [(row.id, float(row.similarity)) for row in conn.execute(query)]

    def stored(self, versions: Mapping[str, int], embedder: str, dims: int) -> dict[str, Matrix]:
        """The vectors of cubes, where there is one of just this version, by id.

        Args:
            versions: which version of each cube.
        """
        v, found = t.vectors.c, {}
        with self._db.read() as conn:
            for ids in chunks(versions):
                query = select(v.cube_id, v.version, v.vector).where(
                    v.cube_id.in_(ids), v.embedder == embedder, v.dims == dims
                )
                for row in conn.execute(query):
                    if versions[row.cube_id] == row.version:
                        found[row.cube_id] = np.asarray(row.vector, np.float32)
        return found

    @property
    def _sqlite(self) -> bool:
        return self._db.engine.dialect.name == "sqlite"

    def _stacked(self, vectors: Sequence[Any], dims: int) -> Matrix:
        if self._sqlite:
            return np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), dims)
        return np.stack(vectors)

    # -- what the ANN index holds --------------------------------------------------------------------------

    def total(self, *, only_in_index: bool = False) -> int:
        """How many vectors there are, or how many of them the ANN index should hold."""
        query = select(func.count()).select_from(t.vectors)
        if only_in_index:
            query = query.where(t.vectors.c.in_index.is_(True))
        with self._db.read() as conn:
            return conn.execute(query).scalar_one()

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that have a vector."""
        with self._db.read() as conn:
            return {
                id_
                for chunk in chunks(ids)
                for id_ in conn.execute(
                    select(t.vectors.c.cube_id).where(t.vectors.c.cube_id.in_(chunk))
                ).scalars()
            }

    def outside_index(self, embedder: str, limit: int) -> list[Any]:
        """Vectors that the ANN index does not hold yet, oldest first: rows of cube_id, version, tenant, user,
        vector."""
        v = t.vectors.c
        query = (
            select(v.cube_id, v.version, v.tenant, v.user, v.vector)
            .where(v.in_index.is_(False), v.embedder == embedder)
            .order_by(v.seq)
            .limit(limit)
        )
        with self._db.read() as conn:
            return list(conn.execute(query))

    def mark_indexed(self, entries: Sequence[tuple[str, int]], stamp: str = "") -> list[str]:
        """Note that the ANN index holds these (id, version).

        Args:
            stamp: what the index says of itself from now on, see `stamps`.

        Returns:
            The ids for which that is not so any more: deleted, or changed since they were read. They count as
            absent from it.
        """
        v, outdated = t.vectors.c, []
        mark = (
            update(t.vectors)
            .where(v.cube_id == bindparam("id"), v.version == bindparam("of_version"))
            .values(in_index=True)
        )
        unmark = update(t.vectors).where(v.cube_id == bindparam("id")).values(in_index=False)
        with self._db.write(derived=True) as conn:
            for id_, version in entries:
                if not conn.execute(mark, {"id": id_, "of_version": version}).rowcount:
                    conn.execute(unmark, {"id": id_})
                    outdated.append(id_)
            if stamp:
                conn.execute(self._db.upsert(t.meta, {"key": _STAMPS, "value": stamp}))
        return outdated

    def reset_index(self, *, erased: bool = False) -> None:
        """Mark every vector as absent from the ANN index.

        Args:
            erased: what the index holds now must go: whoever owns it starts it anew.
        """
        with self._db.write(derived=True) as conn:
            conn.execute(update(t.vectors).where(t.vectors.c.in_index.is_(True)).values(in_index=False))
            conn.execute(self._db.upsert(t.meta, {"key": _RESET, "value": new_id()}))
            if erased:
                conn.execute(self._db.upsert(t.meta, {"key": _EPOCH, "value": new_id()}))

    @property
    def index_state(self) -> str:
        """Changes whenever the ANN index loses what it holds."""
        with self._db.read() as conn:
            return str(conn.execute(select(t.meta.c.value).where(t.meta.c.key == _RESET)).scalar() or "")

    @property
    def epoch(self) -> str:
        """Changes when what an ANN index was fed before must be in none any more."""
        with self._db.read() as conn:
            return str(conn.execute(select(t.meta.c.value).where(t.meta.c.key == _EPOCH)).scalar() or "")

    @property
    def stamps(self) -> list[str]:
        """The stamps that an index may have which holds what `in_index` says."""
        with self._db.read() as conn:
            found = conn.execute(select(t.meta.c.value).where(t.meta.c.key == _STAMPS)).scalar()
        return (found or "").split(" ")

    def expect_stamp(self, stamp: str) -> None:
        """The index is about to be changed, and may have this stamp before `mark_indexed` says so."""
        value = f"{self.stamps[-1]} {stamp}"
        with self._db.write(derived=True) as conn:
            conn.execute(self._db.upsert(t.meta, {"key": _STAMPS, "value": value}))

    # -- another embedder ----------------------------------------------------------------------------------

    def reset(self, embedder: str, dims: int | None = None) -> None:
        """Queue every cube whose vector another embedder made, or whose length is not `dims`."""
        stale = t.vectors.c.embedder != embedder
        if dims is not None:
            stale = or_(stale, t.vectors.c.dims != dims)
        with self._db.read() as conn:
            if conn.execute(select(t.vectors.c.cube_id).where(stale).limit(1)).first() is None:
                return
        with self._db.write(derived=True) as conn:
            ids = select(t.vectors.c.cube_id).where(stale)
            self._queue(conn, t.cubes.c.id.in_(ids))
            conn.execute(delete(t.vectors).where(stale))

    def rebuild(self) -> int:
        """Drop all vectors and queue every plaintext cube; returns how many."""
        with self._db.write(derived=True) as conn:
            conn.execute(delete(t.vectors))
            conn.execute(delete(t.index_queue))
            return self._queue(
                conn,
                and_(
                    t.cubes.c.kind == "plaintext",
                    func.trim(t.cubes.c.text) != "",
                    t.cubes.c.state.in_([str(state) for state in LIVE]),
                ),
            )

    def _queue(self, conn: Connection, these: ColumnElement[bool]) -> int:
        rows = select(t.cubes.c.id, t.cubes.c.version).where(these)
        new = self._db.insert(t.index_queue).from_select(["cube_id", "version"], rows)
        return int(conn.execute(new.on_conflict_do_nothing()).rowcount)

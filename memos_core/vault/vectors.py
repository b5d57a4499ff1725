"""Vectors of cubes, as derived data beside them, and the queue of those that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Float, bindparam, delete, func, insert, or_, select, update

from memos_core.cube import LIVE
from memos_core.vault import tables as t
from memos_core.vault.database import Database
from memos_core.vault.rows import CubeFilter

Matrix = npt.NDArray[np.float32]


class VectorTable:
    """Float32 vectors of unit length, one a cube, for one embedder at a time."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def pending(self, which: CubeFilter | None = None, limit: int = 512) -> list[tuple[str, int, str]]:
        """Cubes whose vector is missing or stale, as (id, version, text), oldest first."""
        query = (
            select(t.cubes.c.id, t.cubes.c.version, t.cubes.c.text)
            .join(t.index_queue, t.index_queue.c.cube_id == t.cubes.c.id)
            .order_by(t.cubes.c.seq)
            .limit(limit)
        )
        if which is not None:
            query = query.where(which.where())
        with self._db.read() as conn:
            return [(r.id, r.version, r.text) for r in conn.execute(query)]

    def put(self, entries: Sequence[tuple[str, int]], vectors: Matrix, embedder: str) -> None:
        """Store vectors and clear the queue. A cube that changed since it was read stays queued.

        Args:
            entries: (id, version) of each row of `vectors` (shape: entries x dims, float32, unit length).
        """
        q, v, c = t.index_queue.c, t.vectors.c, t.cubes.c
        with self._db.write() as conn:
            owners: dict[str, Any] = {}
            for i in range(0, len(entries), 500):
                ids = [id_ for id_, _ in entries[i : i + 500]]
                # Locked, so that none of them is deleted or embedded elsewhere before this is stored.
                queued = select(q.cube_id, q.version, c.tenant, c.user).join(t.cubes, c.id == q.cube_id)
                waiting = queued.where(q.cube_id.in_(ids)).with_for_update(of=t.index_queue)
                owners.update({r.cube_id: r for r in conn.execute(waiting)})
            rows = []
            for (id_, version), vector in zip(entries, vectors, strict=True):
                owner = owners.get(id_)
                if owner is None or owner.version != version:
                    continue  # deleted, changed, or embedded by another process meanwhile
                address = {"cube_id": id_, "tenant": owner.tenant, "user": owner.user}
                kind = {"version": version, "embedder": embedder, "dims": len(vector), "in_index": False}
                rows.append({**address, **kind, "vector": np.asarray(vector, np.float32)})
            for i in range(0, len(rows), 500):
                done = [row["cube_id"] for row in rows[i : i + 500]]
                conn.execute(delete(t.index_queue).where(q.cube_id.in_(done)))
                conn.execute(delete(t.vectors).where(v.cube_id.in_(done)))
                conn.execute(insert(t.vectors), rows[i : i + 500])

    def load(
        self, which: CubeFilter, embedder: str, *, only_outside_index: bool = False
    ) -> tuple[list[str], Matrix]:
        """The current vectors of the cubes that match, as ids and a matrix (ids x dims)."""
        query = (
            select(t.cubes.c.id, t.vectors.c.vector)
            .join(t.vectors, t.vectors.c.cube_id == t.cubes.c.id)
            .where(which.where(), t.vectors.c.embedder == embedder, t.vectors.c.version == t.cubes.c.version)
        )
        if only_outside_index:
            query = query.where(t.vectors.c.in_index.is_(False))
        with self._db.read() as conn:
            return _matrix(conn.execute(query).all())

    def nearest(
        self, which: CubeFilter, vector: Matrix, embedder: str, limit: int
    ) -> list[tuple[str, float]] | None:
        """The cubes nearest to a vector among those that match, as (id, cosine), nearest first. Exact: pgvector
        compares all of them. None on SQLite, which cannot: compare with `load`."""
        if self._db.engine.dialect.name != "postgresql":
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

    def count(self, which: CubeFilter) -> int:
        """How many of the cubes that match have a vector."""
        query = (
            select(func.count())
            .select_from(t.cubes)
            .join(t.vectors, t.vectors.c.cube_id == t.cubes.c.id)
            .where(which.where())
        )
        with self._db.read() as conn:
            return conn.execute(query).scalar_one()

    def total(self, *, only_in_index: bool = False) -> int:
        """How many vectors there are, or how many of them the ANN index should hold."""
        query = select(func.count()).select_from(t.vectors)
        if only_in_index:
            query = query.where(t.vectors.c.in_index.is_(True))
        with self._db.read() as conn:
            return conn.execute(query).scalar_one()

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that have a vector."""
        found: set[str] = set()
        with self._db.read() as conn:
            for i in range(0, len(ids), 500):
                chunk = ids[i : i + 500]
                query = select(t.vectors.c.cube_id).where(t.vectors.c.cube_id.in_(chunk))
                found.update(conn.execute(query).scalars())
        return found

    def outside_index(self, embedder: str, limit: int) -> list[Any]:
        """Vectors that the ANN index does not hold yet, with their scope: rows of id, version, tenant, user,
        vector."""
        query = (
            select(t.cubes.c.id, t.vectors.c.version, t.cubes.c.tenant, t.cubes.c.user, t.vectors.c.vector)
            .join(t.vectors, t.vectors.c.cube_id == t.cubes.c.id)
            .where(t.vectors.c.in_index.is_(False), t.vectors.c.embedder == embedder)
            .order_by(t.cubes.c.seq)
            .limit(limit)
        )
        with self._db.read() as conn:
            return list(conn.execute(query))

    def mark_indexed(self, entries: Sequence[tuple[str, int]]) -> None:
        """Note that the ANN index holds these (id, version)."""
        v = t.vectors.c
        with self._db.write() as conn:
            for id_, version in entries:
                conn.execute(
                    update(t.vectors).where(v.cube_id == id_, v.version == version).values(in_index=True)
                )

    def reset_index(self) -> None:
        """Mark every vector as absent from the ANN index."""
        with self._db.write() as conn:
            conn.execute(update(t.vectors).values(in_index=False))

    def reset(self, embedder: str, dims: int | None = None) -> None:
        """Queue every cube whose vector another embedder made, or whose length is not `dims`."""
        stale = t.vectors.c.embedder != embedder
        if dims is not None:
            stale = or_(stale, t.vectors.c.dims != dims)
        with self._db.read() as conn:
            if conn.execute(select(t.vectors.c.cube_id).where(stale).limit(1)).first() is None:
                return
        with self._db.write() as conn:
            ids = select(t.vectors.c.cube_id).where(stale)
            queued = select(t.index_queue.c.cube_id)
            rows = select(t.cubes.c.id, t.cubes.c.version).where(
                t.cubes.c.id.in_(ids), t.cubes.c.id.not_in(queued)
            )
            conn.execute(self._db.insert(t.index_queue).from_select(["cube_id", "version"], rows).on_conflict_do_nothing())
            conn.execute(delete(t.vectors).where(stale))

    def rebuild(self) -> int:
        """Drop all vectors and queue every plaintext cube; returns how many."""
        with self._db.write() as conn:
            conn.execute(delete(t.vectors))
            conn.execute(delete(t.index_queue))
            rows = select(t.cubes.c.id, t.cubes.c.version).where(
                t.cubes.c.kind == "plaintext",
                func.trim(t.cubes.c.text) != "",
                t.cubes.c.state.in_([str(state) for state in LIVE]),
            )
            return conn.execute(self._db.insert(t.index_queue).from_select(["cube_id", "version"], rows).on_conflict_do_nothing()).rowcount


def _matrix(rows: Sequence[Any]) -> tuple[list[str], Matrix]:
    if not rows:
        return [], np.empty((0, 0), np.float32)
    return [r.id for r in rows], np.stack([r.vector for r in rows])

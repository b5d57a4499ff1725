"""Vault: the durable truth about cubes (MemOS paper: MemVault). SQL lives here and nowhere above."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import (
    Connection,
    Float,
    Integer,
    Select,
    bindparam,
    column,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from memos_core.cube import LIVE, MemCube, Namespace, Scope, State, StructureRegistry, now
from memos_core.cube import lifecycle as rules
from memos_core.errors import InvalidArgument, NotFound, VersionConflict
from memos_core.vault import tables as t
from memos_core.vault.audit import Actor, AuditRecord, read_log, write_log
from memos_core.vault.checkpoints import CheckpointTable
from memos_core.vault.connect import Database, Location, locate
from memos_core.vault.plans import PlanTable
from memos_core.vault.rows import (
    CubeFilter,
    from_kept,
    from_row,
    keep_row,
    micros,
    to_row,
    unpack_namespace,
)
from memos_core.vault.vectors import VectorTable

Order = Literal["created", "-created", "-updated"]
_ORDERS = {"created": t.cubes.c.id, "-created": t.cubes.c.id.desc(), "-updated": t.cubes.c.updated_at.desc()}
_CHUNK = 500
_SCRUB = "scrub"  # in `meta`: there are deletions whose text `Vault.scrub` has to clear from the files
_BEHAVIOUR = (t.behaviour.c.reads, t.behaviour.c.last_read, t.behaviour.c.frequency)


class Vault:
    """Cubes, their versions, and everything derived from them, in one database.

    Args:
        url: see `memos_core.vault.connect.locate`.
        structures: how stored data becomes typed data.

    Raises:
        VaultError, VaultNewer, InvalidArgument: it cannot be opened; see `Database`.
    """

    def __init__(self, url: Any, structures: StructureRegistry | None = None) -> None:
        self.location: Location = locate(url)
        self.structures = structures or StructureRegistry()
        self.db = Database(self.location)
        self.vectors = VectorTable(self.db)
        self.plans = PlanTable(self.db)
        self.checkpoints = CheckpointTable(self.db)

    @property
    def id(self) -> str:
        """The vault's own id, given when it was made."""
        with self.db.read() as conn:
            return str(conn.execute(select(t.meta.c.value).where(t.meta.c.key == "vault_id")).scalar_one())

    def close(self) -> None:
        """Close the database. What was acknowledged is on the disk already."""
        self.db.close()

    # -- write ---------------------------------------------------------------------------------------------

    def put(
        self,
        cubes: Sequence[MemCube],
        actor: Actor,
        *,
        expected_version: int | None = None,
        displaced: list[MemCube] | None = None,
    ) -> list[MemCube]:
        """Store cubes in one transaction: all of them or none. A cube at an address that is taken
        (same tenant, user, namespace and key) replaces what is there as its next version. What is there but
        has expired is deleted: the cube begins at version 1.

        Args:
            cubes: new cubes, or changed ones. The later of two with the same address wins.
            expected_version: with one cube, the version it must replace; 0 if there must be none.
            displaced: expired cubes that had to go, and what was derived from them, are added to it.

        Returns:
            The cubes as stored, with their ids and versions, in the order given.

        Raises:
            InvalidArgument: something in a cube cannot be stored, or the cube it replaces is frozen.
            VersionConflict: `expected_version` is not the stored one.
        """
        if expected_version is not None and len(cubes) != 1:
            raise InvalidArgument(f"expected_version is for one cube at a time, got {len(cubes)}")
        rows = [to_row(cube) for cube in cubes]
        stored: list[MemCube] = []
        gone: list[MemCube] = []
        with self.db.write() as conn:
            for cube, row in zip(cubes, rows, strict=True):
                found = self._at_address(conn, row)
                old = from_row(found, self.structures) if found else None
                if old is not None and _has_expired(old):
                    gone += self._delete(conn, [old.id], actor)
                    found = old = None
                version = old.version if old else 0
                if expected_version not in (None, version):
                    raise VersionConflict(
                        f"expected_version={expected_version}, but the cube {row['key']!r} has version "
                        f"{version}; read it again"
                    )
                stored.append(
                    self._replace(conn, keep_row(found), old, cube) if old else self._insert(conn, cube, row)
                )
            write_log(conn, actor, [("write" if c.version == 1 else "update", c, "") for c in stored])
        if displaced is not None:
            displaced += gone
        return stored

    def _at_address(self, conn: Connection, row: Mapping[str, Any]) -> Any:
        c = t.cubes.c
        return conn.execute(
            _with_behaviour().where(
                c.tenant == row["tenant"],
                c.user == row["user"],
                c.namespace == row["namespace"],
                c.key == row["key"],
            )
        ).one_or_none()

    def _insert(self, conn: Connection, cube: MemCube, row: dict[str, Any]) -> MemCube:
        if conn.execute(select(t.cubes.c.seq).where(t.cubes.c.id == row["id"])).first():
            raise InvalidArgument(
                f"id {row['id']} belongs to a cube at another address; leave id out to make a new cube"
            )
        new = {**row, "version": 1}
        seq = conn.execute(insert(t.cubes).values(**new)).inserted_primary_key[0]  # type: ignore[index]
        stored = cube.model_copy(update={"key": row["key"], "version": 1})
        _after_write(conn, stored, seq)
        return stored

    def _replace(self, conn: Connection, kept: str, old: MemCube, cube: MemCube) -> MemCube:
        if old.frozen:
            raise InvalidArgument(f"the cube {old.key!r} is frozen and cannot be changed, only deleted")
        header = cube.header.model_copy(
            update={
                "descriptive": cube.header.descriptive.model_copy(
                    update={"created_at": old.header.descriptive.created_at, "updated_at": now()}
                ),
                "behaviour": old.header.behaviour,
            }
        )
        new = cube.model_copy(
            update={
                "id": old.id,
                "version": old.version + 1,
                "header": header,
                # What is written is found: an archived memory comes back to life with its new content.
                "state": old.state if old.state in LIVE else State.ACTIVATED,
                "key": old.key,
            }
        )
        seq = _forget_text(conn, old.id)
        conn.execute(
            insert(t.versions).values(
                cube_id=old.id,
                version=old.version,
                cube=kept,
                replaced_at=micros(header.descriptive.updated_at),
            )
        )
        conn.execute(update(t.cubes).where(t.cubes.c.seq == seq).values(**to_row(new)))
        _after_write(conn, new, seq)
        return new

    def delete(self, ids: Iterable[str], actor: Actor) -> list[MemCube]:
        """Remove cubes with their versions, vectors, text index and behaviour, and the cubes of kind
        activation or parametric that were derived from them.

        Returns:
            The cubes that went, derived ones included.
        """
        with self.db.write() as conn:
            return self._delete(conn, list(ids), actor)

    def delete_where(self, which: CubeFilter, actor: Actor) -> list[MemCube]:
        """Like `delete`, for all cubes that match, in one transaction."""
        with self.db.write() as conn:
            return self._delete(
                conn, list(conn.execute(select(t.cubes.c.id).where(which.where())).scalars()), actor
            )

    def purge_expired(self, actor: Actor) -> list[MemCube]:
        """Delete what has outlived its ttl, whoever's it is; see `delete`."""
        late = select(t.cubes.c.id).where(t.cubes.c.expires_at <= micros(now()))
        with self.db.read() as conn:
            ids = list(conn.execute(late).scalars())
        if not ids:
            return []
        with self.db.write() as conn:
            # Asked again: one may have been written anew meanwhile.
            return self._delete(conn, list(conn.execute(late).scalars()), actor)

    def scrub(self) -> bool:
        """After deletions, remove the last traces of deleted text from the files: the text index keeps
        deleted words until its segments are merged, the write-ahead log until it is truncated.

        Returns:
            Whether there was anything to do.
        """
        flag = t.meta.c.key == _SCRUB
        with self.db.read() as conn:
            if conn.execute(select(t.meta.c.value).where(flag)).first() is None:
                return False
        with self.db.write() as conn:
            conn.execute(text("INSERT INTO cube_fts(cube_fts) VALUES ('optimize')"))
            conn.execute(delete(t.meta).where(flag))
        self.db.truncate_log()
        return True

    def _delete(self, conn: Connection, ids: list[str], actor: Actor) -> list[MemCube]:
        gone: list[MemCube] = []
        for chunk in _chunks(ids):
            derived = (
                select(t.cubes.c.id)
                .join(t.sources, t.sources.c.cube_id == t.cubes.c.id)
                .where(t.sources.c.source_id.in_(chunk), t.cubes.c.kind != "plaintext")
            )
            every = [*chunk, *(i for i in conn.execute(derived).scalars() if i not in chunk)]
            gone += [
                from_row(r, self.structures)
                for r in conn.execute(_with_behaviour().where(t.cubes.c.id.in_(every)))
            ]
            for id_ in every:
                _forget_text(conn, id_, missing_ok=True)
            for table, owner in (
                (t.versions, t.versions.c.cube_id),
                (t.sources, t.sources.c.cube_id),
                (t.behaviour, t.behaviour.c.cube_id),
                (t.index_queue, t.index_queue.c.cube_id),
                (t.vectors, t.vectors.c.cube_id),
                (t.cubes, t.cubes.c.id),
            ):
                conn.execute(delete(table).where(owner.in_(every)))
        if any(c.payload.kind == "plaintext" for c in gone):
            conn.execute(delete(t.meta).where(t.meta.c.key == _SCRUB))
            conn.execute(insert(t.meta).values(key=_SCRUB, value="1"))
        write_log(conn, actor, [("delete", c, "") for c in gone])
        return gone

    def transition(self, ids: Iterable[str], new: State, actor: Actor, cause: str) -> None:
        """Move cubes to another life-cycle state; those already in it stay as they are.

        Raises:
            InvalidArgument: the step is not legal for one of them; nothing is changed.
        """
        with self.db.write() as conn:
            for chunk in _chunks(ids):
                cubes = [
                    from_row(r, self.structures)
                    for r in conn.execute(_with_behaviour().where(t.cubes.c.id.in_(chunk)))
                ]
                moving = [c for c in cubes if c.state != new]
                for cube in moving:
                    rules.check(cube.state, new)
                conn.execute(
                    update(t.cubes).where(t.cubes.c.id.in_([c.id for c in moving])).values(state=str(new))
                )
                write_log(conn, actor, [(f"state:{new}", c, cause) for c in moving])

    # -- read ----------------------------------------------------------------------------------------------

    def find(
        self, which: CubeFilter, *, order: Order = "created", limit: int | None = None, offset: int = 0
    ) -> list[MemCube]:
        """Cubes that match, in order.

        Raises:
            InvalidArgument: an unknown order, or a negative limit or offset.
        """
        if order not in _ORDERS:
            raise InvalidArgument(f"order must be one of {', '.join(_ORDERS)}, got {order!r}")
        if offset < 0 or (limit is not None and limit < 0):
            raise InvalidArgument(f"limit and offset must be 0 or more, got {limit} and {offset}")
        query = (
            _with_behaviour()
            .where(which.where())
            .order_by(_ORDERS[order], t.cubes.c.id)
            .limit(limit)
            .offset(offset)
        )
        with self.db.read() as conn:
            return [from_row(row, self.structures) for row in conn.execute(query)]

    def get(self, which: CubeFilter, ids: Sequence[str]) -> dict[str, MemCube]:
        """Those of `ids` that match the filter, by id."""
        with self.db.read() as conn:
            return {
                row.id: from_row(row, self.structures)
                for chunk in _chunks(ids)
                for row in conn.execute(_with_behaviour().where(which.where(), t.cubes.c.id.in_(chunk)))
            }

    def count(self, which: CubeFilter) -> int:
        """How many cubes match."""
        with self.db.read() as conn:
            return conn.execute(select(func.count()).select_from(t.cubes).where(which.where())).scalar_one()

    def type_counts(self, which: CubeFilter) -> dict[str, int]:
        """How many cubes of each semantic type match, most first."""
        query = (
            select(t.cubes.c.semantic_type, func.count())
            .where(which.where())
            .group_by(t.cubes.c.semantic_type)
            .order_by(func.count().desc(), t.cubes.c.semantic_type)
        )
        with self.db.read() as conn:
            return {row[0]: row[1] for row in conn.execute(query)}

    def ids_ending(self, which: CubeFilter, part: str, limit: int = 10) -> list[str]:
        """Ids that end with `part`, of cubes that match."""
        query = (
            select(t.cubes.c.id)
            .where(which.where(), t.cubes.c.id.endswith(part, autoescape=True))
            .limit(limit)
        )
        with self.db.read() as conn:
            return list(conn.execute(query).scalars())

    def namespaces(self, which: CubeFilter) -> list[Namespace]:
        """The distinct namespaces of the cubes that match, sorted."""
        with self.db.read() as conn:
            packed = conn.execute(select(t.cubes.c.namespace).where(which.where()).distinct()).scalars()
            return sorted(unpack_namespace(p) for p in packed)

    def history(self, cube_id: str) -> list[MemCube]:
        """All versions of a cube, oldest first, the current one last.

        Raises:
            NotFound: there is no such cube.
        """
        with self.db.read() as conn:
            current = conn.execute(_with_behaviour().where(t.cubes.c.id == cube_id)).one_or_none()
            if current is None:
                raise NotFound(f"cube {cube_id!r} does not exist")
            old = conn.execute(
                select(t.versions.c.cube)
                .where(t.versions.c.cube_id == cube_id)
                .order_by(t.versions.c.version)
            )
            earlier = [from_kept(kept, self.structures) for kept in old.scalars()]
            return [*earlier, from_row(current, self.structures)]

    def lexical(self, words: Sequence[str], which: CubeFilter, limit: int) -> list[tuple[str, float]]:
        """Full-text search: cubes holding any of the words, best first, as (id, BM25 score).

        Args:
            words: plain words; they are quoted, never parsed as a query.
        """
        if not words:
            return []
        match = " OR ".join('"' + w.replace('"', '""') + '"' for w in words)
        fts = text(
            "SELECT rowid AS seq, bm25(cube_fts) AS score FROM cube_fts WHERE cube_fts MATCH :match"
        ).columns(column("seq", Integer), column("score", Float))
        hit = fts.bindparams(bindparam("match", match)).subquery("hit")
        query = (
            select(t.cubes.c.id, hit.c.score)
            .join(hit, hit.c.seq == t.cubes.c.seq)
            .where(which.where())
            .order_by(hit.c.score)
            .limit(limit)
        )
        with self.db.read() as conn:
            return [(row.id, -float(row.score)) for row in conn.execute(query)]

    # -- behaviour and audit -------------------------------------------------------------------------------

    def record_reads(self, reads: Mapping[str, int], at: datetime, half_life: timedelta) -> None:
        """Count reads of cubes. `frequency` halves every `half_life` before the new reads are added."""
        stamp, half = micros(at), half_life / timedelta(microseconds=1)
        b = t.behaviour.c
        with self.db.write() as conn:
            for chunk in _chunks(reads):
                known = {r.cube_id: r for r in conn.execute(select(t.behaviour).where(b.cube_id.in_(chunk)))}
                alive = conn.execute(select(t.cubes.c.id).where(t.cubes.c.id.in_(chunk))).scalars()
                for id_ in alive.all():
                    old, n = known.get(id_), reads[id_]
                    if old is None:
                        conn.execute(
                            insert(t.behaviour).values(
                                cube_id=id_, reads=n, last_read=stamp, frequency=float(n)
                            )
                        )
                        continue
                    frequency = old.frequency * 0.5 ** (max(0, stamp - old.last_read) / half) + n
                    conn.execute(
                        update(t.behaviour)
                        .where(b.cube_id == id_)
                        .values(reads=old.reads + n, last_read=stamp, frequency=frequency)
                    )

    def audit_log(self, scope: Scope, *, cube_id: str | None = None, limit: int = 100) -> list[AuditRecord]:
        """The newest audit records of a scope's tenant and user first, of one cube or of all."""
        with self.db.read() as conn:
            return read_log(conn, scope, cube_id, limit)


def _has_expired(cube: MemCube) -> bool:
    expires = cube.header.governance.expires_at
    return cube.state is State.EXPIRED or (expires is not None and expires <= now())


def _with_behaviour() -> Select[Any]:
    return select(t.cubes, *_BEHAVIOUR).outerjoin(t.behaviour, t.behaviour.c.cube_id == t.cubes.c.id)


def _after_write(conn: Connection, cube: MemCube, seq: int) -> None:
    """Everything else that belongs to the transaction of a cube: text index, sources, index queue."""
    conn.execute(delete(t.sources).where(t.sources.c.cube_id == cube.id))
    if cube.derived_from:
        rows = [{"source_id": s, "cube_id": cube.id} for s in {x.id for x in cube.derived_from}]
        conn.execute(insert(t.sources), rows)
    conn.execute(delete(t.index_queue).where(t.index_queue.c.cube_id == cube.id))
    if cube.payload.kind == "plaintext":
        conn.execute(
            text("INSERT INTO cube_fts(rowid, text) VALUES (:seq, :text)"), {"seq": seq, "text": cube.text}
        )
    if cube.text.strip():
        conn.execute(insert(t.index_queue).values(cube_id=cube.id, version=cube.version))
    else:  # nothing to embed: it is found by its address, not by a search
        conn.execute(delete(t.vectors).where(t.vectors.c.cube_id == cube.id))


def _forget_text(conn: Connection, cube_id: str, *, missing_ok: bool = False) -> int:
    """Take a cube out of the text index; external-content FTS5 needs the old text for that."""
    row = conn.execute(
        select(t.cubes.c.seq, t.cubes.c.text, t.cubes.c.kind).where(t.cubes.c.id == cube_id)
    ).one_or_none()
    if row is None:
        if missing_ok:
            return 0
        raise NotFound(f"cube {cube_id!r} does not exist")
    if row.kind == "plaintext":
        conn.execute(
            text("INSERT INTO cube_fts(cube_fts, rowid, text) VALUES ('delete', :seq, :text)"),
            {"seq": row.seq, "text": row.text},
        )
    return int(row.seq)


def _chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    every = list(dict.fromkeys(ids))
    return (every[i : i + _CHUNK] for i in range(0, len(every), _CHUNK))

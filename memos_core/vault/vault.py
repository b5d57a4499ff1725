"""Vault: the durable truth about cubes (MemOS paper: MemVault). SQL lives in this package and nowhere above."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    update,
)

from memos_core.cube import ANY_USER, MemCube, Namespace, Scope, State, StructureRegistry
from memos_core.errors import InvalidArgument, NotFound
from memos_core.vault import tables as t
from memos_core.vault.audit import Actor, AuditRecord, LogQuery, broken_chains, read_log
from memos_core.vault.behaviour import BehaviourTable
from memos_core.vault.checkpoints import CheckpointTable
from memos_core.vault.connect import locate, open_database
from memos_core.vault.database import Location, TextScope
from memos_core.vault.erase import REWRITTEN, UNFINISHED, Tombstone, existing, last_tombstone, tombstones
from memos_core.vault.filter import CubeFilter, granted_ids
from memos_core.vault.grants import GrantTable
from memos_core.vault.items import ItemTable
from memos_core.vault.past import cubes_at
from memos_core.vault.plans import PlanTable
from memos_core.vault.rows import CubeDamaged, forget_headers, from_kept, from_row, micros, unpack_namespace
from memos_core.vault.statements import BEHAVIOUR, with_behaviour
from memos_core.vault.vectors import VectorTable
from memos_core.vault.words import forget_texts, forget_words
from memos_core.vault.writer import SCRUB, Writer, chunks

log = logging.getLogger("memos_core.vault")
Order = Literal["created", "-created", "-updated"]
_ANY_GRANT = text(
    """
    SELECT EXISTS (SELECT 1 FROM grants WHERE tenant = :tenant AND kind = 'user' AND name = :user AND "right" = :right)
    OR EXISTS (SELECT 1 FROM grants WHERE tenant = :tenant AND kind = 'everyone' AND name = '' AND "right" = :right)
    OR EXISTS (
        SELECT 1 FROM members AS m JOIN grants AS g ON g.name = m."group"
        WHERE m.tenant = :tenant AND m."user" = :user AND g.tenant = :tenant AND g.kind = 'group' AND g."right" = :right
    )
    """
)
_CUBE = with_behaviour().where(t.cubes.c.id == bindparam("the_id"))
_EARLIER = (
    select(t.versions.c.cube)
    .where(t.versions.c.cube_id == bindparam("the_id"))
    .order_by(t.versions.c.version)
)
BRIEF = 32  # cubes; a transaction of no more may share its commit
_MAX_OWNERS = 64  # a user with grants from more than these is searched for in all of the tenant
_ORDERS = {"created": t.cubes.c.id, "-created": t.cubes.c.id.desc(), "-updated": t.cubes.c.updated_at.desc()}


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
        self.db = open_database(self.location)
        self.vectors = VectorTable(self.db)
        self.plans = PlanTable(self.db)
        self.checkpoints = CheckpointTable(self.db)
        self.grants = GrantTable(self.db)
        self.items = ItemTable(self.db)
        self.behaviour = BehaviourTable(self.db)
        self._clearing = threading.Lock()  # one thread at a time rewrites files

    @property
    def id(self) -> str:
        """The vault's own id, given when it was made."""
        with self.db.read() as conn:
            return str(conn.execute(select(t.meta.c.value).where(t.meta.c.key == "vault_id")).scalar_one())

    def close(self) -> None:
        """Close the database. What was acknowledged is on the disk already."""
        self.db.close()

    def forget(self, *, erased: bool = False) -> None:
        """Something was deleted: drop what this process keeps of texts.

        Args:
            erased: also single words, what headers say, and messages of checkpoints.
        """
        forget_texts()
        if erased:
            forget_words()
            forget_headers()
            self.checkpoints.forget()

    # -- write ---------------------------------------------------------------------------------------------

    @contextmanager
    def writing(
        self, actor: Actor, clearance: frozenset[str] | None = None, *, brief: bool = False
    ) -> Iterator[Writer]:
        """One transaction: all that is done with the writer is stored when the block ends, or nothing of it.

        Args:
            actor: who does it. clearance: what it may read (see `CubeFilter`), and so replace.
            brief: see `Database.write`.
        """
        with self.db.write(brief=brief) as conn:
            writer = Writer(conn, self.db, self.structures, actor, clearance)
            yield writer
            writer.audit.flush()

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
        if not cubes:
            return []
        with self.writing(actor) as writer:
            stored = writer.put_all(cubes, expected_version=expected_version)
        if displaced is not None:
            displaced += writer.displaced
        return stored

    def delete(self, ids: Iterable[str], actor: Actor) -> list[MemCube]:
        """Remove cubes with their versions, vectors, text index and behaviour, and the cubes of kind
        activation or parametric that were derived from them.

        Returns:
            The cubes that went, derived ones included.
        """
        wanted = list(ids)
        if not wanted:
            return []
        with self.writing(actor, brief=len(wanted) <= BRIEF) as writer:
            return writer.delete(wanted)

    def delete_where(self, which: CubeFilter, actor: Actor) -> list[MemCube]:
        """Like `delete`, for all cubes that match, in one transaction."""
        with self.writing(actor) as writer:
            return writer.delete(writer.ids(which))

    def scrub(self) -> bool:
        """After deletions, remove the last traces of deleted text from the files; see `Database.scrub`.

        Returns:
            Whether there was anything to do.
        """
        with self._clearing:
            with self.db.read() as conn:
                if conn.execute(select(t.meta.c.value).where(t.meta.c.key == SCRUB)).first() is None:
                    return False
                newest = last_tombstone(conn)
            self._cleared(self.db.scrub(), t.meta.c.key == SCRUB, newest)
            return True

    def compact(self) -> bool:
        """Rewrite the files without anything that was deleted; see `Database.compact`. This is the end of an erasure.

        Returns:
            False: somebody goes on reading an older state; until then parts of it stay in the files.
        """
        flag = t.meta.c.key == UNFINISHED
        with self._clearing:
            with self.db.read() as conn:
                newest = last_tombstone(conn)
                state = conn.execute(select(t.meta.c.value).where(flag)).scalar()
            flag = and_(flag, t.meta.c.value == state)  # another erasure has another value
            if state == REWRITTEN:
                done = self.db.scrub()
            else:
                done = self.db.compact()
                if not done:  # then only the log is left to be cleared
                    with self.db.write() as conn:
                        conn.execute(update(t.meta).where(flag).values(value=REWRITTEN))
            return self._cleared(done, or_(flag, t.meta.c.key == SCRUB), newest)

    def _cleared(self, done: bool, flags: Any, newest: int) -> bool:
        """Take back flags, unless more was deleted meanwhile."""
        if done:
            with self.db.write() as conn:
                if last_tombstone(conn) == newest:
                    conn.execute(delete(t.meta).where(flags))
        return done

    @property
    def erasing(self) -> bool:
        """Whether there is an erasure whose content may still be in the files."""
        with self.db.read() as conn:
            return conn.execute(select(t.meta.c.key).where(t.meta.c.key == UNFINISHED)).first() is not None

    def deletions(self, after: int) -> list[Tombstone]:
        """What was deleted since a number of the kind that `Tombstone.seq` is, whoever did it; oldest first."""
        with self.db.read() as conn:
            return tombstones(conn, after)

    def last_deletion(self) -> int:
        """The highest `Tombstone.seq` there is; 0 if nothing was deleted yet."""
        with self.db.read() as conn:
            return last_tombstone(conn)

    def existing(self, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that are cubes, whoever's they are."""
        with self.db.read() as conn:
            return existing(conn, ids)

    def transition(self, ids: Iterable[str], new: State, actor: Actor, cause: str) -> None:
        """Move cubes to another life-cycle state; those already in it stay as they are.

        Raises:
            InvalidArgument: the step is not legal for one of them; nothing is changed.
        """
        wanted = list(ids)
        if wanted:
            with self.writing(actor) as writer:
                writer.transition(list(writer.get(wanted).values()), new, cause)

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

        def made(which: CubeFilter) -> Select[Any]:
            c = t.cubes.c
            if limit is None:
                query = with_behaviour().where(which.where()).order_by(_ORDERS[order], c.id)
                return query.offset(bindparam("skipped", type_=BigInteger())) if offset else query
            # Which ones first: whole rows of all that match would be sorted for the few that are wanted.
            some = select(c.seq).where(which.where()).order_by(_ORDERS[order], c.id).correlate(None)
            some = some.limit(bindparam("up_to", type_=BigInteger()))
            if offset:
                some = some.offset(bindparam("skipped", type_=BigInteger()))
            return with_behaviour().where(c.seq.in_(some)).order_by(_ORDERS[order], c.id)

        name = f"find {order} {limit is None} {offset > 0}"
        values = {"up_to": limit, "skipped": offset}
        with self.db.read() as conn:
            return list(self._whole(self.db.prepared.run(conn, name, which, made, values, alone=True)))

    def find_at(self, which: CubeFilter, at: datetime) -> list[MemCube]:
        """The cubes that matched at a past moment, as they were then; what was deleted since is not there."""
        with self.db.read() as conn:
            return cubes_at(conn, which, at, self.structures)

    def get(self, which: CubeFilter, ids: Sequence[str], *, strict: bool = False) -> dict[str, MemCube]:
        """Those of `ids` that match the filter, by id.

        Args:
            strict: raise for a damaged cube instead of leaving it out with an error in the log.

        Raises:
            CubeDamaged: see `strict`.
        """
        with self.db.read() as conn:
            rows = (
                row
                for chunk in chunks(ids)
                for row in self._looked_up(
                    conn, "get", which, chunk, t.cubes, *BEHAVIOUR, alone=len(chunk) == len(ids)
                )
                if row.id is not None
            )
            if strict:
                return {row.id: from_row(row, self.structures) for row in rows}
            return {cube.id: cube for cube in self._whole(rows)}

    def _whole(self, rows: Iterable[Any]) -> Iterator[MemCube]:
        """The cubes of rows; one that is damaged does not take the others with it."""
        for row in rows:
            try:
                yield from_row(row, self.structures)
            except CubeDamaged as err:
                log.error("%s (`memos doctor` lists every damage)", err)

    def matching(self, which: CubeFilter, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that match the filter."""
        with self.db.read() as conn:
            return {
                row.id
                for chunk in chunks(ids)
                for row in self._looked_up(conn, "matching", which, chunk, t.cubes.c.id)
                if row.id is not None
            }

    def texts(self, which: CubeFilter, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of `ids` that match, by id."""
        c = t.cubes.c
        with self.db.read() as conn:
            rows = self._looked_up(conn, "texts", which, ids, c.id, c.text) if ids else []
            return {row.id: row.text for row in rows if row.id is not None}

    def _looked_up(
        self,
        conn: Connection,
        name: str,
        which: CubeFilter,
        ids: Sequence[str],
        *columns: Any,
        alone: bool = False,
    ) -> list[Row[Any]]:
        """What `columns` say of those of `ids` that match, and nothing but NULL of the others: an outer join, so that
        no planner goes through all cubes of a user instead."""

        if len(ids) == 1:

            def one(which: CubeFilter) -> Select[Any]:
                rows = t.cubes.outerjoin(t.behaviour, t.behaviour.c.cube_id == t.cubes.c.id)
                given = t.cubes.c.id == bindparam("the_id")
                return (
                    select(*columns)
                    .select_from(rows if len(columns) > 1 else t.cubes)
                    .where(given, which.where())
                )

            return self.db.prepared.run(conn, f"{name} one", which, one, {"the_id": ids[0]}, alone=alone)

        def made(which: CubeFilter) -> Select[Any]:
            c, given = t.cubes.c, self.db.each("ids")
            rows = given.outerjoin(t.cubes, and_(c.id == given.c.value, which.where()))
            if len(columns) > 1:
                rows = rows.outerjoin(t.behaviour, t.behaviour.c.cube_id == c.id)
            return select(*columns).select_from(rows)

        return self.db.prepared.run(conn, name, which, made, {"ids": self.db.listed(ids)}, alone=alone)

    def overdue(self, at: datetime) -> list[MemCube]:
        """Cubes whose ttl has passed and that are not marked as expired yet; frozen ones do not count."""
        c = t.cubes.c
        late = (c.expires_at <= micros(at), c.frozen.is_(False), c.state != str(State.EXPIRED))
        with self.db.read() as conn:
            return list(self._whole(conn.execute(with_behaviour().where(*late).limit(1000))))

    def page(self, after: int, size: int) -> tuple[list[MemCube], int]:
        """Some cubes of every state but expired, in the order they were made, whoever's they are.

        Args:
            after: where the page before ended; 0 at first.

        Returns:
            The cubes, and where this page ends: 0 if it was the last.
        """
        c = t.cubes.c
        query = (
            with_behaviour().where(c.seq > after, c.state != str(State.EXPIRED)).order_by(c.seq).limit(size)
        )
        with self.db.read() as conn:
            rows = conn.execute(query).all()
            return list(self._whole(rows)), rows[-1].seq if len(rows) == size else 0

    def purge_expired(self, actor: Actor, until: datetime) -> list[MemCube]:
        """Delete for good what expired at or before a moment: since its ttl passed, or since it was marked."""
        c, stamp = t.cubes.c, micros(until)
        marked = select(t.audit.c.cube_id).where(
            t.audit.c.cube_id == c.id, t.audit.c.action == f"state:{State.EXPIRED}", t.audit.c.at > stamp
        )
        late = select(c.id).where(c.state == str(State.EXPIRED), ~marked.exists())
        with self.db.read() as conn:
            ids = list(conn.execute(late).scalars())
        if not ids:
            return []
        with self.writing(actor) as writer:
            return writer.delete(ids, "expire")

    def count(self, which: CubeFilter) -> int:
        """How many cubes match."""
        with self.db.read() as conn:
            return conn.execute(select(func.count()).select_from(t.cubes).where(which.where())).scalar_one()

    def digest(self, which: CubeFilter) -> str:
        """One word for which cubes match, and which versions of them."""
        found = self.vectors.versions(which)
        said = "\n".join(f"{id_}@{found[id_]}" for id_ in sorted(found))
        return blake2b(said.encode(), digest_size=16).hexdigest()

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
            current = self.db.prepared.execute(conn, _CUBE, {"the_id": cube_id})
            if not current:
                raise NotFound(f"cube {cube_id!r} does not exist")
            old = self.db.prepared.execute(conn, _EARLIER, {"the_id": cube_id})
            earlier = [from_kept(row.cube, self.structures, cube_id) for row in old]
            return [*earlier, from_row(current[0], self.structures)]

    def lexical(self, words: Sequence[str], which: CubeFilter, limit: int) -> list[tuple[str, float]]:
        """Full-text search: live cubes holding any of the words, best first, as (id, score).

        Args:
            words: plain words; they are quoted, never parsed as a query.
        """
        if not words:
            return []
        scope = which.scope
        with self.db.read() as conn:
            owners = None if scope.user == ANY_USER else [scope.user or ""]
            if owners and scope.user and which.granted is not None:
                c, granted = t.cubes.c, granted_ids(scope.tenant, scope.user, which.granted)
                found = conn.execute(
                    select(c.user).where(c.id.in_(granted)).distinct().limit(_MAX_OWNERS)
                ).scalars()
                owners = list({*owners, *found})
                if len(owners) >= _MAX_OWNERS:
                    owners = None
            within = TextScope(scope.tenant, owners, which, self.db.prepared)
            return self.db.lexical(conn, words, within, limit)

    def narrowed(self, which: CubeFilter) -> CubeFilter:
        """The same filter without `granted` where nothing was granted, as for most users: simpler to search."""
        scope = which.scope
        if which.granted is None or scope.user in (None, ANY_USER):
            return which
        with self.db.read() as conn:
            about = {"tenant": scope.tenant, "user": scope.user, "right": which.granted}
            some = self.db.prepared.execute(conn, _ANY_GRANT, about)[0][0]
        return which if some else replace(which, granted=None)

    # -- audit -------------------------------------------------------------------------------------------

    def log(self, query: LogQuery) -> list[AuditRecord]:
        """Records of the audit log."""
        with self.db.read() as conn:
            return read_log(conn, query)

    def verify_log(self, scope: Scope | None = None) -> list[str]:
        """What was changed in the audit log of a scope's tenant and user (of all where None), in sentences."""
        with self.db.read() as conn:
            return broken_chains(conn, scope)

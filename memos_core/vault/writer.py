"""One write transaction on cubes: the operations that larger ones (merge, erase, contradiction) are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    insert,
    select,
    update,
)

from memos_core.cube import (
    LIVE,
    Activation,
    MemCube,
    Plaintext,
    Scope,
    State,
    StructureRegistry,
    content_hash,
    now,
)
from memos_core.cube import lifecycle as rules
from memos_core.errors import AccessDenied, InvalidArgument, VaultError, VersionConflict
from memos_core.vault import tables as t
from memos_core.vault.audit import Actor, AuditWriter, Owner
from memos_core.vault.database import Database
from memos_core.vault.filter import CubeFilter
from memos_core.vault.rows import from_row, keep_row, micros, moment, to_row
from memos_core.vault.statements import (
    INSERT_CUBE,
    INSERT_LABEL,
    INSERT_SOURCE,
    INSERT_TOMBSTONE,
    INSERT_VERSION,
    QUEUE,
    UPDATE_CUBE,
    statements,
    with_behaviour,
)

CHUNK = 500
Address = tuple[str, str, str, str]  # tenant, user, namespace, key, as stored
SCRUB = "scrub"  # in `meta`: there are deletions whose text `Vault.scrub` has to clear from the files


class Writer:
    """What can be done in one transaction. Use `Vault.writing`; nothing is stored unless its block ends well.

    Args:
        actor: who does it, for the audit log.
    """

    def __init__(
        self,
        conn: Connection,
        db: Database,
        structures: StructureRegistry,
        actor: Actor,
        clearance: frozenset[str] | None = None,
    ) -> None:
        self.conn = conn
        self._clearance = clearance
        self._db = db
        self._run, self._run_many = db.prepared.execute, db.prepared.execute_many
        self._known = statements(db)
        self._structures = structures
        self.at = micros(now())
        self.audit = AuditWriter(conn, db, actor, self.at)
        self.displaced: list[
            MemCube
        ] = []  # expired cubes that had to make room, and what was derived from them

    # -- look ----------------------------------------------------------------------------------------------

    def get(self, ids: Iterable[str], which: CubeFilter | None = None) -> dict[str, MemCube]:
        """These cubes (those that match), locked: nobody else changes them before this transaction ends."""
        wanted = list(dict.fromkeys(ids))
        self._lock_owners(wanted)
        return {row.id: from_row(row, self._structures) for row in self._rows(wanted, which)}

    def _rows(self, ids: Iterable[str], which: CubeFilter | None = None) -> Iterator[Any]:
        for chunk in chunks(ids):
            given = {"ids": self._db.listed(chunk)}
            if which is None:
                yield from self._run(self.conn, self._known.cubes, given)
            else:
                yield from self._db.prepared.run(self.conn, "write", which, self._known.of_filter, given)

    def _lock_owners(self, ids: Iterable[str]) -> None:
        self.audit.lock((row.tenant, row.user) for row in self._with_ids(self._known.owners, ids))

    def _with_ids(self, statement: Any, ids: Iterable[str]) -> list[Any]:
        """The rows of a statement about some cubes."""
        return [
            row
            for chunk in chunks(ids)
            for row in self._run(self.conn, statement, {"ids": self._db.listed(chunk)})
        ]

    def find(self, condition: Any, which: CubeFilter | None = None) -> list[MemCube]:
        """Cubes by a condition on `cubes`, in order of their ids."""
        query = with_behaviour().where(condition).order_by(t.cubes.c.id)
        if which is not None:
            query = query.where(which.where())
        return [from_row(row, self._structures) for row in self.conn.execute(query)]

    def ids(self, which: CubeFilter) -> list[str]:
        """The ids of the cubes that match."""
        return list(self.conn.execute(select(t.cubes.c.id).where(which.where())).scalars())

    def same_slot(self, cube: MemCube, slot: str) -> list[MemCube]:
        """The other live cubes of the same user and agent about the same thing."""
        c = t.cubes.c
        return self.find(and_(self._beside(cube), c.slot == slot, c.id != cube.id))

    def same_content(self, cube: MemCube) -> list[MemCube]:
        """The live cubes of the same user and agent that say the same."""
        return self.find(and_(self._beside(cube), t.cubes.c.content_hash == content_hash(cube)))

    def beside(self, cube: MemCube) -> CubeFilter:
        """The live cubes of the same user and agent, and of all agents where it has none; of no user, those of the same
        session. What the principal may
        not read does not exist for it: it is no duplicate, and nothing contradicts it."""
        return CubeFilter(cube.scope.home, self._clearance, kinds=["plaintext"])

    def _beside(self, cube: MemCube) -> ColumnElement[bool]:
        return and_(self.beside(cube).where(), t.cubes.c.agent == (cube.scope.agent or ""))

    def granted_to(self, tenant: str, kind: str, name: str) -> list[MemCube]:
        """The cubes that a user, a group or everyone was granted any right to."""
        g = t.grants.c
        ids = select(g.cube_id).where(g.tenant == tenant, g.kind == kind, g.name == name)
        return self.find(t.cubes.c.id.in_(ids))

    def is_granted(self, cube_id: str) -> bool:
        """Whether anybody else may use a cube."""
        g = t.grants.c
        return self.conn.execute(select(g.cube_id).where(g.cube_id == cube_id).limit(1)).first() is not None

    def _stored_at(self, addresses: Iterable[Address], ids: list[str]) -> dict[Address, Any]:
        """The rows at these addresses, and those with one of these ids."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for tenant, user, namespace, key in addresses:
            groups.setdefault((tenant, user, namespace), []).append(key)
        found: dict[Address, Any] = {}
        for (tenant, user, namespace), keys in groups.items():
            where = {"at_tenant": tenant, "at_user": user, "at_namespace": namespace}
            where |= {"at_keys": self._db.listed(keys), "with_ids": self._db.listed(ids)}
            for row in self._run(self.conn, self._known.at_addresses, where):
                found[row.tenant, row.user, row.namespace, row.key] = row
        return found

    # -- change --------------------------------------------------------------------------------------------

    def check(self, cubes: Iterable[MemCube]) -> None:
        """Refuse what this database cannot store.

        Raises:
            InvalidArgument: a text with a NUL character, on PostgreSQL.
        """
        if self._db.location.server is not None and any("\x00" in cube.text for cube in cubes):
            raise InvalidArgument("text holds a NUL character, which PostgreSQL cannot store")

    def put(self, cube: MemCube, *, expected_version: int | None = None, action: str = "") -> MemCube:
        """Store a cube at its address; what is there becomes its earlier version. See `Vault.put`."""
        return self.put_all([cube], expected_version=expected_version, action=action)[0]

    def put_all(
        self, cubes: Sequence[MemCube], *, expected_version: int | None = None, action: str = ""
    ) -> list[MemCube]:
        """Store cubes as `put` does, with few statements for many.

        Returns:
            The cubes as stored, in the order given; the later of two with the same address wins.
        """
        stored: list[MemCube] = []
        run: dict[Address, tuple[MemCube, dict[str, Any]]] = {}
        self.check(cubes)
        rows = [to_row(cube, self.at) for cube in cubes]
        self.audit.lock({(row["tenant"], row["user"]) for row in rows})
        for cube, row in zip(cubes, rows, strict=True):
            address = (row["tenant"], row["user"], row["namespace"], row["key"])
            if address in run or len(run) == CHUNK:
                stored += self._put_run(run, expected_version, action)
                run = {}
            run[address] = (cube, row)
        return stored + self._put_run(run, expected_version, action)

    def _put_run(
        self, run: Mapping[Address, tuple[MemCube, dict[str, Any]]], expected: int | None, action: str
    ) -> list[MemCube]:
        """Store cubes at different addresses, few enough for one statement."""
        there = self._there(run)
        stored: list[MemCube] = []
        new: list[tuple[MemCube, dict[str, Any]]] = []
        for address, (cube, row) in run.items():
            old = self._in_the_way(there.get(address), cube, row, expected)
            if old is not None:
                stored.append(self._replace(there[address], old, cube))
            else:
                stored.append(cube.model_copy(update={"key": row["key"], "version": 1}))
                new.append((stored[-1], row if cube.version == 1 else to_row(stored[-1], self.at)))
        self._insert(new, {row.id for row in there.values()})
        for cube in stored:
            self.audit.add(action or ("write" if cube.version == 1 else "update"), cube)
            if cube.version == 1 and cube.state is State.ARCHIVED:
                self.audit.add(f"state:{cube.state}", cube, "written so")
        return stored

    def _there(self, run: Mapping[Address, tuple[MemCube, dict[str, Any]]]) -> dict[Address, Any]:
        """The rows that are in the way of cubes. What has expired is none: it goes first, with what was derived from
        it, which may be at one of these addresses too."""
        ids = [row["id"] for _, row in run.values()]
        there = self._stored_at(run, ids)
        over = [
            row.id
            for address, row in there.items()
            if address in run and has_expired(from_row(row, self._structures))
        ]
        if not over:
            return there
        self.displaced += self.delete(over, "expire")
        return self._stored_at(run, ids)

    def _in_the_way(
        self, found: Any, cube: MemCube, row: Mapping[str, Any], expected: int | None
    ) -> MemCube | None:
        """What the cube is to replace, if it may."""
        old = from_row(found, self._structures) if found else None
        if old is not None and not CubeFilter(cube.scope, self._clearance).cleared(old):
            raise AccessDenied(
                f"key {row['key']!r} in namespace {cube.namespace} holds what this principal may not read, "
                "so it may not be replaced either"
            )
        version = old.version if old else 0
        if expected not in (None, version):
            raise VersionConflict(
                f"expected_version={expected}, but the cube {row['key']!r} has version {version}; read it again"
            )
        return old

    def _insert(self, new: Sequence[tuple[MemCube, dict[str, Any]]], taken: set[str]) -> None:
        ids: set[str] = set()
        for cube, _ in new:
            if cube.state in (State.MERGED, State.EXPIRED):
                raise InvalidArgument(f"state: a new cube cannot begin {cube.state}; leave state out")
            if cube.id in taken or cube.id in ids:
                raise InvalidArgument(
                    f"id {cube.id} belongs to a cube at another address; leave id out to make a new cube"
                )
            ids.add(cube.id)
        if not new:
            return
        cubes = [cube for cube, _ in new]
        self._run_many(self.conn, INSERT_CUBE, [row for _, row in new])
        self._db.add_texts(self.conn, [cube.id for cube in cubes])
        self._store_sources(cubes)
        self._store_labels(cubes)
        queued = [{"cube_id": c.id, "version": c.version} for c in cubes if _is_searched(c)]
        self._run_many(self.conn, QUEUE, queued)

    def _replace(self, found: Any, old: MemCube, cube: MemCube) -> MemCube:
        if old.frozen:
            raise InvalidArgument(f"the cube {old.key!r} is frozen and cannot be changed; unfreeze it first")
        header = cube.header.model_copy(
            update={
                "descriptive": cube.header.descriptive.model_copy(
                    update={"created_at": old.header.descriptive.created_at, "updated_at": moment(self.at)}
                ),
                "behaviour": old.header.behaviour,
            }
        )
        new = cube.model_copy(
            update={
                "id": old.id,
                "version": old.version + 1,
                "header": header,
                "state": state_after_write(old.state),
                "frozen": False,
                "key": old.key,
            }
        )
        kept = {
            "cube_id": old.id,
            "version": old.version,
            "cube": keep_row(found),
            "tenant": found.tenant,
            "user": found.user,
            "written_at": found.written_at,
            "replaced_at": self.at,
        }
        self._run(self.conn, INSERT_VERSION, kept)
        if new.state != old.state:
            self.audit.add(f"state:{new.state}", new, "written again")
        if old.state is State.MERGED:  # a new life: what was granted was the old one
            self.conn.execute(delete(t.grants).where(t.grants.c.cube_id == old.id))
        self._run(self.conn, UPDATE_CUBE, {**to_row(new, self.at), "the_id": old.id})
        for table in (t.sources, t.labels):
            self._with_ids(self._known.forget[table], [new.id])
        self._store_sources([new])
        self._store_labels([new])
        self._queue(new)
        return new

    def transition(self, cubes: Sequence[MemCube], new: State, cause: str) -> list[MemCube]:
        """Move cubes to another life-cycle state; those already in it stay as they are.

        Returns:
            Those that moved.

        Raises:
            InvalidArgument: the step is not legal for one of them, or one is frozen.
        """
        moving = [c for c in cubes if c.state != new]
        for cube in moving:
            rules.check(cube.state, new, frozen=cube.frozen)
        self.audit.lock(owner_of(c) for c in moving)
        ids = [c.id for c in moving]
        for chunk in chunks(ids):
            given = {"ids": self._db.listed(chunk), "new_state": str(new)}
            self._run(self.conn, self._known.state, given)
        if new not in LIVE:
            for table in (t.vectors, t.index_queue):
                self._with_ids(self._known.forget[table], ids)
        moved = [c.model_copy(update={"state": new}) for c in moving]
        for before, cube in zip(moving, moved, strict=True):
            if new in LIVE and before.state not in LIVE:
                self._queue(cube)
            self.audit.add(f"state:{new}", cube, cause)
        return moved

    def freeze(self, cubes: Sequence[MemCube], frozen: bool) -> None:
        """Set or clear the flag that forbids every change."""
        changing = [c for c in cubes if c.frozen != frozen]
        self.audit.lock(owner_of(c) for c in changing)
        for chunk in chunks([c.id for c in changing]):
            self.conn.execute(update(t.cubes).where(t.cubes.c.id.in_(chunk)).values(frozen=frozen))
        for cube in changing:
            self.audit.add("freeze" if frozen else "unfreeze", cube)

    def delete(
        self, ids: Iterable[str], action: Literal["delete", "erase", "expire"] = "delete"
    ) -> list[MemCube]:
        """Remove cubes with everything that is kept about them, and what was derived from them: KV caches and
        adapters; with "erase" every derived memory too.

        Returns:
            The cubes that went, derived ones included.
        """
        every = self._with_derived(list(dict.fromkeys(ids)), plaintext_too=action == "erase")
        self._lock_owners(every)
        gone = [_salvage(row, self._structures) for row in self._rows(every)]
        for statement in (*self._known.forget.values(), self._known.delete):
            self._with_ids(statement, [c.id for c in gone])
        if any(c.payload.kind == "plaintext" for c in gone):
            self._run(self.conn, self._known.note, {"key": SCRUB, "value": "1"})
        self._run_many(self.conn, INSERT_TOMBSTONE, [self._tombstone(c, action) for c in gone])
        for cube in gone:
            self.audit.add(action, cube)
        return gone

    def _with_derived(self, ids: list[str], *, plaintext_too: bool) -> list[str]:
        every = dict.fromkeys(ids)
        front = ids
        while front:
            derived = self._known.derived if plaintext_too else self._known.derived_forms
            found = [row.id for row in self._with_ids(derived, front)]
            front = [i for i in dict.fromkeys(found) if i not in every]
            every.update(dict.fromkeys(front))
        return list(every)

    def recall_kv(self, cubes: Iterable[MemCube]) -> None:
        """Have every process drop the KV it made from cubes, which are not everybody's any more."""
        self._run_many(self.conn, INSERT_TOMBSTONE, [self._tombstone(cube, "revoke") for cube in cubes])

    def _tombstone(self, cube: MemCube, action: str) -> dict[str, Any]:
        key = cube.payload.key if isinstance(cube.payload, Activation) else ""
        tenant, user = owner_of(cube)
        return {
            "cube_id": cube.id,
            "kv_key": key,
            "tenant": tenant,
            "user": user,
            "at": self.at,
            "action": action,
        }

    def share_grants(self, sources: Sequence[str], cube: MemCube) -> None:
        """Give a cube the grants that all of these have: it says what each of them says."""
        g = t.grants.c
        held: dict[tuple[str, str, str], int] = {}
        for chunk in chunks(sources):
            for row in self.conn.execute(select(g.kind, g.name, g.right).where(g.cube_id.in_(chunk))):
                held[row.kind, row.name, row.right] = held.get((row.kind, row.name, row.right), 0) + 1
        common = [
            {"cube_id": cube.id, "tenant": cube.scope.tenant, "kind": kind, "name": name, "right": right}
            for (kind, name, right), n in held.items()
            if n == len(set(sources))
        ]
        if common:
            self.conn.execute(insert(t.grants), common)

    # -- what belongs to a cube ----------------------------------------------------------------------------

    def _store_sources(self, cubes: Iterable[MemCube]) -> None:
        rows = [
            {"source_id": source, "cube_id": cube.id}
            for cube in cubes
            for source in {x.id for x in cube.derived_from}
        ]
        self._run_many(self.conn, INSERT_SOURCE, rows)

    def _store_labels(self, cubes: Iterable[MemCube]) -> None:
        rows = [
            {"cube_id": cube.id, "label": label}
            for cube in cubes
            for label in set(cube.header.governance.sensitivity)
        ]
        self._run_many(self.conn, INSERT_LABEL, rows)

    def _queue(self, cube: MemCube) -> None:
        if _is_searched(cube):
            self._run(self.conn, self._known.queue, {"cube_id": cube.id, "version": cube.version})
        elif cube.version > 1:  # nothing to embed: it is found by its address, not by a search
            for table in (t.vectors, t.index_queue):
                self._with_ids(self._known.forget[table], [cube.id])


def _is_searched(cube: MemCube) -> bool:
    return cube.state in LIVE and bool(cube.text.strip())


def state_after_write(old: State) -> State:
    """The state of a new version."""
    return rules.BY_WRITING.get(old, old)


def has_expired(cube: MemCube) -> bool:
    """Whether a cube is over: its state, or its ttl (which does not pass while it is frozen)."""
    expires = cube.header.governance.expires_at
    return cube.state is State.EXPIRED or (expires is not None and expires <= now() and not cube.frozen)


def owner_of(cube: MemCube) -> Owner:
    """Whose memory it is, as stored."""
    return cube.scope.tenant, cube.scope.user or ""


def _salvage(row: Any, structures: StructureRegistry) -> MemCube:
    """The cube of a row, or what is left of a damaged one: it can be deleted too."""
    try:
        return from_row(row, structures)
    except (VaultError, ValueError, KeyError, TypeError):
        scope = Scope(tenant=row.tenant, user=row.user or None)
        return MemCube(
            id=row.id, version=row.version, scope=scope, key=row.key, payload=Plaintext[Any](text="")
        )


def chunks(items: Iterable[str]) -> Iterator[list[str]]:
    """Distinct items in lists that fit in one statement."""
    every = list(dict.fromkeys(items))
    return (every[i : i + CHUNK] for i in range(0, len(every), CHUNK))

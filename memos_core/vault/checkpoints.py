"""LangGraph checkpoints as rows of bytes: all the SQL about them, and no knowledge of what the bytes mean."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, literal, or_, select

from memos_core.errors import VaultError
from memos_core.vault import tables as t
from memos_core.vault.database import Database
from memos_core.vault.rows import digest_of

Typed = tuple[str, bytes]  # what a serializer makes of a value: (type, bytes)

_CHUNK = 200
_PAGE = 64
_TABLES = (t.checkpoints, t.checkpoint_blobs, t.checkpoint_writes)


@dataclass(frozen=True)
class Lane:
    """Where a line of checkpoints lies: a thread of a tenant, and the (sub)graph's namespace in it."""

    tenant: str
    thread_id: str
    ns: str = ""


@dataclass(frozen=True)
class StoredWrite:
    """One write of a task, pending on a checkpoint."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    value: Typed


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint as it is stored.

    Args:
        lane, id, parent_id: its address and its parent's id in the same lane.
        body: the checkpoint without its channel values. metadata: JSON.
        values: the channel values. writes: pending writes, by (task_path, task_id, idx).
    """

    lane: Lane
    id: str
    parent_id: str | None
    body: Typed
    metadata: str
    values: dict[str, Typed] = field(default_factory=dict)
    writes: list[StoredWrite] = field(default_factory=list)


@dataclass(frozen=True)
class Bone:
    """What is needed to decide about a checkpoint without reading it: address, parent, metadata (JSON) and
    the channels that have a value in it."""

    lane: Lane
    id: str
    parent_id: str | None
    metadata: str
    channels: frozenset[str]


@dataclass(frozen=True)
class Wanted:
    """Which checkpoints a listing is about; a part that is None matches all. `before`: ids below this one."""

    tenant: str
    thread_id: str | None = None
    ns: str | None = None
    id: str | None = None
    before: str | None = None


class CheckpointTable:
    """Checkpoints, their channel values and their pending writes. Every method is one transaction, and none
    keeps a connection when it has returned."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- write ---------------------------------------------------------------------------------------------

    def put(
        self, checkpoint: StoredCheckpoint, versions: Mapping[str, str], *, run_id: str | None = None
    ) -> list[str]:
        """Store a checkpoint with its channel values, or nothing of it. One with the same id is replaced.

        Args:
            checkpoint: its `values` hold at least the channels that changed since the parent; its `writes`
                are not looked at.
            versions: of every channel that has a value in this checkpoint, the version.
            run_id: the run that made it, for `of_runs`.

        Returns:
            The channels in `versions` whose value is neither given nor stored with the parent at that
            version. If there are any, nothing was written: call again with their values.
        """
        lane = checkpoint.lane
        with self._db.write() as conn:
            refs = _inherited(conn, checkpoint, versions)
            missing = [ch for ch in versions if ch not in checkpoint.values and ch not in refs]
            if missing:
                return missing
            for channel in checkpoint.values:
                refs[channel] = self._put_value(
                    conn, lane, channel, versions[channel], checkpoint.values[channel]
                )
            row: dict[str, Any] = {
                **_address(lane),
                "checkpoint_id": checkpoint.id,
                "parent_id": checkpoint.parent_id,
                "run_id": run_id,
                "type": checkpoint.body[0],
                "checkpoint": checkpoint.body[1],
                "refs": json.dumps({ch: refs[ch] for ch in versions}),
                "metadata": checkpoint.metadata,
            }
            row["digest"] = checkpoint_digest(row)
            conn.execute(self._db.upsert(t.checkpoints, row))
        return []

    def _put_value(self, conn: Connection, lane: Lane, channel: str, version: str, value: Typed) -> str:
        """Store a channel value unless it is there, and return the version it is stored under: the given one, or,
        where another value has that already (two branches may count alike), that one with the value's hash."""
        b = t.checkpoint_blobs.c
        row = {**_address(lane), "channel": channel, "type": value[0], "value": value[1]}
        row["digest"] = digest_of(*value)
        add = self._db.insert(t.checkpoint_blobs)
        if conn.execute(add.values(version=version, **row).on_conflict_do_nothing()).rowcount:
            return version
        here = (*_at(t.checkpoint_blobs, lane), b.channel == channel, b.version == version)
        if tuple(conn.execute(select(b.type, b.value).where(*here)).one()) == (value[0], bytes(value[1])):
            return version
        other = f"{version}#{hashlib.sha256(value[0].encode() + b'/' + value[1]).hexdigest()[:32]}"
        conn.execute(add.values(version=other, **row).on_conflict_do_nothing())
        return other

    def put_writes(self, lane: Lane, checkpoint_id: str, writes: Sequence[StoredWrite]) -> None:
        """Store writes pending on a checkpoint, which may not be stored yet. A write with idx 0 or more that
        is there already stays as it is; one with a negative idx (LangGraph's special writes) is replaced."""
        if not writes:
            return
        with self._db.write() as conn:
            for write in writes:
                row = {
                    **_address(lane),
                    "checkpoint_id": checkpoint_id,
                    "task_id": write.task_id,
                    "idx": write.idx,
                    "task_path": write.task_path,
                    "channel": write.channel,
                    "type": write.value[0],
                    "value": write.value[1],
                    "digest": digest_of(*write.value),
                }
                if write.idx < 0:
                    conn.execute(self._db.upsert(t.checkpoint_writes, row))
                else:
                    new = self._db.insert(t.checkpoint_writes).values(**row).on_conflict_do_nothing()
                    conn.execute(new)

    def delete_thread(self, tenant: str, thread_id: str) -> None:
        """Remove everything of a thread, in all its namespaces."""
        with self._db.write() as conn:
            for table in _TABLES:
                conn.execute(table.delete().where(table.c.tenant == tenant, table.c.thread_id == thread_id))

    def delete(self, doomed: Iterable[tuple[Lane, str]]) -> None:
        """Remove checkpoints, each an id in a lane, with their writes and the values that no other checkpoint
        refers to. Children that stay lose their parent id."""
        by_lane: dict[Lane, list[str]] = defaultdict(list)
        for lane, id_ in doomed:
            by_lane[lane].append(id_)
        with self._db.write() as conn:
            for lane, ids in by_lane.items():
                for chunk in _chunks(ids):
                    for table in (t.checkpoints, t.checkpoint_writes):
                        conn.execute(
                            table.delete().where(*_at(table, lane), table.c.checkpoint_id.in_(chunk))
                        )
                    orphans = (*_at(t.checkpoints, lane), t.checkpoints.c.parent_id.in_(chunk))
                    conn.execute(t.checkpoints.update().where(*orphans).values(parent_id=None))
                _drop_unreferenced(conn, lane)

    def copy_thread(self, tenant: str, source: str, target: str) -> bool:
        """Copy everything of a thread to another.

        Returns:
            False, and nothing was copied, if the target has checkpoints already.
        """
        with self._db.write() as conn:
            c = t.checkpoints.c
            taken = select(c.checkpoint_id).where(c.tenant == tenant, c.thread_id == target).limit(1)
            if conn.execute(taken).first():
                return False
            for table in _TABLES:
                conn.execute(table.delete().where(table.c.tenant == tenant, table.c.thread_id == target))
                columns = [literal(target) if col.name == "thread_id" else col for col in table.c]
                rows = select(*columns).where(table.c.tenant == tenant, table.c.thread_id == source)
                conn.execute(table.insert().from_select([col.name for col in table.c], rows))
        return True

    # -- read ----------------------------------------------------------------------------------------------

    def get(self, lane: Lane, checkpoint_id: str | None = None) -> StoredCheckpoint | None:
        """A checkpoint by its id, or the latest of a lane: the one with the highest id.

        Raises:
            VaultError: a channel value it refers to is not there.
        """
        c = t.checkpoints.c
        query = select(t.checkpoints).where(*_at(t.checkpoints, lane))
        if checkpoint_id is None:
            query = query.order_by(c.checkpoint_id.desc()).limit(1)
        else:
            query = query.where(c.checkpoint_id == checkpoint_id)
        with self._db.read() as conn:
            return next(iter(_complete(conn, conn.execute(query).all())), None)

    def scan(
        self, wanted: Wanted, *, accept: Callable[[str], bool] | None = None, limit: int | None = None
    ) -> Iterator[list[StoredCheckpoint]]:
        """Checkpoints in pages, highest id first. No connection is held between pages, so other calls may be
        made meanwhile; what they add or remove is seen or not, as it comes.

        Args:
            wanted: which ones. accept: an extra condition on the metadata (JSON).
            limit: how many at most, after `accept`.

        Raises:
            VaultError: a channel value that a checkpoint refers to is not there.
        """
        left, after = limit, None
        while left is None or left > 0:
            size = _PAGE if left is None or accept is not None else min(_PAGE, left)
            query = _wanted(wanted, after).limit(size)
            with self._db.read() as conn:
                rows = conn.execute(query).all()
                kept = [r for r in rows if accept is None or accept(r.metadata)][:left]
                found = _complete(conn, kept)
            if found:
                yield found
            if len(rows) < size:
                return
            after = rows[-1]
            left = None if left is None else left - len(found)

    def bones(self, tenant: str, thread_id: str) -> list[Bone]:
        """Every checkpoint of a thread without its content, highest id first."""
        c = t.checkpoints.c
        query = (
            select(c.tenant, c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_id, c.refs, c.metadata)
            .where(c.tenant == tenant, c.thread_id == thread_id)
            .order_by(c.checkpoint_id.desc())
        )
        with self._db.read() as conn:
            return [
                Bone(_lane(r), r.checkpoint_id, r.parent_id, r.metadata, frozenset(json.loads(r.refs)))
                for r in conn.execute(query)
            ]

    def of_runs(self, tenant: str, run_ids: Sequence[str]) -> list[tuple[Lane, str]]:
        """The checkpoints that these runs made, each an id in a lane."""
        c = t.checkpoints.c
        columns = (c.tenant, c.thread_id, c.checkpoint_ns, c.checkpoint_id)
        with self._db.read() as conn:
            return [
                (_lane(r), r.checkpoint_id)
                for chunk in _chunks(run_ids)
                for r in conn.execute(select(*columns).where(c.tenant == tenant, c.run_id.in_(chunk)))
            ]


def _inherited(conn: Connection, checkpoint: StoredCheckpoint, versions: Mapping[str, str]) -> dict[str, str]:
    """References to the values that the parent has at the same version and that are not given anew."""
    wanted = {ch: version for ch, version in versions.items() if ch not in checkpoint.values}
    if checkpoint.parent_id is None or not wanted:
        return {}
    c = t.checkpoints.c
    query = select(c.refs).where(
        *_at(t.checkpoints, checkpoint.lane), c.checkpoint_id == checkpoint.parent_id
    )
    refs: dict[str, str] = json.loads(conn.execute(query).scalar() or "{}")
    return {
        ch: refs[ch] for ch, v in wanted.items() if refs.get(ch) == v or refs.get(ch, "").startswith(f"{v}#")
    }


def _drop_unreferenced(conn: Connection, lane: Lane) -> None:
    b = t.checkpoint_blobs.c
    refs = conn.execute(select(t.checkpoints.c.refs).where(*_at(t.checkpoints, lane))).scalars()
    used = {pair for stored in refs for pair in json.loads(stored).items()}
    stored = conn.execute(select(b.channel, b.version).where(*_at(t.checkpoint_blobs, lane))).all()
    for chunk in _chunks([(r.channel, r.version) for r in stored if (r.channel, r.version) not in used]):
        conn.execute(t.checkpoint_blobs.delete().where(*_at(t.checkpoint_blobs, lane), _one_of(chunk)))


def _wanted(wanted: Wanted, after: Row[Any] | None) -> Any:
    c = t.checkpoints.c
    query = select(t.checkpoints).where(c.tenant == wanted.tenant)
    parts = ((c.thread_id, wanted.thread_id), (c.checkpoint_ns, wanted.ns), (c.checkpoint_id, wanted.id))
    query = query.where(*(column == value for column, value in parts if value is not None))
    if wanted.before is not None:
        query = query.where(c.checkpoint_id < wanted.before)
    if after is not None:
        # The same id can be in several lanes. The first condition is there for the index.
        id_, thread, ns = after.checkpoint_id, after.thread_id, after.checkpoint_ns
        later = or_(c.thread_id > thread, and_(c.thread_id == thread, c.checkpoint_ns > ns))
        query = query.where(c.checkpoint_id <= id_, or_(c.checkpoint_id < id_, later))
    return query.order_by(c.checkpoint_id.desc(), c.thread_id, c.checkpoint_ns)


def _complete(conn: Connection, rows: Sequence[Row[Any]]) -> list[StoredCheckpoint]:
    """Rows with their channel values and pending writes, which are read once for all rows of a lane."""
    found = [
        (
            StoredCheckpoint(_lane(r), r.checkpoint_id, r.parent_id, _whole(r), r.metadata),
            json.loads(r.refs),
        )
        for r in rows
    ]
    for lane in dict.fromkeys(checkpoint.lane for checkpoint, _ in found):
        mine = [(checkpoint, refs) for checkpoint, refs in found if checkpoint.lane == lane]
        values = _values(conn, lane, {pair for _, refs in mine for pair in refs.items()})
        writes = _writes(conn, lane, [checkpoint.id for checkpoint, _ in mine])
        for checkpoint, refs in mine:
            checkpoint.writes.extend(writes[checkpoint.id])
            for pair in refs.items():
                if pair not in values:
                    where = f"checkpoint {checkpoint.id} of thread {lane.thread_id!r}"
                    raise VaultError(f"{where} is damaged: its value of channel {pair[0]!r} is missing")
                checkpoint.values[pair[0]] = values[pair]
    return [checkpoint for checkpoint, _ in found]


def _values(conn: Connection, lane: Lane, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Typed]:
    query = select(t.checkpoint_blobs).where(*_at(t.checkpoint_blobs, lane))
    rows = (row for chunk in _chunks(pairs) for row in conn.execute(query.where(_one_of(chunk))))
    return {
        (row.channel, row.version): _verified(row, f"its value of channel {row.channel!r}") for row in rows
    }


def _writes(conn: Connection, lane: Lane, ids: Sequence[str]) -> dict[str, list[StoredWrite]]:
    found: dict[str, list[StoredWrite]] = defaultdict(list)
    query = select(t.checkpoint_writes).where(*_at(t.checkpoint_writes, lane))
    for r in conn.execute(query.where(t.checkpoint_writes.c.checkpoint_id.in_(ids))):
        write = StoredWrite(
            r.task_id, r.task_path, r.idx, r.channel, _verified(r, f"a write to channel {r.channel!r}")
        )
        found[r.checkpoint_id].append(write)
    for writes in found.values():
        # Sorted here, not by SQL: a database's collation need not be Python's order.
        writes.sort(key=lambda w: (w.task_path, w.task_id, w.idx))
    return found


def checkpoint_digest(row: Mapping[str, Any]) -> str:
    """Checksum of a row of `checkpoints`: its body, what it refers to, and its metadata."""
    rest = f"{row['refs']}{row['metadata']}".encode(errors="surrogateescape")
    return digest_of(row["type"], row["checkpoint"] + rest)


def _whole(row: Row[Any]) -> Typed:
    if checkpoint_digest(dict(row._mapping)) != row.digest:
        raise _damaged(row, f"checkpoint {row.checkpoint_id} with its metadata")
    return row.type, row.checkpoint


def _verified(row: Any, what: str) -> Typed:
    """A serialized value, if it is what was written.

    Raises:
        VaultError: its checksum does not match.
    """
    if digest_of(row.type, row.value) != row.digest:
        raise _damaged(row, what)
    return row.type, row.value


def _damaged(row: Any, what: str) -> VaultError:
    return VaultError(
        f"a checkpoint of thread {row.thread_id!r} is damaged: the checksum of {what} does not match; "
        "restore a backup, or continue the thread from another checkpoint"
    )


def _one_of(pairs: Iterable[tuple[str, str]]) -> ColumnElement[bool]:
    # SQLite uses the primary key for this form; for `(channel, version) IN (…)` it scans the lane.
    b = t.checkpoint_blobs.c
    return or_(*(and_(b.channel == channel, b.version == version) for channel, version in pairs))


def _address(lane: Lane) -> dict[str, str]:
    return {"tenant": lane.tenant, "thread_id": lane.thread_id, "checkpoint_ns": lane.ns}


def _at(table: Table, lane: Lane) -> list[ColumnElement[bool]]:
    return [table.c[k] == v for k, v in _address(lane).items()]


def _lane(row: Any) -> Lane:
    return Lane(row.tenant, row.thread_id, row.checkpoint_ns)


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    every = list(items)
    return (every[i : i + _CHUNK] for i in range(0, len(every), _CHUNK))

"""LangGraph checkpoints as rows of bytes: the SQL about them, and no knowledge of what the bytes mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection

from memos_core.cube import now
from memos_core.errors import VaultError, VersionConflict
from memos_core.vault import threads
from memos_core.vault.checkqueries import ADD, ADD_WRITE, AT, LATEST, RIVAL, fill, listing
from memos_core.vault.checkrows import (
    CHECKPOINT_COLUMNS,
    LATE_WRITES,
    WRITE_COLUMNS,
    Bone,
    Lane,
    Opened,
    Rows,
    Slot,
    StoredCheckpoint,
    StoredWrite,
    Value,
    Wanted,
)
from memos_core.vault.chunking import Cutter, Entry, Made, Ref
from memos_core.vault.chunkstore import ChunkStore, Raw, Rope, Thread, batches
from memos_core.vault.database import Database
from memos_core.vault.rows import micros
from memos_core.vault.sealing import Encrypted, Plain, Seal

__all__ = ["Bone", "CheckpointTable", "Lane", "StoredCheckpoint", "StoredWrite", "Wanted"]

_PAGES = (8, 64)  # checkpoints of the first page of a listing, and of the largest
_RENEW = 100  # a read renews a thread's time when one part in so many of it has passed


class CheckpointTable:
    """Checkpoints, their channel values and their pending writes. Every method is one transaction, and none
    keeps a connection when it has returned.

    Args:
        seal: how rows lie in the database; in plain, with checksums, if left out.
    """

    def __init__(self, db: Database, seal: Seal | None = None) -> None:
        seal = seal or Plain()
        self._db = db
        self._run = Raw(db.engine.dialect.name)
        self._rows = Rows(seal)
        self._chunks = ChunkStore(db, seal)
        self.cutter = Cutter(seal.name)
        self.forgotten = 0
        """Grows with every `forget`: who keeps values that came from here drops them then."""
        self._encrypted: WeakSet[CheckpointTable] = WeakSet()

    def encrypted(self, key: bytes) -> CheckpointTable:
        """The same table for rows that are encrypted with a key.

        Raises:
            InvalidArgument: see `Encrypted`.
        """
        made = CheckpointTable(self._db, Encrypted(key))
        self._encrypted.add(made)
        return made

    def forget(self) -> None:
        """Something was erased: drop what is kept of it in memory."""
        self._chunks.cache.clear()
        self.forgotten += 1
        for table in list(self._encrypted):
            table.forget()

    # -- write ---------------------------------------------------------------------------------------------

    def put(
        self,
        checkpoint: StoredCheckpoint,
        versions: Mapping[str, str],
        *,
        ttl: timedelta | None = None,
        alone: bool = False,
    ) -> list[str]:
        """Store a checkpoint with its channel values, or nothing of it. One with the same id is replaced.

        Args:
            checkpoint: its `values` hold at least the channels that changed since the parent; its `writes`
                are not looked at.
            versions: of every channel that has a value in this checkpoint, the version.
            ttl: when the thread expires, counted from now.
            alone: refuse it where another run has continued from the same parent.

        Returns:
            The channels in `versions` whose value is neither given nor stored with the parent at that
            version. If there are any, nothing was written: call again with their values.

        Raises:
            VersionConflict: see `alone`.
        """
        lane = checkpoint.lane
        made = {ch: self._cut(value) for ch, value in checkpoint.values.items()}
        with self._db.write() as conn:
            thread = self._held(conn, lane)
            refs = self._inherited(conn, thread, checkpoint, versions)
            missing = [ch for ch in versions if ch not in made and ch not in refs]
            if missing:
                return missing
            if alone:
                self._refuse_rivals(conn, thread, checkpoint)
            new = self._chunks.add(conn, thread, made.values())
            refs |= {ch: Slot(versions[ch], m.kind, m.entries) for ch, m in made.items()}
            row = self._rows.checkpoint(checkpoint, {ch: refs[ch] for ch in versions})
            if not self._run(conn, ADD, (thread.seq, *row)).rowcount:
                self._run(conn, f"DELETE FROM checkpoints WHERE {AT}", (thread.seq, *row[:2]))
                self._run(conn, ADD, (thread.seq, *row))
                self.sweep(conn, thread)
                new = {}
            if ttl is not None:
                threads.keep_for(self._run, conn, thread, ttl)
        self._chunks.stored(thread, new)
        return []

    def _cut(self, value: Value) -> Made:
        if isinstance(value, Rope):
            value = (value.kind, value.bytes())
        return value if isinstance(value, Made) else self.cutter.cut(value)

    def _held(self, conn: Connection, lane: Lane) -> Thread:
        thread = threads.hold(self._run, conn, lane.tenant, lane.thread_id, make=True)
        assert thread is not None
        return thread

    def _inherited(
        self, conn: Connection, thread: Thread, checkpoint: StoredCheckpoint, versions: Mapping[str, str]
    ) -> dict[str, Slot]:
        """Where the values are that the parent has at the same version and that are not given anew."""
        wanted = {ch: version for ch, version in versions.items() if ch not in checkpoint.values}
        if checkpoint.parent_id is None or not wanted:
            return {}
        sql = f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE {AT}"
        row = self._run.first(conn, sql, (thread.seq, checkpoint.lane.ns, checkpoint.parent_id))
        if row is None:
            return {}
        refs = self._rows.open_checkpoint(thread, row).refs
        return {ch: refs[ch] for ch, v in wanted.items() if ch in refs and refs[ch].version == v}

    def _refuse_rivals(self, conn: Connection, thread: Thread, checkpoint: StoredCheckpoint) -> None:
        ns, parent = checkpoint.lane.ns, checkpoint.parent_id
        if parent is None and ns:
            return  # a subgraph's first step; its graph's own checkpoints are the ones to compare
        sql = RIVAL + (" AND parent_id IS NULL" if parent is None else " AND parent_id = ?")
        values = (thread.seq, ns, parent or "", checkpoint.id, *([] if parent is None else [parent]))
        for id_, run_id in self._run(conn, sql, values):
            if run_id is None or run_id != checkpoint.run_id:
                begun = f"continued from checkpoint {parent}" if parent else "began it"
                raise VersionConflict(
                    f"thread {thread.id!r}: another run has {begun} already (checkpoint {id_}); nothing of this step "
                    "was stored; read the thread again and repeat the run, or name the checkpoint_id to fork from"
                )

    def put_writes(
        self, lane: Lane, checkpoint_id: str, writes: Sequence[StoredWrite], *, ttl: timedelta | None = None
    ) -> None:
        """Store writes pending on a checkpoint, which may not be stored yet. A write with idx 0 or more that
        is there already stays as it is; one with a negative idx (LangGraph's special writes) is replaced.

        Args:
            ttl: when the thread expires, counted from now.
        """
        if not writes:
            return
        cut = [(write, self._cut(write.value)) for write in writes]
        replaced = False
        with self._db.write() as conn:
            thread = self._held(conn, lane)
            stored: list[Made] = []
            for write, made in cut:
                row = (thread.seq, *self._rows.write(lane, checkpoint_id, write, made))
                if write.idx < 0:
                    sql = f"DELETE FROM checkpoint_writes WHERE {AT} AND task_id = ? AND idx = ?"
                    replaced |= bool(self._run(conn, sql, row[:5]).rowcount)
                if self._run(conn, ADD_WRITE, row).rowcount:
                    stored.append(made)
            new = self._chunks.add(conn, thread, stored)
            if replaced:
                self.sweep(conn, thread)
                new = {}
            if ttl is not None:
                threads.keep_for(self._run, conn, thread, ttl)
        self._chunks.stored(thread, new)

    # -- remove and copy -----------------------------------------------------------------------------------

    def delete_thread(self, tenant: str, thread_id: str) -> None:
        """Remove everything of a thread, in all its namespaces."""
        with self._db.write() as conn:
            thread = threads.hold(self._run, conn, tenant, thread_id)
            if thread is not None:
                threads.remove(self._run, conn, [thread.seq])
        self._chunks.cache.clear()

    def delete(self, doomed: Iterable[tuple[Lane, str]]) -> None:
        """Remove checkpoints, each an id in a lane, with their writes and what nothing else refers to. Children that
        stay lose their parent id."""
        by_thread: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for lane, id_ in doomed:
            by_thread[lane.tenant, lane.thread_id].append((lane.ns, id_))
        if not by_thread:
            return
        with self._db.write() as conn:
            for address in sorted(by_thread):
                thread = threads.hold(self._run, conn, *address)
                if thread is not None:
                    self._delete(conn, thread, by_thread[address])
        self._chunks.cache.clear()

    def _delete(self, conn: Connection, thread: Thread, doomed: Sequence[tuple[str, str]]) -> None:
        by_ns: dict[str, list[str]] = defaultdict(list)
        for ns, id_ in doomed:
            by_ns[ns].append(id_)
        for ns, ids in by_ns.items():
            for marks, some in batches(ids):
                for table in ("checkpoints", "checkpoint_writes"):
                    sql = f"DELETE FROM {table} WHERE thread = ? AND checkpoint_ns = ? AND checkpoint_id IN ({marks})"
                    self._run(conn, sql, (thread.seq, ns, *some))
                self._orphan(conn, thread, f"checkpoint_ns = ? AND parent_id IN ({marks})", (ns, *some))
        self._run(conn, f"DELETE FROM checkpoint_writes AS w WHERE {LATE_WRITES}", (thread.seq,))
        self.sweep(conn, thread)
        left = self._run.first(conn, "SELECT 1 FROM checkpoints WHERE thread = ? LIMIT 1", (thread.seq,))
        pending = self._run.first(
            conn, "SELECT 1 FROM checkpoint_writes WHERE thread = ? LIMIT 1", (thread.seq,)
        )
        if left is None and pending is None:
            threads.remove(self._run, conn, [thread.seq])

    def _orphan(self, conn: Connection, thread: Thread, where: str, values: Sequence[Any]) -> None:
        """Write checkpoints anew without their parent's id."""
        sql = f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE thread = ? AND {where}"
        for row in list(self._run(conn, sql, (thread.seq, *values))):
            try:
                opened = self._rows.open_checkpoint(thread, row)
            except VaultError:
                continue  # it is damaged, and stays as it is
            alone = self._rows.checkpoint(replace(opened.checkpoint, parent_id=None), opened.refs)
            self._run(conn, f"DELETE FROM checkpoints WHERE {AT}", (thread.seq, *row[:2]))
            self._run(conn, ADD, (thread.seq, *alone))

    def sweep(self, conn: Connection, thread: Thread) -> None:
        """Delete the blobs of a thread that none of its rows needs; none while one of these cannot be read.

        Args:
            thread: held by this transaction.
        """
        try:
            self._chunks.sweep(conn, thread, list(self._used(conn, thread)))
        except VaultError:
            return

    def _used(self, conn: Connection, thread: Thread) -> Iterator[Entry]:
        sql = f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE thread = ?"
        for row in self._run(conn, sql, (thread.seq,)):
            yield from self._rows.open_checkpoint(thread, row).entries()
        sql = f"SELECT {WRITE_COLUMNS} FROM checkpoint_writes WHERE thread = ?"
        for row in self._run(conn, sql, (thread.seq,)):
            value = self._rows.open_write(thread, row).value
            assert isinstance(value, Rope)
            yield from value.entries

    def copy_thread(self, tenant: str, source: str, target: str, *, ttl: timedelta | None = None) -> bool:
        """Copy everything of a thread to another.

        Returns:
            False, and nothing was copied, if the target has checkpoints already.
        """
        with self._db.write() as conn:
            # In one order, so that two copies never wait for each other.
            held = {id_: threads.hold(self._run, conn, tenant, id_) for id_ in sorted({source, target})}
            there = held[target]
            sql = "SELECT 1 FROM checkpoints WHERE thread = ? LIMIT 1"
            if there is not None and self._run.first(conn, sql, (there.seq,)) is not None:
                return False
            origin = held[source]
            if origin is None:
                return True
            if there is not None:
                threads.remove(self._run, conn, [there.seq])
            into = self._held(conn, Lane(tenant, target))
            self._chunks.copy(conn, origin, into)
            self._copy_rows(conn, origin, into)
            if ttl is not None:
                threads.keep_for(self._run, conn, into, ttl)
        return True

    def _copy_rows(self, conn: Connection, origin: Thread, into: Thread) -> None:
        sql = f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE thread = ?"
        for row in list(self._run(conn, sql, (origin.seq,))):
            opened = self._rows.open_checkpoint(origin, row)
            lane = replace(opened.checkpoint.lane, thread_id=into.id)
            copied = self._rows.checkpoint(replace(opened.checkpoint, lane=lane), opened.refs)
            self._run(conn, ADD, (into.seq, *copied))
        sql = f"SELECT {WRITE_COLUMNS} FROM checkpoint_writes WHERE thread = ?"
        for row in list(self._run(conn, sql, (origin.seq,))):
            write = self._rows.open_write(origin, row)
            assert isinstance(write.value, Rope)
            made = Made(write.value.kind, write.value.entries, {}, {})
            copied = self._rows.write(Lane(into.tenant, into.id, row[0]), row[1], write, made)
            self._run(conn, ADD_WRITE, (into.seq, *copied))

    def sweep_expired(self) -> int:
        """Remove the threads whose time has passed.

        Returns:
            How many.
        """
        with self._db.read() as conn:
            if not threads.any_overdue(self._run, conn):
                return 0
        with self._db.write() as conn:
            gone = threads.overdue(self._run, conn)
            threads.remove(self._run, conn, gone)
        self._chunks.cache.clear()
        return len(gone)

    # -- read ----------------------------------------------------------------------------------------------

    def get(
        self,
        lane: Lane,
        checkpoint_id: str | None = None,
        *,
        skip: Callable[[Ref], bool] | None = None,
        renew: timedelta | None = None,
    ) -> StoredCheckpoint | None:
        """A checkpoint by its id, or the latest of a lane: the one with the highest id.

        Args:
            skip: blobs of its values that are not wanted. renew: the thread's time, which begins anew.

        Raises:
            VaultError: it is damaged.
        """
        sql, values = LATEST, [lane.tenant, lane.thread_id, lane.ns]
        if checkpoint_id is None:
            sql += "ORDER BY c.checkpoint_id DESC LIMIT 1"
        else:
            sql += "AND c.checkpoint_id = ?"
            values.append(checkpoint_id)
        with self._db.read() as conn:
            row = self._run.first(conn, sql, tuple(values))
            if row is None or threads.expired(row[4]):
                return None
            [found] = self._complete(conn, [row], skip)
        if renew is not None:
            self._renew(Thread(*row[:5]), renew)
        return found

    def _renew(self, thread: Thread, ttl: timedelta) -> None:
        """A thread's time begins anew, unless that was just done."""
        until = thread.expires_at
        if until is None or until < micros(now() + ttl - ttl / _RENEW):
            with self._db.write(derived=True) as conn:
                threads.keep_for(self._run, conn, thread, ttl)

    def scan(
        self,
        wanted: Wanted,
        *,
        accept: Callable[[str], bool] | None = None,
        limit: int | None = None,
        skip: Callable[[Ref], bool] | None = None,
    ) -> Iterator[list[StoredCheckpoint]]:
        """Checkpoints in pages, highest id first. No connection is held between pages, so other calls may be
        made meanwhile; what they add or remove is seen or not, as it comes.

        Args:
            wanted: which ones. accept: an extra condition on the metadata (JSON).
            limit: how many at most, after `accept`. skip: blobs of their values that are not wanted.

        Raises:
            VaultError: one is damaged.
        """
        left, after, page = limit, None, _PAGES[0]
        while left is None or left > 0:
            size = page if left is None or accept is not None else min(page, left)
            page = min(2 * page, _PAGES[1])
            with self._db.read() as conn:
                rows = list(self._run(conn, *listing(wanted, after, size)))
                found = self._complete(conn, rows, skip, accept, left)
            if found:
                yield found
            if len(rows) < size:
                return
            if after is not None and (rows[-1][6] > after[6] or rows[-1][:7] == after[:7]):
                raise VaultError("the vault is damaged: checkpoints are out of order; run `memos doctor`")
            after = rows[-1]
            left = None if left is None else left - len(found)

    def bones(self, tenant: str, thread_id: str) -> list[Bone]:
        """Every checkpoint of a thread without its content, highest id first."""
        sql = f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE thread = ? ORDER BY checkpoint_id DESC"
        with self._db.read() as conn:
            thread = threads.find(self._run, conn, tenant, thread_id)
            if thread is None:
                return []
            opened = [self._rows.open_checkpoint(thread, row) for row in self._run(conn, sql, (thread.seq,))]
        return [
            Bone(c.lane, c.id, c.parent_id, c.body, c.metadata, frozenset(o.refs))
            for o in opened
            for c in (o.checkpoint,)
        ]

    def of_runs(self, tenant: str, run_ids: Sequence[str]) -> list[tuple[Lane, str]]:
        """The checkpoints that these runs made, each an id in a lane."""
        found: list[tuple[Lane, str]] = []
        with self._db.read() as conn:
            for marks, some in batches(run_ids):
                sql = (
                    "SELECT t.thread_id, c.checkpoint_ns, c.checkpoint_id FROM checkpoints c "
                    f"JOIN threads t ON t.seq = c.thread WHERE c.run_id IN ({marks}) AND t.tenant = ?"
                )
                rows = self._run(conn, sql, (*some, tenant))
                found += [(Lane(tenant, thread_id, ns), id_) for thread_id, ns, id_ in rows]
        return found

    def _complete(
        self,
        conn: Connection,
        rows: Sequence[Any],
        skip: Callable[[Ref], bool] | None,
        accept: Callable[[str], bool] | None = None,
        limit: int | None = None,
    ) -> list[StoredCheckpoint]:
        """Rows with their channel values and pending writes, which are read once for all rows of a thread."""
        mine: dict[int, list[Opened]] = defaultdict(list)
        known: dict[int, Thread] = {}
        order: list[tuple[int, Opened]] = []
        for row in rows:
            if threads.expired(row[4]):
                continue
            thread = known.setdefault(row[2], Thread(*row[:5]))
            opened = self._rows.open_checkpoint(thread, row[5:])
            if accept is None or accept(opened.checkpoint.metadata):
                mine[thread.seq].append(opened)
                order.append((thread.seq, opened))
            if limit is not None and len(order) == limit:
                break
        blobs: dict[int, Mapping[Ref, list[Entry] | bytes]] = {}
        for seq, some in mine.items():
            blobs[seq] = self._content(conn, known[seq], some, skip)
        for seq, opened in order:
            fill(known[seq], opened, blobs[seq])
        return [opened.checkpoint for _, opened in order]

    def _content(
        self,
        conn: Connection,
        thread: Thread,
        some: Sequence[Opened],
        skip: Callable[[Ref], bool] | None,
    ) -> Mapping[Ref, list[Entry] | bytes]:
        """The writes of some checkpoints of a thread, into these, and all blobs that they and the values need."""
        by_ns: dict[str, dict[str, Opened]] = defaultdict(dict)
        for opened in some:
            by_ns[opened.checkpoint.lane.ns][opened.checkpoint.id] = opened
        entries: list[Entry] = [entry for opened in some for entry in opened.entries()]
        for ns, by_id in by_ns.items():
            for marks, ids in batches(by_id):
                sql = (
                    f"SELECT {WRITE_COLUMNS} FROM checkpoint_writes "
                    f"WHERE thread = ? AND checkpoint_ns = ? AND checkpoint_id IN ({marks})"
                )
                for row in self._run(conn, sql, (thread.seq, ns, *ids)):
                    write = self._rows.open_write(thread, row)
                    by_id[row[1]].checkpoint.writes.append(write)
                    entries += write.value.entries  # type: ignore[union-attr]
        return self._chunks.fetch(conn, thread, entries, skip)

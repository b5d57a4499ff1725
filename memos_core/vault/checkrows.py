"""A checkpoint and a pending write as rows, sealed on the way in and checked on the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memos_core.errors import VaultError
from memos_core.vault.chunking import Damaged, Entry, Made, Typed, read_entries, write_entries
from memos_core.vault.chunkstore import Rope, Thread
from memos_core.vault.sealing import SEALED, Seal, pack, unpack

CHECKPOINT_COLUMNS = (
    "checkpoint_ns, checkpoint_id, parent_id, run_id, user_id, type, checkpoint, refs, metadata, digest"
)
WRITE_COLUMNS = "checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type, value, digest"

# Pending writes of a thread whose checkpoint is gone. They may come before it, but not after a later one.
LATE_WRITES = (
    "thread = ? AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.thread = w.thread AND "
    "c.checkpoint_ns = w.checkpoint_ns AND c.checkpoint_id = w.checkpoint_id) AND EXISTS (SELECT 1 FROM "
    "checkpoints c WHERE c.thread = w.thread AND c.checkpoint_ns = w.checkpoint_ns AND "
    "c.checkpoint_id > w.checkpoint_id)"
)

Value = Typed | Made | Rope  # a value on its way in, in one piece or cut, or on its way out


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
    value: Value


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint as it is stored.

    Args:
        lane, id, parent_id: its address and its parent's id in the same lane.
        body: the checkpoint without its channel values. metadata: JSON.
        values: the channel values. writes: pending writes, by (task_path, task_id, idx).
        run_id, user_id: the run that made it, and whose it is, where its metadata says so.
    """

    lane: Lane
    id: str
    parent_id: str | None
    body: Typed
    metadata: str
    values: dict[str, Value] = field(default_factory=dict)
    writes: list[StoredWrite] = field(default_factory=list)
    run_id: str | None = None
    user_id: str | None = None


@dataclass(frozen=True)
class Bone:
    """What is needed to decide about a checkpoint without reading its values.

    Args:
        channels: those that have a value in it.
    """

    lane: Lane
    id: str
    parent_id: str | None
    body: Typed
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


@dataclass(frozen=True)
class Slot:
    """A channel's value in a checkpoint: its version, and where the value is."""

    version: str
    kind: str
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Opened:
    """A row of `checkpoints`: the checkpoint without values and writes, and where the values are."""

    checkpoint: StoredCheckpoint
    refs: Mapping[str, Slot]

    def entries(self) -> Iterable[Entry]:
        """Of all its values."""
        return (entry for slot in self.refs.values() for entry in slot.entries)


class Rows:
    """Between rows and what they say.

    Args:
        seal: how they lie in the database.
    """

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    # -- checkpoints ---------------------------------------------------------------------------------------

    def checkpoint(self, checkpoint: StoredCheckpoint, refs: Mapping[str, Slot]) -> tuple[Any, ...]:
        """The values of `CHECKPOINT_COLUMNS`."""
        c = checkpoint
        address = (c.lane.ns, c.id, c.parent_id, c.run_id, c.user_id)
        place = _checkpoint_place(c.lane.tenant, c.lane.thread_id, address)
        packed = pack(
            *(
                part
                for channel, slot in refs.items()
                for part in (channel, slot.version, slot.kind, write_entries(slot.entries))
            )
        )
        if self._seal.sealed:
            content = pack(*c.body, packed, c.metadata)
            return (*address, SEALED, self._seal.close(place, content), b"", "", b"")
        digest = self._seal.check(place, pack(*c.body, packed, c.metadata))
        return (*address, *c.body, packed, c.metadata, digest)

    def open_checkpoint(self, thread: Thread, row: Any) -> Opened:
        """What a row of `CHECKPOINT_COLUMNS` says.

        Raises:
            VaultError: it is damaged, or not sealed as it should be.
        """
        ns, id_, parent, run_id, user_id, kind, body, refs, metadata, digest = row
        what = f"checkpoint {id_} with its metadata"
        place = _checkpoint_place(thread.tenant, thread.id, row[:5])
        try:
            if self._sealed(thread, kind, what):
                opened = unpack(self._seal.open(place, bytes(body)))
                kind, body, refs, metadata = opened[0].decode(), opened[1], opened[2], opened[3].decode()
            elif self._seal.check(place, pack(kind, body, refs, metadata)) != bytes(digest):
                raise Damaged("the checksum does not match")
            found = _slots(bytes(refs))
        except (Damaged, ValueError, IndexError, TypeError) as err:
            raise _damaged(thread, what, err) from None
        lane = Lane(thread.tenant, thread.id, ns)
        stored = StoredCheckpoint(
            lane, id_, parent, (kind, bytes(body)), metadata, run_id=run_id, user_id=user_id
        )
        return Opened(stored, found)

    # -- pending writes ------------------------------------------------------------------------------------

    def write(self, lane: Lane, checkpoint_id: str, write: StoredWrite, made: Made) -> tuple[Any, ...]:
        """The values of `WRITE_COLUMNS`.

        Args:
            made: its value, cut.
        """
        address = (lane.ns, checkpoint_id, write.task_id, write.idx, write.task_path, write.channel)
        place = _write_place(lane.tenant, lane.thread_id, address)
        entries = write_entries(made.entries)
        if self._seal.sealed:
            return (*address, SEALED, self._seal.close(place, pack(made.kind, entries)), b"")
        return (*address, made.kind, entries, self._seal.check(place, pack(made.kind, entries)))

    def open_write(self, thread: Thread, row: Any) -> StoredWrite:
        """What a row of `WRITE_COLUMNS` says; its value is a `Rope` without blobs.

        Raises:
            VaultError: it is damaged, or not sealed as it should be.
        """
        _, checkpoint_id, task_id, idx, task_path, channel, kind, value, digest = row
        what = f"a write to channel {channel!r} of checkpoint {checkpoint_id}"
        place = _write_place(thread.tenant, thread.id, row[:6])
        try:
            if self._sealed(thread, kind, what):
                name, value = unpack(self._seal.open(place, bytes(value)))
                kind = name.decode()
            elif self._seal.check(place, pack(kind, value)) != bytes(digest):
                raise Damaged("the checksum does not match")
            rope = Rope(kind, read_entries(bytes(value)), what=what)
        except (Damaged, ValueError, TypeError) as err:
            raise _damaged(thread, what, err) from None
        return StoredWrite(task_id, task_path, idx, channel, rope)

    def _sealed(self, thread: Thread, kind: str, what: str) -> bool:
        """Whether a row is sealed, as it should be or not at all."""
        if (kind == SEALED) != self._seal.sealed:
            raise VaultError(
                f"{what} of thread {thread.id!r} is encrypted: open the saver with encryption=KEY"
                if kind == SEALED
                else f"{what} of thread {thread.id!r} is not encrypted and is refused: an encrypted saver reads only "
                "what it wrote itself"
            )
        return self._seal.sealed


def _slots(packed: bytes) -> dict[str, Slot]:
    parts = unpack(packed)
    return {
        parts[i].decode(errors="surrogateescape"): Slot(
            parts[i + 1].decode(errors="surrogateescape"), parts[i + 2].decode(), read_entries(parts[i + 3])
        )
        for i in range(0, len(parts), 4)
    }


def _checkpoint_place(tenant: str, thread: str, address: Sequence[Any]) -> bytes:
    return pack("checkpoint", tenant, thread, *(part or "" for part in address))


def _write_place(tenant: str, thread: str, address: Sequence[Any]) -> bytes:
    return pack("write", tenant, thread, *map(str, address))


def _damaged(thread: Thread, what: str, err: Exception) -> VaultError:
    return VaultError(
        f"thread {thread.id!r} is damaged at {what}: {err}; restore a backup, or continue the thread from another "
        "checkpoint"
    )

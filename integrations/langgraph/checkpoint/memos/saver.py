"""MemOSSaver: LangGraph's checkpoints in a MemOS vault."""

from __future__ import annotations

import asyncio
import builtins
import os
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph.checkpoint.memos import codec
from langgraph.checkpoint.memos.codec import Codec
from langgraph.checkpoint.memos.elements import Elements, Pins
from langgraph.checkpoint.memos.pruning import needed
from langgraph.checkpoint.memos.serde import StrictSerializer
from langgraph.checkpoint.memos.sweeper import TTLSweeper
from memos_core.cube import ANY_USER
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS
from memos_core.vault.checkpoints import Bone, Lane, StoredCheckpoint, StoredWrite
from memos_core.vault.sealing import key_from_environment

_MOVED_ON = ("loop", "update")
_VIEWS = 500  # views of users' threads that are kept

# For `on_conflict="error"`: the older checkpoints that this run (a task, and what it starts) named by their id.
_named: ContextVar[Mapping[tuple[str, str], str] | None] = ContextVar("memos_named", default=None)
_MOST_NAMED = 100


class MemOSSaver(TTLSweeper, BaseCheckpointSaver[str]):
    """Checkpoints of LangGraph threads in a MemOS vault, with the sync and the async methods on one class.

    The view isolates threads: no saver sees another tenant's, and one over a user's view sees and makes only
    that user's; over the operator's view, the application answers for who asks for which thread. Each message
    (or large element of a list or dict) of a thread is stored once; a checkpoint refers to it. Nothing is
    pickled, and nothing is imported because the database says so: an instance of a data class of your own comes
    back as one where its module is loaded, else as the plain data it was stored as (see `StrictSerializer`).

    When a graph's state moves on, the view's scheduler is told, so that it prepares the user's next turn. The
    user is the view's, or else `config["configurable"]["user_id"]`.

    Args:
        memos: an open view. It stays yours: closing it is up to you.
        serde: another serializer. `langgraph`'s `EncryptedSerializer` works.
        allowed_msgpack_modules: classes, or (module, name) pairs: then these and the safe ones are rebuilt, and no
            others.
        ttl: `{"default_ttl": minutes}` makes a thread expire when nothing was put into it for so long, and with
            `"refresh_on_read"` (the default) nothing read from it either. What has expired is not seen any more;
            `sweep_ttl` removes it, which `start_ttl_sweeper` does every `"sweep_interval_minutes"` (5).
        on_conflict: "error" refuses a step that continues from a checkpoint from which another run has continued
            meanwhile. A run that was started with the `checkpoint_id` of an older one forks on purpose, and may.
            "fork" is LangGraph's own way: both are stored, and the later one is what the thread goes on with.
        encryption: a key of 16, 24 or 32 bytes, or True for the one in `LANGGRAPH_AES_KEY`: values, metadata and
            the checkpoints themselves are encrypted (AES-GCM), and rows that are not, or that were changed or
            moved, are refused.

    Raises:
        InvalidArgument: `memos` is no open MemOS, or an option cannot be used. MissingExtra: encryption without
            the package `cryptography`.
    """

    def __init__(
        self,
        memos: MemOS,
        *,
        serde: SerializerProtocol | None = None,
        allowed_msgpack_modules: Any = None,
        ttl: Mapping[str, Any] | None = None,
        on_conflict: Literal["fork", "error"] = "fork",
        encryption: bytes | bool = False,
    ) -> None:
        if not isinstance(memos, MemOS):
            name = type(self).__name__
            raise InvalidArgument(
                f"memos must be an open MemOS, got {memos!r}; for a URL use {name}.from_conn_string"
            )
        if serde is not None and allowed_msgpack_modules is not None:
            raise InvalidArgument(
                "allowed_msgpack_modules belongs to the default serializer; give it to your serde instead"
            )
        if on_conflict not in ("fork", "error"):
            raise InvalidArgument(f"on_conflict must be 'fork' or 'error', got {on_conflict!r}")
        BaseCheckpointSaver.__init__(self, serde=serde or StrictSerializer(allowed_msgpack_modules))
        TTLSweeper.__init__(self, ttl)
        self.memos = memos
        self._alone = on_conflict == "error"
        self._table = memos.vault.checkpoints
        if encryption is not False:
            self._table = self._table.encrypted(key_from_environment() if encryption is True else encryption)
        self._known_codec: Codec | None = None
        self._views: dict[tuple[str | None, str], MemOS] = {}

    @classmethod
    @contextmanager
    def from_conn_string(
        cls, url: str | os.PathLike[str], *, tenant: str = "default", **options: Any
    ) -> Iterator[Self]:
        """Open a vault for checkpoints, and close it at the end of the `with` block.

        Args:
            url: what `MemOS.open` takes: a folder, a `.db` file, `sqlite:///PATH`, `:memory:` or
                `postgresql://USER@HOST/DATABASE`.
            tenant: whose threads. options: those of the class.

        Raises:
            InvalidArgument, VaultError, VaultNewer: see `MemOS.open`.
        """
        with MemOS.open(url, tenant=tenant, embedder=None) as memos:
            saver = cls(memos, **options)
            try:
                yield saver
            finally:
                saver.stop_ttl_sweeper()

    def setup(self) -> None:
        """Nothing is left to do: opening the vault made its tables, or brought them to this version. For the official
        savers' sake."""

    @property
    def _codec(self) -> Codec:
        """For the serializer of now: `with_allowlist` makes a copy of this saver with another. A new one after an
        erasure: it remembers messages."""
        known, forgotten = self._known_codec, self._table.forgotten
        if known is None or known.serde is not self.serde or known.forgotten != forgotten:
            elements = Elements(self.serde, self._table.cutter)
            known = self._known_codec = Codec(self.serde, elements, forgotten)
        return known

    @property
    def _tenant(self) -> str:
        """Whose threads: the tenant's, or of a view that has a user, that user's alone."""
        scope = self.memos.scope
        return scope.tenant if scope.user in (None, ANY_USER) else f"{scope.tenant}\x1f{scope.user}"

    def sweep_ttl(self) -> int:
        """Remove the threads that have expired, whoever's they are.

        Returns:
            How many.
        """
        return self._table.sweep_expired()

    # -- read ----------------------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the latest of its thread and namespace.

        Returns:
            It, with its pending writes in `writes_sort_key` order, or None.

        Raises:
            InvalidArgument: no thread_id. VaultError: what is stored is damaged.
        """
        lane, id_ = codec.lane_of(config, self._tenant), codec.checkpoint_id_of(config)
        return self._noted(lane, id_, self._get(lane, id_))

    def _get(self, lane: Lane, id_: str | None) -> CheckpointTuple | None:
        known = self._codec
        pins = known.elements.pins()
        found = self._table.get(lane, id_, skip=pins.skip, renew=self.read_ttl)
        return known.to_tuples([found], pins)[0] if found else None

    def _noted(self, lane: Lane, id_: str | None, found: CheckpointTuple | None) -> CheckpointTuple | None:
        """Note that this run named a checkpoint by its id: it may fork from it. Not where that is the latest, which
        LangGraph looks for next: to continue from the latest is no fork."""
        if self._alone and found is not None and not lane.ns:
            thread, named = (lane.tenant, lane.thread_id), _named.get() or {}
            if id_ is not None:
                _named.set({**dict(list(named.items())[-_MOST_NAMED:]), thread: id_})
            elif named.get(thread) == found.checkpoint["id"]:
                _named.set({other: at for other, at in named.items() if other != thread})
        return found

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first. Other methods may be called while it runs.

        Args:
            config: the thread, and the namespace and checkpoint where it names them; None: every thread.
            filter: metadata that must be equal; see `codec.metadata_filter`.
            before: only checkpoints older than the one this config names.
            limit: how many at most.

        Raises:
            InvalidArgument: no thread_id in `config`, or a filter that is no JSON.
        """
        known = self._codec
        pins = known.elements.pins()
        for page in self._pages(config, filter, before, limit, pins):
            yield from known.to_tuples(page, pins)

    def _pages(
        self,
        config: RunnableConfig | None,
        filter: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
        pins: Pins,
    ) -> Iterator[builtins.list[StoredCheckpoint]]:
        wanted = codec.wanted_of(config, before, self._tenant)
        return self._table.scan(wanted, accept=codec.metadata_filter(filter), limit=limit, skip=pins.skip)

    # -- write ---------------------------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, in one transaction: when this returns, all of it is on the disk.

        Args:
            config: names the thread and namespace, and as "checkpoint_id" the parent.
            checkpoint: its `channel_values` come back exactly as given, also those not in `new_versions`.
            metadata: kept whole; the config's own metadata is merged in, as the official savers do.
            new_versions: the channels that changed since the parent.

        Returns:
            The config that names the stored checkpoint.

        Raises:
            InvalidArgument: no thread_id; a channel value or metadata that cannot be stored (the message
                names it). Nothing is stored then.
        """
        lane = codec.lane_of(config, self._tenant)
        view = self._view_of_turn(config, lane.thread_id)
        values = checkpoint["channel_values"]
        numbers = checkpoint.get("channel_versions", {})
        versions = {channel: str(numbers.get(channel, "")) for channel in values}
        full_metadata = get_checkpoint_metadata(config, metadata)
        run_id, user_id = full_metadata.get("run_id"), full_metadata.get("user_id")
        stored = StoredCheckpoint(
            lane,
            checkpoint["id"],
            codec.checkpoint_id_of(config),
            self._body(checkpoint),
            codec.dump_metadata(full_metadata),
            run_id=None if run_id is None else str(run_id),
            user_id=user_id if isinstance(user_id, str) and user_id else None,
        )
        changed: Sequence[str] = [channel for channel in values if channel in new_versions]
        while True:
            stored.values.update({ch: self._codec.dump(ch, values[ch]) for ch in changed})
            # What the parent does not have either comes back, and is sent along the second time.
            changed = self._table.put(stored, versions, ttl=self.ttl, alone=self._must_be_alone(stored))
            if not changed:
                break
        if view is not None and lane.ns == "" and full_metadata.get("source") in _MOVED_ON:
            view.turn_finished()
        return codec.config_of(codec.configurable_of(config)["thread_id"], lane.ns, checkpoint["id"])

    def _body(self, checkpoint: Checkpoint) -> tuple[str, bytes]:
        body = {k: v for k, v in checkpoint.items() if k != "channel_values"}
        return self._codec.dump_whole("(checkpoint)", body)

    def _must_be_alone(self, stored: StoredCheckpoint) -> bool:
        """Whether no other run may have continued from this checkpoint's parent: not where this run named it, or in
        a subgraph of a run that named one."""
        if not self._alone:
            return False
        lane = stored.lane
        named = (_named.get() or {}).get((lane.tenant, lane.thread_id))
        return named is None or (not lane.ns and named != stored.parent_id)

    def _view_of_turn(self, config: RunnableConfig, thread_id: str) -> MemOS | None:
        """The view whose turn this is, for the scheduler; None where it would be every user's."""
        scope = self.memos.scope
        user = None
        if scope.user in (None, ANY_USER):
            user_id = codec.configurable_of(config).get("user_id")
            user = None if user_id in (None, "") else codec.text_id(user_id, "user_id")
        if ANY_USER in (user, user or scope.user):
            return None
        view = self._views.get((user, thread_id))
        if view is None:
            session = None if scope.session else thread_id
            view = self.memos.scoped(user=user, session=session, adapter="langgraph")
            if len(self._views) >= _VIEWS:
                self._views.clear()
            self._views[user, thread_id] = view
        return view

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote, pending on the checkpoint that `config` names, in one transaction.

        A write that is there already stays; LangGraph's special writes (error, interrupt, …) are replaced.

        Raises:
            InvalidArgument: no thread_id or checkpoint_id, or a value that cannot be stored.
        """
        lane = codec.lane_of(config, self._tenant)
        checkpoint_id = codec.text_id(codec.checkpoint_id_of(config), "checkpoint_id")
        rows = [
            StoredWrite(
                task_id,
                task_path,
                WRITES_IDX_MAP.get(channel, idx),
                channel,
                self._codec.dump(channel, value),
            )
            for idx, (channel, value) in enumerate(writes)
        ]
        self._table.put_writes(lane, checkpoint_id, rows, ttl=self.ttl)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The version after `current`, in the official savers' format: a number of 32 digits, a dot, and a
        random part that tells branches apart."""
        last = current if isinstance(current, int) else int(current.split(".")[0]) if current else 0
        return f"{last + 1:032}.{random.random():016}"  # noqa: S311 (tells apart, does not protect)

    # -- remove and copy -----------------------------------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        """Remove every checkpoint, value and write of a thread. One that does not exist is no error."""
        self._table.delete_thread(self._tenant, codec.text_id(thread_id, "thread_id"))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints whose metadata has one of these run ids, with their writes."""
        self._table.delete(self._table.of_runs(self._tenant, [str(run_id) for run_id in run_ids]))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread whole: every namespace, checkpoint, value and write, with its ids and parents.

        Raises:
            InvalidArgument: the target has checkpoints already.
        """
        source = codec.text_id(source_thread_id, "source_thread_id")
        target = codec.text_id(target_thread_id, "target_thread_id")
        if not self._table.copy_thread(self._tenant, source, target, ttl=self.ttl):
            raise InvalidArgument(
                f"target_thread_id: thread {target!r} has checkpoints already; delete it first"
            )

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove old checkpoints of threads.

        Args:
            thread_ids: which threads; those that do not exist are no error.
            strategy: "keep_latest" keeps the latest checkpoint of each namespace, and the ancestors from
                which its delta channels are rebuilt; "delete" (or "delete_all") keeps nothing.

        Raises:
            InvalidArgument: another strategy.
        """
        if strategy not in ("keep_latest", "delete", "delete_all"):
            raise InvalidArgument(f"strategy must be 'keep_latest' or 'delete', got {strategy!r}")
        for thread_id in thread_ids:
            if strategy != "keep_latest":
                self.delete_thread(thread_id)
                continue
            bones = self._table.bones(self._tenant, codec.text_id(thread_id, "thread_id"))
            keep = needed(bones, self._delta_channels)
            self._table.delete([(b.lane, b.id) for b in bones if (b.lane, b.id) not in keep])

    def _delta_channels(self, head: Bone) -> set[str]:
        """The delta channels that have been written up to a checkpoint."""
        counters = codec.load_metadata(head.metadata).get("counters_since_delta_snapshot") or {}
        if not counters:
            return set()
        where = f"checkpoint {head.id} of thread {head.lane.thread_id!r}"
        return set(counters) & set(self._codec.load_body(head.body, where).get("channel_versions", {}))

    # -- the same, async: each call runs in a worker thread ------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async form of `get_tuple`."""
        lane, id_ = codec.lane_of(config, self._tenant), codec.checkpoint_id_of(config)
        found = await asyncio.to_thread(self._get, lane, id_)
        return self._noted(lane, id_, found)  # here: what a worker thread notes is not seen by this task

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Async form of `list`."""
        known = self._codec
        pins = known.elements.pins()
        pages = self._pages(config, filter, before, limit, pins)

        def next_page() -> builtins.list[CheckpointTuple] | None:
            page = next(pages, None)
            return None if page is None else known.to_tuples(page, pins)

        while (page := await asyncio.to_thread(next_page)) is not None:
            for found in page:
                yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Async form of `put`."""
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Async form of `put_writes`."""
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """Async form of `delete_thread`."""
        await asyncio.to_thread(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Async form of `delete_for_runs`."""
        await asyncio.to_thread(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Async form of `copy_thread`."""
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Async form of `prune`."""
        await asyncio.to_thread(lambda: self.prune(thread_ids, strategy=strategy))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Async form of `get_delta_channel_history`."""
        return await asyncio.to_thread(
            lambda: self.get_delta_channel_history(config=config, channels=channels)
        )


class AsyncMemOSSaver(MemOSSaver):
    """`MemOSSaver` under the name that async code looks for; only opening and `setup` differ."""

    @classmethod
    @asynccontextmanager
    async def from_conn_string(  # type: ignore[override]
        cls, url: str | os.PathLike[str], *, tenant: str = "default", **options: Any
    ) -> AsyncIterator[Self]:
        """Async form of `MemOSSaver.from_conn_string`, for `async with`."""
        memos = await asyncio.to_thread(lambda: MemOS.open(url, tenant=tenant, embedder=None))
        try:
            saver = cls(memos, **options)
            try:
                yield saver
            finally:
                await asyncio.to_thread(saver.stop_ttl_sweeper)
        finally:
            await asyncio.to_thread(memos.close)

    async def setup(self) -> None:  # type: ignore[override]
        """Nothing is left to do; see `MemOSSaver.setup`."""

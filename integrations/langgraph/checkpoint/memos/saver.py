"""MemOSSaver: LangGraph's checkpoints in a MemOS vault."""

from __future__ import annotations

import asyncio
import builtins
import json
import os
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

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
from langgraph.checkpoint.memos.pruning import needed
from memos_core.cube import ANY_USER
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS
from memos_core.vault.checkpoints import Bone, CheckpointTable, StoredCheckpoint, StoredWrite

_MOVED_ON = ("loop", "update")


class MemOSSaver(BaseCheckpointSaver[str]):
    """Checkpoints of LangGraph threads in a MemOS vault, with the sync and the async methods on one class.

    The view isolates threads: no saver sees another tenant's, and one over a user's view sees and makes only
    that user's; over the operator's view, the application answers for who asks for which thread. A checkpoint
    is stored with the values that changed; the others are references to what its parent stored. Nothing is
    pickled, and only types that are known to be safe are rebuilt: an instance of a class of your own comes
    back as the plain data it was stored as, unless `allowed_msgpack_modules` names it.

    When a graph's state moves on, the view's scheduler is told, so that it prepares the user's next turn. The
    user is the view's, or else `config["configurable"]["user_id"]`.

    Args:
        memos: an open view. It stays yours: closing it is up to you.
        serde: another serializer. `langgraph`'s `EncryptedSerializer` works.
        allowed_msgpack_modules: classes, or (module, name) pairs, that may be rebuilt from a checkpoint.

    Raises:
        InvalidArgument: `memos` is no open MemOS, or both `serde` and `allowed_msgpack_modules` are given.
    """

    def __init__(
        self, memos: MemOS, *, serde: SerializerProtocol | None = None, allowed_msgpack_modules: Any = None
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
        super().__init__(serde=serde or codec.strict_serializer(allowed_msgpack_modules))
        self.memos = memos

    @classmethod
    @contextmanager
    def from_conn_string(
        cls, url: str | os.PathLike[str], *, tenant: str = "default", serde: SerializerProtocol | None = None
    ) -> Iterator[Self]:
        """Open a vault for checkpoints, and close it at the end of the `with` block.

        Args:
            url: what `MemOS.open` takes: a folder, a `.db` file, `sqlite:///PATH` or `:memory:`.
            tenant: whose threads. serde: see the class.

        Raises:
            InvalidArgument, VaultError, VaultNewer: see `MemOS.open`.
        """
        with MemOS.open(url, tenant=tenant, embedder=None) as memos:
            yield cls(memos, serde=serde)

    def setup(self) -> None:
        """Nothing is left to do: opening the vault made its tables. For the official savers' sake."""

    @property
    def _table(self) -> CheckpointTable:
        return self.memos.vault.checkpoints

    @property
    def _tenant(self) -> str:
        """Whose threads: the tenant's, or of a view that has a user, that user's alone."""
        scope = self.memos.scope
        return scope.tenant if scope.user in (None, ANY_USER) else f"{scope.tenant}\x1f{scope.user}"

    # -- read ----------------------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the latest of its thread and namespace.

        Returns:
            It, with its pending writes in `writes_sort_key` order, or None.

        Raises:
            InvalidArgument: no thread_id. VaultError: what is stored is damaged.
        """
        found = self._table.get(codec.lane_of(config, self._tenant), codec.checkpoint_id_of(config))
        return codec.to_tuple(self.serde, found) if found else None

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
        for page in self._pages(config, filter, before, limit):
            yield from page

    def _pages(
        self,
        config: RunnableConfig | None,
        filter: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Iterator[builtins.list[CheckpointTuple]]:
        wanted = codec.wanted_of(config, before, self._tenant)
        for page in self._table.scan(wanted, accept=codec.metadata_filter(filter), limit=limit):
            yield [codec.to_tuple(self.serde, stored) for stored in page]

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
        stored = StoredCheckpoint(
            lane,
            checkpoint["id"],
            codec.checkpoint_id_of(config),
            codec.dump(
                self.serde, "(checkpoint)", {k: v for k, v in checkpoint.items() if k != "channel_values"}
            ),
            codec.dump_metadata(full_metadata),
        )
        run_id = full_metadata.get("run_id")
        changed: Sequence[str] = [channel for channel in values if channel in new_versions]
        while True:
            stored.values.update(
                {channel: codec.dump(self.serde, channel, values[channel]) for channel in changed}
            )
            # What the parent does not have either comes back, and is sent along the second time.
            changed = self._table.put(stored, versions, run_id=str(run_id) if run_id is not None else None)
            if not changed:
                break
        if view is not None and lane.ns == "" and full_metadata.get("source") in _MOVED_ON:
            view.turn_finished()
        return codec.config_of(codec.configurable_of(config)["thread_id"], lane.ns, checkpoint["id"])

    def _view_of_turn(self, config: RunnableConfig, thread_id: str) -> MemOS | None:
        """The view whose turn this is, for the scheduler; None where it would be every user's."""
        scope = self.memos.scope
        user = None
        if scope.user in (None, ANY_USER):
            user_id = codec.configurable_of(config).get("user_id")
            user = None if user_id in (None, "") else codec.text_id(user_id, "user_id")
        if ANY_USER in (user, user or scope.user):
            return None
        return self.memos.scoped(user=user, session=None if scope.session else thread_id, adapter="langgraph")

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
                codec.dump(self.serde, channel, value),
            )
            for idx, (channel, value) in enumerate(writes)
        ]
        self._table.put_writes(lane, checkpoint_id, rows)

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
        if not self._table.copy_thread(self._tenant, source, target):
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
        counters = json.loads(head.metadata).get("counters_since_delta_snapshot") or {}
        stored = self._table.get(head.lane, head.id) if counters else None
        if stored is None:
            return set()
        checkpoint = codec.load(
            self.serde, stored.body, f"checkpoint {head.id} of thread {head.lane.thread_id!r}"
        )
        return set(counters) & set(checkpoint.get("channel_versions", {}))

    # -- the same, async: each call runs in a worker thread ------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async form of `get_tuple`."""
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Async form of `list`."""
        pages = self._pages(config, filter, before, limit)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
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
        cls, url: str | os.PathLike[str], *, tenant: str = "default", serde: SerializerProtocol | None = None
    ) -> AsyncIterator[Self]:
        """Async form of `MemOSSaver.from_conn_string`, for `async with`."""
        memos = await asyncio.to_thread(lambda: MemOS.open(url, tenant=tenant, embedder=None))
        try:
            yield cls(memos, serde=serde)
        finally:
            await asyncio.to_thread(memos.close)

    async def setup(self) -> None:  # type: ignore[override]
        """Nothing is left to do; see `MemOSSaver.setup`."""

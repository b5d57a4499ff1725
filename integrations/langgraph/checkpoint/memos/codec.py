"""Between LangGraph's dictionaries and stored checkpoints: addresses, metadata, filters, bytes."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph.checkpoint.memos.elements import Elements, Pins
from langgraph.checkpoint.memos.paths import where_it_fails
from memos_core.errors import InvalidArgument, VaultError
from memos_core.vault.checkpoints import Lane, StoredCheckpoint, Wanted
from memos_core.vault.chunking import Made, Typed
from memos_core.vault.chunkstore import Rope

T = TypeVar("T")


def configurable_of(config: RunnableConfig | None) -> Mapping[str, Any]:
    """The "configurable" part of a config.

    Raises:
        InvalidArgument: there is none.
    """
    found = (config or {}).get("configurable")
    if not isinstance(found, Mapping):
        raise InvalidArgument(
            'config must hold {"configurable": {"thread_id": …}}; pass it to invoke or stream'
        )
    return found


def text_id(value: Any, name: str) -> str:
    """An id as text; numbers and UUIDs are taken by their `str`.

    Raises:
        InvalidArgument: it is missing, blank, or no valid text.
    """
    text = "" if value is None else str(value)
    if not text.strip():
        raise InvalidArgument(f'{name} is missing: pass config={{"configurable": {{"{name}": …}}}}')
    if "\x00" in text or any("\ud800" <= ch <= "\udfff" for ch in text):
        raise InvalidArgument(f"{name} must be valid text without NUL, got {text!r}")
    return text


def lane_of(config: RunnableConfig | None, tenant: str) -> Lane:
    """Thread and namespace that a config names.

    Raises:
        InvalidArgument: without a usable thread_id.
    """
    found = configurable_of(config)
    return Lane(tenant, text_id(found.get("thread_id"), "thread_id"), str(found.get("checkpoint_ns") or ""))


def checkpoint_id_of(config: RunnableConfig | None) -> str | None:
    """The checkpoint that a config names, if it names one."""
    found = (config or {}).get("configurable", {}).get("checkpoint_id")
    return str(found) if found else None


def wanted_of(config: RunnableConfig | None, before: RunnableConfig | None, tenant: str) -> Wanted:
    """What a listing is about.

    Raises:
        InvalidArgument: a config without a usable thread_id.
    """
    if not config:
        return Wanted(tenant, before=checkpoint_id_of(before))
    ns = configurable_of(config).get("checkpoint_ns")
    lane = lane_of(config, tenant)
    at, below = checkpoint_id_of(config), checkpoint_id_of(before)
    return Wanted(tenant, lane.thread_id, None if ns is None else lane.ns, at, below)


def config_of(thread_id: Any, ns: str, checkpoint_id: str) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}


class Codec:
    """Values as bytes, with one serializer, cut by one cutter.

    Args:
        forgotten: see `CheckpointTable.forgotten`; as it was when `elements` remembered nothing.
    """

    def __init__(self, serde: SerializerProtocol, elements: Elements, forgotten: int = 0) -> None:
        self.serde = serde
        self.elements = elements
        self.forgotten = forgotten

    def dump(self, channel: str, value: Any) -> Typed | Made:
        """A channel value as bytes.

        Raises:
            InvalidArgument: the serializer has no form for it. The message names the channel and the place in it.
        """
        return self._named(channel, value, lambda: self.elements.dump(value)) or self.dump_whole(
            channel, value
        )

    def dump_whole(self, channel: str, value: Any) -> Typed:
        """The same, never cut."""
        kind, data = self._named(channel, value, lambda: self.serde.dumps_typed(value))
        return kind, bytes(data)

    def _named(self, channel: str, value: Any, dump: Callable[[], T]) -> T:
        try:
            return dump()
        except Exception as err:
            at, culprit = where_it_fails(self.serde, value)
            raise InvalidArgument(
                f"channel {channel!r}{f', at {at},' if at else ''} holds a {type(culprit).__name__} that cannot be "
                f"stored: {err}; put plain data, messages or pydantic models into the state, or pass serde="
            ) from err

    def load(self, rope: Rope, pins: Pins) -> Any:
        """The inverse of `dump`.

        Raises:
            VaultError: the stored bytes are damaged, or another serializer wrote them.
        """
        try:
            return self.elements.load(rope, pins)
        except VaultError:
            raise
        except Exception as err:
            raise _unreadable(rope.what, err) from err

    def load_body(self, body: Typed, where: str) -> dict[str, Any]:
        """A checkpoint without its values.

        Args:
            where: what is read, for the message.

        Raises:
            VaultError: see `load`.
        """
        try:
            found = self.serde.loads_typed(body)
        except Exception as err:
            raise _unreadable(where, err) from err
        if not isinstance(found, dict):
            raise VaultError(f"{where} is damaged: it holds a {type(found).__name__} instead of a checkpoint")
        return found

    def to_tuples(self, page: Sequence[StoredCheckpoint], pins: Pins) -> list[CheckpointTuple]:
        """Stored checkpoints as LangGraph wants them; see `_to_tuple`."""
        with _collected_once():
            return [self._to_tuple(stored, pins) for stored in page]

    def _to_tuple(self, stored: StoredCheckpoint, pins: Pins) -> CheckpointTuple:
        """A stored checkpoint as LangGraph wants it.

        Raises:
            VaultError: it is damaged; the message names the channel.
        """
        lane = stored.lane
        checkpoint = self.load_body(stored.body, f"checkpoint {stored.id} of thread {lane.thread_id!r}")
        checkpoint["channel_values"] = {
            channel: self.load(cast(Rope, value), pins) for channel, value in stored.values.items()
        }
        writes = [(w.task_id, w.channel, self.load(cast(Rope, w.value), pins)) for w in stored.writes]
        return CheckpointTuple(
            config=config_of(lane.thread_id, lane.ns, stored.id),
            checkpoint=cast(Checkpoint, checkpoint),
            metadata=cast(CheckpointMetadata, load_metadata(stored.metadata)),
            parent_config=config_of(lane.thread_id, lane.ns, stored.parent_id) if stored.parent_id else None,
            pending_writes=writes,
        )


@contextmanager
def _collected_once() -> Iterator[None]:
    """Many messages made at once set off the garbage collector many times, which takes most of the time and finds
    nothing. So it looks at them once, afterwards."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _unreadable(what: str, err: Exception) -> VaultError:
    return VaultError(f"{what} cannot be read: {err}; it is damaged, or was written with another serde=")


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON.

    Raises:
        InvalidArgument: a value is no JSON. The message names its key.
    """
    parts = []
    for key, value in metadata.items():
        try:
            parts.append(f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}")
        except (TypeError, ValueError, RecursionError) as err:
            raise InvalidArgument(f"metadata {key!r} must be JSON: {err}") from None
    return "{" + ",".join(parts) + "}"


def load_metadata(stored: str) -> dict[str, Any]:
    """The inverse of `dump_metadata`.

    Raises:
        VaultError: it is damaged.
    """
    try:
        found = json.loads(stored)
    except ValueError as err:
        raise VaultError(f"the metadata of a checkpoint is damaged: {err}") from None
    return dict(found)


def metadata_filter(wanted: Mapping[str, Any] | None) -> Callable[[str], bool] | None:
    """A test of stored metadata: every key of `wanted` has an equal value. JSON equality: True is not 1,
    objects are equal whatever the order of their keys, and None equals a missing key.

    Raises:
        InvalidArgument: a value is no JSON. (Other objects, such as a UUID, count as their `str`.)
    """
    if not wanted:
        return None
    try:
        exact: dict[str, Any] = json.loads(json.dumps(dict(wanted), default=str))
    except (TypeError, ValueError, RecursionError) as err:
        raise InvalidArgument(f"filter must be JSON: {err}") from None

    def accept(stored: str) -> bool:
        metadata = load_metadata(stored)
        return all(same_json(metadata.get(key), value) for key, value in exact.items())

    return accept


def same_json(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal, booleans told from numbers."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_json, a, b))
    return bool(a == b)

"""Between LangGraph's dictionaries and stored checkpoints: addresses, metadata, filters, bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from memos_core.errors import InvalidArgument, VaultError
from memos_core.vault.checkpoints import Lane, StoredCheckpoint, Typed, Wanted


def strict_serializer(allowed_msgpack_modules: Any = None) -> SerializerProtocol:
    """LangGraph's serializer, without pickle, rebuilding only types that are known to be safe.

    Args:
        allowed_msgpack_modules: further types it may rebuild, as classes or (module, name) pairs; True allows
            all, which imports whatever the database names.
    """
    return JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=allowed_msgpack_modules)


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


def dump(serde: SerializerProtocol, channel: str, value: Any) -> Typed:
    """A channel value as bytes.

    Raises:
        InvalidArgument: the serializer has no form for it. The message names the channel.
    """
    try:
        kind, data = serde.dumps_typed(value)
    except Exception as err:
        raise InvalidArgument(
            f"channel {channel!r} holds a {type(value).__name__} that cannot be stored: {err}; "
            "put plain data, messages or pydantic models into the state, or pass serde="
        ) from err
    return kind, bytes(data)


def load(serde: SerializerProtocol, stored: Typed, what: str) -> Any:
    """The inverse of `dump`.

    Args:
        what: what is read, for the message.

    Raises:
        VaultError: the stored bytes are damaged, or another serializer wrote them.
    """
    try:
        return serde.loads_typed(stored)
    except Exception as err:
        raise VaultError(
            f"{what} cannot be read: {err}; it is damaged, or was written with another serde="
        ) from err


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


def to_tuple(serde: SerializerProtocol, stored: StoredCheckpoint) -> CheckpointTuple:
    """A stored checkpoint as LangGraph wants it.

    Raises:
        VaultError: it is damaged; the message names the channel.
    """
    lane = stored.lane
    where = f"checkpoint {stored.id} of thread {lane.thread_id!r}"
    checkpoint = load(serde, stored.body, where)
    if not isinstance(checkpoint, dict):
        raise VaultError(
            f"{where} is damaged: it holds a {type(checkpoint).__name__} instead of a checkpoint"
        )
    checkpoint["channel_values"] = {
        channel: load(serde, value, f"channel {channel!r} of {where}")
        for channel, value in stored.values.items()
    }
    writes = [
        (w.task_id, w.channel, load(serde, w.value, f"a write to channel {w.channel!r} of {where}"))
        for w in stored.writes
    ]
    return CheckpointTuple(
        config=config_of(lane.thread_id, lane.ns, stored.id),
        checkpoint=cast(Checkpoint, checkpoint),
        metadata=cast(CheckpointMetadata, load_metadata(stored.metadata)),
        parent_config=config_of(lane.thread_id, lane.ns, stored.parent_id) if stored.parent_id else None,
        pending_writes=writes,
    )

"""Builds plaintext cubes from what callers pass. Pure: nothing is stored here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError

from memos_core.cube import (
    Descriptive,
    Governance,
    Header,
    MemCube,
    Namespace,
    Origin,
    Plaintext,
    Scope,
    Source,
    StructureRegistry,
    dump_json,
    now,
    text_of,
    to_json,
    validation_message,
)
from memos_core.errors import InvalidArgument
from memos_core.reader import slot_of, structure_text

# The types of statements: of two that contradict, the older one holds no more.
_STATEMENTS = (None, "fact", "preference")
_CHANGEABLE = (
    "text",
    "semantic_type",
    "tags",
    "ttl",
    "priority",
    "sensitivity",
    "spoken_at",
    "valid_from",
    "valid_to",
)


def draft(
    content: Any,
    structures: StructureRegistry,
    *,
    scope: Scope,
    owner: str,
    text: str | None,
    namespace: Namespace,
    key: str,
    semantic_type: str | None,
    tags: Sequence[str],
    origin: Origin,
    ttl: timedelta | None,
    priority: int,
    sensitivity: Sequence[str],
    spoken_at: datetime | None,
    valid_from: datetime | None,
    valid_to: datetime | None,
    derived_from: Sequence[MemCube],
) -> MemCube:
    """A new cube; the arguments are those of `MemOS.cube`.

    Raises:
        InvalidArgument: see `MemOS.cube`.
    """
    moment = now()
    times = {"spoken_at": spoken_at, "valid_from": valid_from, "valid_to": valid_to}
    with _arguments():
        stated = text is not None and semantic_type in _STATEMENTS[1:]
        payload = _payload(
            content, text, times, structures, slots=semantic_type in _STATEMENTS, stated=stated
        )
        return MemCube(
            scope=scope,
            namespace=names(namespace, "namespace"),
            key=key,
            payload=payload,
            header=Header(
                descriptive=Descriptive(
                    created_at=moment,
                    updated_at=moment,
                    origin=origin,
                    semantic_type=semantic_type or (payload.structure or "fact").lower(),
                    tags=names(tags, "tags"),
                ),
                governance=Governance(
                    owner=owner,
                    expires_at=_expiry(ttl, moment),
                    ttl=ttl,
                    priority=priority,
                    sensitivity=names(sensitivity, "sensitivity"),
                ),
            ),
            derived_from=tuple(Source(id=c.id, version=c.version) for c in derived_from),
        )


def redraft(old: MemCube, content: Any, details: Mapping[str, Any], structures: StructureRegistry) -> MemCube:
    """The next version of a cube; the arguments are those of `MemOS.update`, what is not named stays.

    Raises:
        InvalidArgument: see `MemOS.update`.
    """
    payload = old.payload
    if not isinstance(payload, Plaintext):
        raise InvalidArgument(f"cube {old.id} is {payload.kind}, only plaintext cubes are updated by content")
    unknown = set(details) - set(_CHANGEABLE)
    if unknown:
        raise InvalidArgument(f"update cannot change {', '.join(sorted(unknown))}")
    descriptive, governance, moment = old.header.descriptive, old.header.governance, now()
    times = {
        name: details.get(name, getattr(payload, name)) for name in ("spoken_at", "valid_from", "valid_to")
    }
    with _arguments():
        if content is None:
            # Data of a structure that is not registered here stays what it is.
            text = details.get("text", payload.text)
            if payload.data is None and not str(text).strip():
                raise InvalidArgument("text must not be empty")
            slot = payload.slot
            if slot is not None and text != payload.text:
                slot = slot_of(payload.data if isinstance(payload.data, BaseModel) else None, text)
            new = Plaintext[Any].model_validate({**dict(payload), **times, "text": text, "slot": slot})
        else:
            slots = details.get("semantic_type", descriptive.semantic_type) in _STATEMENTS
            stated = payload.slot is not None  # it stays one, with whatever is noted beside it
            new = _payload(content, details.get("text"), times, structures, slots=slots, stated=stated)
        header = Header(
            descriptive=Descriptive.model_validate(
                {
                    **dict(descriptive),
                    "updated_at": moment,
                    "semantic_type": details.get("semantic_type", descriptive.semantic_type),
                    "tags": names(details.get("tags", descriptive.tags), "tags"),
                }
            ),
            governance=Governance.model_validate(
                {
                    **dict(governance),
                    "priority": details.get("priority", governance.priority),
                    "sensitivity": names(details.get("sensitivity", governance.sensitivity), "sensitivity"),
                    "expires_at": _expiry(details["ttl"], moment)
                    if "ttl" in details
                    else governance.expires_at,
                    "ttl": details.get("ttl", governance.ttl),
                }
            ),
            behaviour=old.header.behaviour,
        )
    return old.model_copy(update={"payload": new, "header": header})


def names(value: Sequence[str], argument: str) -> tuple[str, ...]:
    """A tuple of strings. A lone string is refused: it would be taken apart into its letters.

    Raises:
        InvalidArgument: it is a string, or no sequence.
    """
    if not isinstance(value, tuple | list) and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise InvalidArgument(f"{argument} must be a list or tuple of strings, got {value!r}")
    return tuple(value)


def _payload(
    content: Any,
    text: str | None,
    times: Mapping[str, datetime | None],
    structures: StructureRegistry,
    *,
    slots: bool,
    stated: bool,
) -> Plaintext[Any]:
    """Args:
    slots: the semantic type is one of statements. stated: a text beside other data is a statement too: the writer
        calls it a fact or a preference.
    """
    structure, version, data = None, None, None
    if isinstance(content, BaseModel):
        structure, version = structures.name_of(type(content))
        to_json(content)
        data, found = content, structure_text(content)
    elif isinstance(content, str):
        found = content
    else:
        dump_json(content, "content")
        data, found = content, text_of(content)
    searchable = found if text is None else text
    if isinstance(content, str) and not searchable.strip():
        raise InvalidArgument("content must not be empty")
    # What a person says in words may contradict what was said before; other data is nobody's statement.
    says = (slots and (stated or isinstance(content, str | BaseModel))) or hasattr(
        type(content), "memos_slot"
    )
    slot = slot_of(data if isinstance(data, BaseModel) else None, searchable) if says else None
    return Plaintext[Any](
        text=searchable, data=data, structure=structure, structure_version=version, slot=slot, **dict(times)
    )


def _expiry(ttl: timedelta | None, moment: datetime) -> datetime | None:
    if ttl is None:
        return None
    if not isinstance(ttl, timedelta) or ttl <= timedelta(0):
        raise InvalidArgument(f"ttl must be a positive timedelta, got {ttl!r}")
    try:
        return moment + ttl
    except OverflowError:
        raise InvalidArgument(f"ttl reaches beyond the year 9999, leave it out instead: {ttl!r}") from None


@contextmanager
def _arguments() -> Iterator[None]:
    """Turn pydantic's complaint about a value into one sentence of ours."""
    try:
        yield
    except ValidationError as err:
        raise InvalidArgument(validation_message(err)) from None

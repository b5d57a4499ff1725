"""Between a cube and what mem0 calls a memory: a text and a flat payload of fields.

A memory written here has mem0's own payload as its data: `{"data": text, **metadata, "role": …, "actor_id":
…, "expiration_date": …}`; what a statement extractor finds stays typed as long as it has no metadata. A cube
of any other shape (a `Preference`, a LangGraph item) is read the same way: the field that holds the cube's
text is the memory, the others are its metadata. Whose memory it is comes from the cube's scope, never from
its data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from mem0_memos.ids import ENTITY_IDS
from memos_core.cube import Fact, MemCube, Plaintext, Preference, StructureRegistry, dump_json
from memos_core.errors import InvalidArgument
from memos_core.reader import extract_statements, structure_text
from memos_core.retrieval import Hit
from memos_core.settle import has_ended, rewritten
from memos_core.vault import AuditRecord

TEXT = "data"
_SCOPE_PARTS = {"user_id": "user", "agent_id": "agent", "run_id": "session"}
_IDENTITY = frozenset((*ENTITY_IDS, "actor_id"))
_PROMOTED = (*ENTITY_IDS, "actor_id", "role", "attributed_to", "expiration_date")
# mem0 computes these itself, whatever the metadata says.
_COMPUTED = frozenset({TEXT, "hash", "updated_at", "text_lemmatized"})
_NOT_METADATA = frozenset({*_PROMOTED, *_COMPUTED, "created_at", "id"})
_EVENTS = {"write": "ADD", "update": "UPDATE", "delete": "DELETE"}

Payload = dict[str, Any]


# -- reading -----------------------------------------------------------------------------------------------


def payload_of(cube: MemCube) -> Payload:
    """The fields of a memory, as mem0 stores them and as its filters see them."""
    fields = _fields(cube)
    fields.pop(_text_field(fields, cube.text), None)
    created = fields.get("created_at")
    if not isinstance(created, str):
        created = said_at(cube).isoformat()
    return {
        **{key: value for key, value in fields.items() if key not in ENTITY_IDS and key not in _COMPUTED},
        **{
            name: value
            for name, part in _SCOPE_PARTS.items()
            if (value := getattr(cube.scope, part)) is not None
        },
        TEXT: cube.text,
        "hash": hashlib.md5(cube.text.encode(), usedforsecurity=False).hexdigest(),
        "created_at": created,
        "updated_at": cube.header.descriptive.updated_at.isoformat() if cube.version > 1 else created,
    }


def said_at(cube: MemCube) -> datetime:
    """When a memory was said: `timestamp` of `add`, else the time of the `add`."""
    spoken = cube.payload.spoken_at if isinstance(cube.payload, Plaintext) else None
    return (spoken or cube.header.descriptive.created_at).astimezone(UTC)


def item_of(cube: MemCube, payload: Payload | None = None) -> dict[str, Any]:
    """A memory as `get` returns it.

    Args:
        payload: its fields, where they are known.
    """
    payload = payload_of(cube) if payload is None else payload
    return {
        "id": cube.id,
        "memory": payload[TEXT],
        "hash": payload["hash"],
        "metadata": {key: value for key, value in payload.items() if key not in _NOT_METADATA} or None,
        "score": None,
        "created_at": payload["created_at"],
        "updated_at": payload["updated_at"],
        **{key: payload[key] for key in _PROMOTED if key in payload},
    }


def listed_item(cube: MemCube, payload: Payload) -> dict[str, Any]:
    """A memory as `get_all` returns it: without a score."""
    item = item_of(cube, payload)
    del item["score"]
    return item


def found_item(hit: Hit, payload: Payload, score: float, threshold: float | None) -> dict[str, Any]:
    """A memory as `search` returns it.

    Args:
        payload: its fields. score: its similarity. threshold: the one applied, to add `score_details`; None adds none.
    """
    item = {**item_of(hit.cube, payload), "score": score}
    if threshold is not None:
        item["score_details"] = {
            "semantic_score": hit.similarity,
            "bm25_score": hit.lexical or 0.0,
            "entity_boost": 0.0,
            "raw_score": hit.score,
            "max_possible_score": 1.0,
            "final_score": score,
            "threshold": threshold,
        }
    return item


def is_expired(payload: Mapping[str, Any], at: datetime | None = None) -> bool:
    """Whether the day of `expiration_date` is over, in UTC, at a moment; None is now."""
    value = payload.get("expiration_date")
    try:
        return bool(value) and date.fromisoformat(str(value)) < (at or datetime.now(UTC)).date()
    except ValueError:
        return False  # as in mem0: what is no date does not expire


def end_of(expiration_date: Any) -> datetime | None:
    """The moment at which a memory with this expiration date is over; None if it has none, or what is no date."""
    try:
        return datetime.combine(date.fromisoformat(str(expiration_date)), time(tzinfo=UTC)) + timedelta(
            days=1
        )
    except (ValueError, OverflowError):
        return None


def expiration_of(cube: MemCube) -> Any:
    """What a memory has as its expiration date; None for nothing."""
    return _fields(cube).get("expiration_date")


def is_over(cube: MemCube, at: datetime | None = None) -> bool:
    """Whether a memory holds no more at a moment, for another reason than its expiration date."""
    assert isinstance(cube.payload, Plaintext)
    return has_ended(cube, at) and cube.payload.valid_to != end_of(expiration_of(cube))


def revalidated(cube: MemCube, text: str, expiration_date: str | None, redated: bool) -> dict[str, Any]:
    """The validity of a memory that is changed, for `MemOS.update`: a new text it says from now on, and no longer than
    to its expiration date.

    Args:
        cube: as it is. text: what it shall say. expiration_date: the new one, if `redated`.
    """
    times, payload = rewritten(cube, text), cube.payload
    assert isinstance(payload, Plaintext)
    if redated and not is_over(cube):
        times["valid_to"] = end_of(expiration_date)
    elif "valid_to" in times:
        times["valid_to"] = end_of(expiration_of(cube))
    begins, ends = times.get("valid_from", payload.valid_from), times.get("valid_to", payload.valid_to)
    if begins and ends and begins > ends:
        times["valid_from"] = ends
    return times


def history_of(versions: Sequence[MemCube]) -> list[dict[str, Any]]:
    """The history of a memory that exists, from all its versions."""
    rows: list[dict[str, Any]] = []
    before: str | None = None
    last: Payload = {}
    ended: datetime | None = None
    for cube in versions:
        payload = payload_of(cube)
        said = {**payload, "updated_at": None}
        until = cube.payload.valid_to if isinstance(cube.payload, Plaintext) else None
        closed, last, ended = said == last and until != ended, said, until
        if closed:
            continue  # how long it holds was changed, by what another memory says
        event = "ADD" if cube.version == 1 else "UPDATE"
        row = _history_row(cube.id, cube.version, event, payload["created_at"], payload["updated_at"])
        rows.append({**row, "old_memory": before, "new_memory": cube.text, **_who(payload)})
        before = cube.text
    return rows


def history_of_deleted(records: Sequence[AuditRecord]) -> list[dict[str, Any]]:
    """The history of a memory that is gone, from the audit log: what happened and when, without any text.

    Args:
        records: of one cube, oldest first.
    """
    events = [r for r in records if r.action in _EVENTS]
    if not any(r.action == "delete" for r in events):
        return []
    created = events[0].at.isoformat()
    return [
        _history_row(r.cube_id, i, _EVENTS[r.action], created, r.at.isoformat())
        for i, r in enumerate(events, start=1)
    ]


def _history_row(memory_id: str, number: int, event: str, created_at: str, updated_at: str) -> dict[str, Any]:
    return {
        "id": str(uuid5(NAMESPACE_OID, f"{memory_id}/{number}")),
        "memory_id": memory_id,
        "old_memory": None,
        "new_memory": None,
        "event": event,
        "created_at": created_at,
        "updated_at": updated_at,
        "is_deleted": event == "DELETE",
        "actor_id": None,
        "role": None,
    }


def _who(payload: Payload) -> dict[str, Any]:
    return {"actor_id": payload.get("actor_id"), "role": payload.get("role")}


def _fields(cube: MemCube) -> Payload:
    if isinstance(cube.data, Fact | Preference):
        return {}  # all that they say follows from the text
    data = cube.json_data
    return dict(data) if isinstance(data, dict) else {}


def _text_field(fields: Payload, text: str) -> str:
    """The field that holds the cube's text; "data" where none does."""
    if fields.get(TEXT) == text:
        return TEXT
    return next((key for key, value in fields.items() if value == text), TEXT)


# -- writing -----------------------------------------------------------------------------------------------


def clean_metadata(metadata: Mapping[str, Any] | None) -> tuple[Payload, list[str]]:
    """The metadata a caller may set, and the names of the keys that say whose memory it is, which it may not.

    Raises:
        InvalidArgument: no dict, or not JSON.
    """
    if metadata is None:
        return {}, []
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(f"metadata must be a dict, got {type(metadata).__name__}")
    try:
        plain = to_jsonable_python(dict(metadata))  # as mem0's stores do it: a date becomes its text
    except PydanticSerializationError as err:
        raise InvalidArgument(f"metadata must be JSON: {err}") from None
    fields: Payload = json.loads(dump_json(plain, "metadata"))
    allowed = {key: value for key, value in fields.items() if key not in _IDENTITY and key not in _COMPUTED}
    return allowed, sorted(_IDENTITY & fields.keys())


def expiration(value: Any) -> str | None:
    """An expiration date as YYYY-MM-DD.

    Raises:
        InvalidArgument: neither None, a date, nor such a text.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.date().isoformat()
    try:
        return (value if isinstance(value, date) else date.fromisoformat(value)).isoformat()
    except (TypeError, ValueError):
        raise InvalidArgument(f"expiration_date must be a date as YYYY-MM-DD, got {value!r}") from None


def statement_content(statement: BaseModel, extra: Payload) -> Any:
    """The content of a memory made from a statement: typed, unless there is metadata, for which a type has no
    room."""
    if not extra:
        return statement
    text = structure_text(statement)
    if isinstance(statement, Fact | Preference):
        return {**extra, TEXT: text}
    fields = statement.model_dump(mode="json")
    fields.pop(_text_field(fields, text), None)
    return {**fields, **extra, TEXT: text}


def changed_content(cube: MemCube, text: str, metadata: Payload, structures: StructureRegistry) -> Any:
    """The content of a memory's next version. It keeps the shape it has; a typed one becomes plain data when
    it gets metadata.

    Args:
        cube: as it is. text: what it shall say. metadata: fields to add or replace.
        structures: validates typed content.
    """
    if isinstance(cube.data, Fact | Preference) and not metadata:
        return statement_of(text)
    fields = _fields(cube)
    field = _text_field(fields, cube.text)
    if isinstance(cube.data, BaseModel) and not metadata and field in fields:
        return structures.validate(type(cube.data), {**fields, field: text})
    if not fields and not metadata:
        return text
    created = {"created_at": fields["created_at"]} if "created_at" in fields else {}
    added = {key: value for key, value in metadata.items() if key != "created_at"}
    return {**fields, **added, **created, field: text}


def semantic_type(content: Any, before: MemCube) -> str:
    """The semantic type of a memory's next version: as before, unless it was its structure's name."""
    if isinstance(content, BaseModel) and before.semantic_type == type(before.data).__name__.lower():
        return type(content).__name__.lower()
    return before.semantic_type


def statement_of(text: str) -> Fact | Preference:
    """A statement as the type it is."""
    found = extract_statements(text)
    return found[0] if len(found) == 1 and found[0].statement == text else Fact(statement=text)

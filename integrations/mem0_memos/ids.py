"""user_id, agent_id and run_id: checked as mem0 checks them, at top level or in filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from mem0_memos.errors import ValidationError
from mem0_memos.filters import WILDCARD
from memos_core.errors import InvalidArgument

ENTITY_IDS = ("user_id", "agent_id", "run_id")
Ids = dict[str, str]


def entity_ids(user_id: Any = None, agent_id: Any = None, run_id: Any = None) -> Ids:
    """The ids that are given, as trimmed strings (a number becomes its text).

    Raises:
        InvalidArgument: an id is empty, holds white space, or is "*", which names nobody.
    """
    given = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
    return {name: _checked(name, value) for name, value in given.items() if value is not None}


def ids_to_write(user_id: Any, agent_id: Any, run_id: Any) -> Ids:
    """The ids of a new memory.

    Raises:
        ValidationError: none is given. InvalidArgument: see `entity_ids`.
    """
    ids = entity_ids(user_id, agent_id, run_id)
    if not ids:
        raise ValidationError(
            "At least one of 'user_id', 'agent_id', or 'run_id' must be provided.",
            "VALIDATION_001",
            {"provided_ids": {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}},
            "Please provide at least one identifier to scope the memory operation.",
        )
    return ids


def ids_to_read(
    filters: Mapping[str, Any] | None, top_level: Mapping[str, Any]
) -> tuple[Ids, dict[str, Any]]:
    """Whose memories a search or listing is about, and the rest of its filters.

    Args:
        filters: the call's `filters`. An id there may be "*" (any) beside one that names somebody. An id that all
            results must have because it stands in a condition of "AND" counts too, as callers of the hosted API
            write it.
        top_level: ids given as arguments of their own, as before 2.0.

    Raises:
        InvalidArgument: no id names anybody, an id is given twice with two values, or see `entity_ids`.
    """
    if filters is not None and not isinstance(filters, Mapping):
        raise InvalidArgument(f"filters must be a dict, got {type(filters).__name__}")
    rest = dict(filters or {})
    named = {name: rest.pop(name) for name in ENTITY_IDS if rest.get(name) not in (None, WILDCARD)}
    ids = entity_ids(**named)
    for name, value in entity_ids(**top_level).items():
        if ids.setdefault(name, value) != value:
            raise InvalidArgument(
                f"{name} is {value!r} as an argument and {ids[name]!r} in filters; pass it once"
            )
    rest = {key: _as_stored(key, value) for key, value in rest.items()}
    conjunction = rest.get("AND")
    for part in conjunction if not ids and isinstance(conjunction, list) else ():
        for name in ENTITY_IDS if isinstance(part, Mapping) else ():
            if isinstance(part.get(name), str) and part[name] != WILDCARD:
                ids.setdefault(name, _checked(name, part[name]))
    if not ids:
        raise InvalidArgument(
            "filters must contain at least one of: user_id, agent_id, run_id. "
            "Example: filters={'user_id': 'u1'}"
        )
    return ids, {key: value for key, value in rest.items() if key not in ENTITY_IDS or value is not None}


def _as_stored(key: Any, value: Any) -> Any:
    """A condition with the ids in it as they are stored: trimmed, and a number as its text."""
    if key in ("AND", "OR", "NOT") and isinstance(value, list):
        return [
            {k: _as_stored(k, v) for k, v in one.items()} if isinstance(one, Mapping) else one
            for one in value
        ]
    if key not in ENTITY_IDS:
        return value
    if isinstance(value, Mapping):
        return {operator: _as_stored(key, operand) for operator, operand in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_stored(key, one) for one in value]
    if isinstance(value, str):
        return value.strip()
    return value if isinstance(value, bool) or not isinstance(value, int | float | UUID) else str(value)


def _checked(name: str, value: Any) -> str:
    if isinstance(value, bool | Mapping | list | tuple | set):
        raise InvalidArgument(f"Invalid {name}: must be a text or a number, got {value!r:.80}.")
    text = str(value).strip()
    if not text:
        raise InvalidArgument(
            f"Invalid {name}: cannot be empty or whitespace-only. Provide a valid identifier."
        )
    if any(c.isspace() for c in text):
        raise InvalidArgument(
            f"Invalid {name}: cannot contain whitespace. Provide a valid identifier without spaces."
        )
    if text == WILDCARD:
        raise InvalidArgument(f"Invalid {name}: '*' stands for anybody. Provide the identifier of somebody.")
    return text

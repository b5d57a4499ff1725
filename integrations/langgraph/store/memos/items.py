"""Between LangGraph's items and cubes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langgraph.store.base import Item, PutOp, SearchItem, get_text_at_path

from langgraph.store.memos import filters
from memos_core.cube import MemCube, Plaintext, dump_json, text_of
from memos_core.errors import InvalidArgument
from memos_core.vault.items import StoredItem

ITEM = "item"


def name_of(op: PutOp) -> str:
    """How errors call the value of a put."""
    return f"value of {op.key!r} in {tuple(op.namespace)!r}"


def stored_value(op: PutOp) -> dict[str, Any]:
    """The value of a put as plain JSON, sharing nothing with what the caller holds.

    Raises:
        InvalidArgument: it is no mapping, or holds something that JSON has no form for. Names the key.
    """
    if not isinstance(op.value, Mapping):
        raise InvalidArgument(
            f"{name_of(op)} must be a mapping with string keys, got {type(op.value).__name__}"
        )
    value: dict[str, Any] = json.loads(dump_json(dict(op.value), name_of(op)))
    return value


def searched_text(op: PutOp, value: dict[str, Any], fields: Sequence[str] | None) -> str:
    """The text by which an item is found: "" where it is not to be found by a query.

    Args:
        op: its `index` says which fields count: False none, None those in `fields`, a list these.
        value: from `stored_value`. fields: the store's own; None takes `text_of` the whole value.
    """
    if op.index is False:
        return ""
    paths = fields if op.index is None else op.index
    if paths is None:
        text = text_of(value)
    else:
        texts = (
            text_of(value) if path == "$" else "\n".join(get_text_at_path(value, path)) for path in paths
        )
        text = "\n".join(found for found in texts if found)
    return text.replace("\x00", " ")  # PostgreSQL has no NUL in a text; in the value it stays


def is_searched(cube: MemCube) -> bool:
    """Whether a query may find a cube: whether there is anything to find it by."""
    return bool(cube.text.strip())


def seen_as_item(cube: MemCube) -> StoredItem:
    """A cube as the vault's items are."""
    payload, d = cube.payload, cube.header.descriptive
    return StoredItem(
        id=cube.id,
        version=cube.version,
        user=cube.scope.user or "",
        namespace=cube.namespace,
        key=cube.key,
        data=cube.json_data if isinstance(payload, Plaintext) else payload.model_dump(mode="json"),
        text=cube.text,
        created_at=d.created_at,
        updated_at=d.updated_at,
        ttl=cube.header.governance.ttl,
    )


def value_of(data: Any, text: str) -> dict[str, Any]:
    """What LangGraph sees of a cube: its JSON where that is an object, else its text."""
    return data if isinstance(data, dict) else {"text": text}


def condition(wanted: Mapping[str, Any], not_these: set[str]) -> Callable[[str, str, str], bool]:
    """A filter as a condition on stored rows: on the id, the text and the payload of each.

    Args:
        wanted: from a SearchOp, checked. not_these: ids that do not match.
    """
    # Most rows need not be parsed: what equals a text holds it, written just so.
    needles = [f"{_json(key)}:{_json(value)}" for key, value in wanted.items() if isinstance(value, str)]
    needles = [needle for needle in needles if not needle.startswith('"text":')]  # may be made from the text

    def accept(id_: str, text: str, payload: str) -> bool:
        return (
            id_ not in not_these
            and all(needle in payload for needle in needles)
            and (not wanted or filters.accepts(value_of(json.loads(payload).get("data"), text), wanted))
        )

    return accept


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def to_item(found: StoredItem) -> Item:
    """As LangGraph wants it."""
    return Item(
        value=value_of(found.data, found.text),
        key=found.key,
        namespace=found.namespace,
        created_at=found.created_at,
        updated_at=found.updated_at,
    )


def to_search_item(found: StoredItem, score: float | None = None) -> SearchItem:
    """As a search result."""
    return SearchItem(
        found.namespace,
        found.key,
        value_of(found.data, found.text),
        found.created_at,
        found.updated_at,
        score,
    )

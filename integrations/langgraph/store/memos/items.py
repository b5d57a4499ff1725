"""Between LangGraph's items and cubes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.store.base import Item, PutOp, SearchItem, get_text_at_path

from memos_core.cube import MemCube, Plaintext, dump_json, text_of
from memos_core.errors import InvalidArgument

ITEM = "item"


def stored_value(op: PutOp) -> dict[str, Any]:
    """The value of a put as plain JSON, sharing nothing with what the caller holds.

    Raises:
        InvalidArgument: it is no mapping, or holds something that JSON has no form for. Names the key.
    """
    name = f"value of {op.key!r} in {op.namespace!r}"
    if not isinstance(op.value, Mapping):
        raise InvalidArgument(f"{name} must be a mapping with string keys, got {type(op.value).__name__}")
    value: dict[str, Any] = json.loads(dump_json(dict(op.value), name))
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
    return text


def is_searched(cube: MemCube) -> bool:
    """Whether a query may find a cube: whether there is anything to find it by."""
    return bool(cube.text.strip())


def value_of(cube: MemCube) -> dict[str, Any]:
    """What LangGraph sees of a cube: its JSON where that is an object, else its text; of a KV cache or an
    adapter the description."""
    if not isinstance(cube.payload, Plaintext):
        return cube.payload.model_dump(mode="json")
    data = cube.json_data
    return data if isinstance(data, dict) else {"text": cube.text}


def to_item(cube: MemCube) -> Item:
    """A cube as an item."""
    d = cube.header.descriptive
    return Item(
        value=value_of(cube),
        key=cube.key,
        namespace=cube.namespace,
        created_at=d.created_at,
        updated_at=d.updated_at,
    )


def to_search_item(cube: MemCube, score: float | None = None) -> SearchItem:
    """A cube as a search result."""
    d = cube.header.descriptive
    return SearchItem(cube.namespace, cube.key, value_of(cube), d.created_at, d.updated_at, score)

"""Where in a value the part is that cannot be serialized."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from pydantic import BaseModel

_DEPTH = 50


def where_it_fails(serde: SerializerProtocol, value: Any) -> tuple[str, Any]:
    """The innermost part that the serializer refuses, as a path such as `[3].additional_kwargs['x']`, and the part.
    The path is empty where the value itself is refused, and not a part of it."""
    path = ""
    for _ in range(_DEPTH):
        for step, inner in _parts(value):
            if not _can(serde, inner):
                path, value = path + step, inner
                break
        else:
            break
    return path, value


def _can(serde: SerializerProtocol, value: Any) -> bool:
    try:
        serde.dumps_typed(value)
    except Exception:  # noqa: BLE001 - whatever it raises, it cannot
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", inner) for key, inner in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", inner) for i, inner in enumerate(value))
    elif isinstance(value, BaseModel):
        yield from ((f".{name}", inner) for name, inner in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value))

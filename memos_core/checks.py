"""Checks of cubes and their details: what pydantic would make something of, and what `model_copy` lets through, is
refused by its name, before anything is stored."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from memos_core import arguments
from memos_core.cube import (
    Activation,
    Header,
    MemCube,
    Parametric,
    Plaintext,
    Scope,
    Source,
    State,
    validation_message,
)
from memos_core.errors import InvalidArgument

_PARTS: dict[str, Any] = {
    "id": str,
    "scope": Scope,
    "key": str,
    "payload": Plaintext | Activation | Parametric,
    "header": Header,
    "state": State,
    "frozen": bool,
}


def check_details(**details: Any) -> None:
    """Refuse values that pydantic would make something of: bytes a text, a number a moment."""
    for part in ("spoken_at", "valid_from", "valid_to"):
        if details.get(part) is not None:
            arguments.moment(details[part], part)
    if details.get("text") is not None:
        arguments.text(details["text"], "text")
    for part in ("key", "semantic_type"):
        if details.get(part) is not None:
            arguments.name(details[part], part)
    for part in ("tags", "sensitivity"):
        if part in details:
            arguments.names(details[part], part)


def check_cube(cube: MemCube) -> None:
    """Refuse what `model_copy` lets through and no cube can be."""
    for part, kind in _PARTS.items():
        if not isinstance(getattr(cube, part), kind):
            raise InvalidArgument(f"cubes: {part} of a cube must be {kind}, got {getattr(cube, part)!r:.80}")
    id_ = arguments.name(cube.id, "id")
    if not id_.strip() or not (id_.isprintable() or all(ord(char) >= 32 for char in id_)):
        raise InvalidArgument(f"id of a cube must not be empty or hold control characters, got {cube.id!r}")
    arguments.name(cube.key, "key")
    arguments.count(cube.version, "version", 1)
    arguments.names(cube.namespace, "namespace")
    arguments.every(cube.derived_from, "derived_from", Source)
    header, payload = cube.header, cube.payload
    parts: tuple[Any, ...] = (cube.scope, header.descriptive, header.governance, header.behaviour, payload)
    for model in parts:
        if not isinstance(model, BaseModel):
            raise InvalidArgument(f"cubes: a part of a cube's header is {model!r:.80}")
        said = dict(model.__dict__)
        if isinstance(model, Plaintext):
            said["data"] = None  # checked when it is written
        try:
            type(model).__pydantic_validator__.validate_python(said, strict=True)
        except ValidationError as err:
            raise InvalidArgument(f"cubes: {validation_message(err)}") from None

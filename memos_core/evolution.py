"""What changed from one version of a cube to another. Pure: the vault has the versions."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from memos_core.cube import MemCube, Plaintext

_NAME = re.compile(r"[^\W\d]\w*")
_SCOPE = ("tenant", "user", "agent", "session")
_SHOWN = 60


class _Absent(Enum):
    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent.ABSENT
"""Stands for a value that one of the two versions does not have; None is a value."""


@dataclass(frozen=True)
class Change:
    """One value that differs.

    Args:
        path: what it is: "text", "tags", "scope.session", "data.address.city", "data.items[2]".
        old, new: the values; `ABSENT` where there is none.
    """

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.old is ABSENT:
            return f"+ {self.path}: {_show(self.new)}"
        if self.new is ABSENT:
            return f"- {self.path}: {_show(self.old)}"
        return f"~ {self.path}: {_show(self.old)} -> {_show(self.new)}"


@dataclass(frozen=True)
class Diff:
    """What differs between two versions: true if anything does.

    Args:
        old_version, new_version: which were compared.
        changes: in a fixed order: text, data, times, header, state, address. Use of the cube is no change.
        text: the texts' difference as a unified diff, "" where they are equal.
    """

    old_version: int
    new_version: int
    changes: tuple[Change, ...]
    text: str

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        head = f"version {self.old_version} -> {self.new_version}"
        return "\n".join([head, *map(str, self.changes)] if self.changes else [f"{head}: no change"])


def diff(old: MemCube, new: MemCube) -> Diff:
    """What changed from `old` to `new`.

    Args:
        old, new: two versions of a cube; two different cubes are compared just the same.
    """
    changes = [
        change
        for path, before, after in _parts(old, new)
        for change in _compare(path, before, after, deep=path == "data")
    ]
    lines = difflib.unified_diff(
        old.text.splitlines(),
        new.text.splitlines(),
        f"version {old.version}",
        f"version {new.version}",
        lineterm="",
    )
    return Diff(old.version, new.version, tuple(changes), "\n".join(lines))


def _parts(old: MemCube, new: MemCube) -> Iterator[tuple[str, Any, Any]]:
    """Every value that is compared, with its path."""
    before, after = _payload(old), _payload(new)
    for name in dict.fromkeys([*before, *after]):
        yield name, before.get(name, ABSENT), after.get(name, ABSENT)
    a, b = old.header, new.header
    yield "semantic_type", a.descriptive.semantic_type, b.descriptive.semantic_type
    yield "tags", a.descriptive.tags, b.descriptive.tags
    yield "origin", a.descriptive.origin, b.descriptive.origin
    yield "owner", a.governance.owner, b.governance.owner
    yield "priority", a.governance.priority, b.governance.priority
    yield "sensitivity", a.governance.sensitivity, b.governance.sensitivity
    yield "expires_at", a.governance.expires_at, b.governance.expires_at
    yield "state", str(old.state), str(new.state)
    yield "frozen", old.frozen, new.frozen
    for name in _SCOPE:
        yield f"scope.{name}", getattr(old.scope, name), getattr(new.scope, name)
    yield "namespace", old.namespace, new.namespace
    yield "key", old.key, new.key
    yield "derived_from", _sources(old), _sources(new)


def _payload(cube: MemCube) -> dict[str, Any]:
    payload = cube.payload
    if not isinstance(payload, Plaintext):
        return payload.model_dump()
    data = ABSENT if payload.data is None else cube.json_data
    times = {name: getattr(payload, name) for name in ("spoken_at", "valid_from", "valid_to")}
    return {"kind": payload.kind, "text": payload.text, "data": data, "structure": payload.structure, **times}


def _sources(cube: MemCube) -> tuple[str, ...]:
    return tuple(f"{source.id}@{source.version}" for source in cube.derived_from)


def _compare(path: str, old: Any, new: Any, *, deep: bool) -> Iterator[Change]:
    if deep and isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            step = f"{path}.{key}" if _NAME.fullmatch(key) else f"{path}[{json.dumps(key)}]"
            yield from _compare(step, old.get(key, ABSENT), new.get(key, ABSENT), deep=True)
    elif deep and isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for i in range(max(len(old), len(new))):
            before = old[i] if i < len(old) else ABSENT
            after = new[i] if i < len(new) else ABSENT
            yield from _compare(f"{path}[{i}]", before, after, deep=True)
    elif isinstance(old, bool) is not isinstance(new, bool) or old != new:
        yield Change(path, old, new)


def _show(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"

"""MemCube to row and back, and the filter that every query of cubes goes through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Row, and_, or_

from memos_core.cube import (
    ANY_USER,
    LIVE,
    MAX_DEPTH,
    Activation,
    Behaviour,
    Descriptive,
    Governance,
    Header,
    MemCube,
    Namespace,
    Parametric,
    Plaintext,
    Scope,
    Source,
    State,
    StructureRegistry,
    dump_json,
    now,
    to_json,
)
from memos_core.errors import InvalidArgument
from memos_core.vault import tables as t

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class CubeFilter:
    """Which cubes a call is about. A part that is None matches all.

    Args:
        scope: see `Scope` for what its parts match.
        namespace: cubes at or below this prefix; `exact_namespace` leaves out those below.
        types: semantic types; `not_types` leaves some out.
        kinds: payload kinds. states: life-cycle states (default: the live ones).
        ids, keys: exactly these. expired: also what has outlived its ttl.
    """

    scope: Scope
    namespace: Namespace = ()
    exact_namespace: bool = False
    types: Sequence[str] | None = None
    not_types: Sequence[str] = ()
    kinds: Sequence[str] | None = None
    states: Sequence[State] | None = LIVE
    ids: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    expired: bool = False

    def where(self) -> ColumnElement[bool]:
        """The filter as one SQL condition on `cubes`; every value is a bound parameter."""
        c, s = t.cubes.c, self.scope
        clauses: list[ColumnElement[bool]] = [c.tenant == s.tenant]
        if s.user != ANY_USER:
            clauses.append(c.user == (s.user or ""))
        clauses += [c[p] == getattr(s, p) for p in ("agent", "session") if getattr(s, p) is not None]
        if self.namespace or self.exact_namespace:
            prefix = pack_namespace(self.namespace)
            clauses.append(c.namespace == prefix if self.exact_namespace else between_prefix(prefix))
        for column, values in (
            (c.semantic_type, self.types),
            (c.kind, self.kinds),
            (c.id, self.ids),
            (c.key, self.keys),
        ):
            if values is not None:
                clauses.append(column.in_(values))
        if self.not_types:
            clauses.append(c.semantic_type.not_in(self.not_types))
        if self.states is not None:
            clauses.append(c.state.in_([str(x) for x in self.states]))
        if not self.expired:
            clauses.append(or_(c.expires_at.is_(None), c.expires_at > micros(now())))
        return and_(*clauses)


def between_prefix(prefix: str) -> ColumnElement[bool]:
    """Namespaces that start with a packed prefix, as a range of the index."""
    return and_(t.cubes.c.namespace >= prefix, t.cubes.c.namespace < prefix[:-1] + chr(ord(t.SEP) + 1))


def pack_namespace(namespace: Namespace) -> str:
    """The stored form of a namespace.

    Raises:
        InvalidArgument: a label is not a non-empty string without control characters.
    """
    for label in namespace:
        if not isinstance(label, str) or not label or any(ord(ch) < 32 for ch in label):
            raise InvalidArgument(
                f"namespace: each label must be a non-empty string without control characters, got {label!r}"
            )
    return "".join(label + t.SEP for label in namespace)


def unpack_namespace(packed: str) -> Namespace:
    """The labels of a stored namespace."""
    return tuple(packed.split(t.SEP)[:-1])


def micros(moment: datetime) -> int:
    """Microseconds since the epoch. A moment without a zone is refused, not guessed."""
    if moment.tzinfo is None:
        raise InvalidArgument(
            f"datetime {moment!r} has no time zone; pass an aware one, e.g. datetime.now(timezone.utc)"
        )
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """The inverse of `micros`."""
    return _EPOCH + timedelta(microseconds=value)


def to_row(cube: MemCube) -> dict[str, Any]:
    """The columns of `cubes` for a cube, `seq` left out."""
    d, g, s = cube.header.descriptive, cube.header.governance, cube.scope
    if s.user == ANY_USER:
        raise InvalidArgument("user: a cube belongs to one user or to none, '*' is for reading only")
    return {
        "id": cube.id,
        "version": cube.version,
        "tenant": s.tenant,
        "user": s.user or "",
        "agent": s.agent or "",
        "session": s.session or "",
        "namespace": pack_namespace(cube.namespace),
        "key": cube.key or cube.id,
        "kind": cube.payload.kind,
        "text": _storable(cube.text),
        "payload": _payload_json(cube.payload),
        "semantic_type": d.semantic_type,
        "state": str(cube.state),
        "frozen": cube.frozen,
        "created_at": micros(d.created_at),
        "updated_at": micros(d.updated_at),
        "expires_at": micros(g.expires_at) if g.expires_at else None,
        "header": dump_json(
            {
                "origin": d.origin,
                "tags": d.tags,
                "source_messages": d.source_messages,
                "owner": g.owner,
                "priority": g.priority,
                "sensitivity": g.sensitivity,
            }
        ),
        "derived_from": dump_json([[x.id, x.version] for x in cube.derived_from]),
    }


def keep_row(row: Row[Any]) -> str:
    """A row as JSON text, for `versions`: exactly what was stored, whatever its structure."""
    return json.dumps(
        {name: value for name, value in row._mapping.items() if name != "seq"}, ensure_ascii=False
    )


def from_kept(kept: str, structures: StructureRegistry) -> MemCube:
    """The cube of a row that `keep_row` kept."""
    return from_row(SimpleNamespace(**json.loads(kept)), structures)


def from_row(row: Any, structures: StructureRegistry) -> MemCube:
    """A cube from a row of `cubes` joined with its `behaviour` (which may be missing)."""
    header = json.loads(row.header)
    return MemCube(
        id=row.id,
        version=row.version,
        scope=Scope(
            tenant=row.tenant, user=row.user or None, agent=row.agent or None, session=row.session or None
        ),
        namespace=unpack_namespace(row.namespace),
        key=row.key,
        payload=_payload(row.kind, row.text, json.loads(row.payload), structures),
        header=Header(
            descriptive=Descriptive(
                created_at=moment(row.created_at),
                updated_at=moment(row.updated_at),
                origin=header["origin"],
                semantic_type=row.semantic_type,
                tags=header["tags"],
                source_messages=header["source_messages"],
            ),
            governance=Governance(
                owner=header["owner"],
                expires_at=moment(row.expires_at) if row.expires_at is not None else None,
                priority=header["priority"],
                sensitivity=header["sensitivity"],
            ),
            behaviour=Behaviour(reads=row.reads, last_read=moment(row.last_read), frequency=row.frequency)
            if row.reads is not None
            else Behaviour(),
        ),
        state=State(row.state),
        frozen=bool(row.frozen),
        derived_from=tuple(Source(id=i, version=v) for i, v in json.loads(row.derived_from)),
    )


def _payload_json(payload: Plaintext[Any] | Activation | Parametric) -> str:
    if not isinstance(payload, Plaintext):
        return payload.model_dump_json(exclude={"kind"})
    for name in ("spoken_at", "valid_from", "valid_to"):
        if getattr(payload, name) is not None:
            micros(getattr(payload, name))
    data = to_json(payload.data) if isinstance(payload.data, BaseModel) else payload.data
    times = payload.model_dump(mode="json", exclude={"kind", "text", "data"}, exclude_none=True)
    return dump_json({"data": data, **times}, max_depth=MAX_DEPTH + 1)


def _payload(
    kind: str, text: str, stored: dict[str, Any], structures: StructureRegistry
) -> Plaintext[Any] | Activation | Parametric:
    if kind == "activation":
        return Activation(**stored)
    if kind == "parametric":
        return Parametric(**stored)
    data = structures.load(stored.get("structure"), stored.get("structure_version"), stored.pop("data"))
    return Plaintext[Any](text=text, data=data, **stored)


def _storable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(
            "text holds a lone surrogate, which is not valid Unicode; re-encode it before writing"
        ) from None
    return text

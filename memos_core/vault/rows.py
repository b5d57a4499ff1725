"""MemCube to row and back, and the filter that every query of cubes goes through."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from sqlalchemy import (
    ColumnElement,
    Exists,
    Row,
    Select,
    and_,
    bindparam,
    literal,
    or_,
    select,
    union_all,
)

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
    content_hash,
    dump_json,
    now,
    to_json,
)
from memos_core.errors import InvalidArgument, VaultError
from memos_core.vault import tables as t
from memos_core.vault.among import Among

_M = TypeVar("_M", bound=BaseModel)
_set = object.__setattr__
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEALED = (
    "id",
    "version",
    "tenant",
    "user",
    "agent",
    "session",
    "namespace",
    "key",
    "kind",
    "text",
    "payload",
    "semantic_type",
    "created_at",
    "updated_at",
    "written_at",
    "header",
    "derived_from",
)


# What the indexes hold: at most so many bytes each, and so many together in one index (PostgreSQL's limit is 2,704).
MAX_NAME = 1_000
_MAX_INDEXED = 2_600
_INDEXED = (
    ("tenant", "user", "namespace", "key"),
    ("tenant", "user", "semantic_type", "id"),
    ("tenant", "session", "semantic_type", "id"),
)
_CAPPED = ("id", "tenant", "user", "agent", "session", "namespace", "key", "semantic_type")

Right = Literal["read", "write", "share"]


class CubeDamaged(VaultError):
    """A stored cube is not what was written: its checksum does not match."""


@dataclass(frozen=True)
class CubeFilter:
    """Which cubes a call is about, and may be about: the one place where access becomes SQL. A part that is
    None matches all.

    Args:
        scope: see `Scope` for what its parts match.
        clearance: the sensitivity labels the principal may read; None: all.
        granted: also cubes of others that the scope's user was granted this right to, whatever their agent and
            session.
        namespace: cubes at or below this prefix; `exact_namespace` leaves out those below.
        types: semantic types; `not_types` leaves some out.
        kinds: payload kinds. states: life-cycle states (default: the live ones).
        ids, keys: exactly these. expired: also what has outlived its ttl.
        valid_at: what held at this moment; None: whenever.
    """

    scope: Scope
    clearance: frozenset[str] | None = None
    granted: Right | None = None
    namespace: Namespace = ()
    exact_namespace: bool = False
    types: Sequence[str] | None = None
    not_types: Sequence[str] = ()
    kinds: Sequence[str] | None = None
    states: Sequence[State] | None = LIVE
    ids: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    expired: bool = False
    valid_at: datetime | None = None

    def where(self) -> ColumnElement[bool]:
        """The filter as one SQL condition on `cubes`; every value is a bound parameter. See also
        `memos_core.vault.prepared`."""
        c = t.cubes.c
        clauses: list[ColumnElement[bool]] = [self._access()]
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
        elif not self.expired:
            clauses.append(c.state != str(State.EXPIRED))
        if not self.expired:
            # Asked for when the statement runs: a filter may be older than that.
            alive = c.expires_at > bindparam("alive_at", callable_=lambda: micros(now()), unique=True)
            clauses.append(or_(c.expires_at.is_(None), alive, c.frozen.is_(True)))
        if self.valid_at is not None:
            at = micros(self.valid_at)
            clauses += [
                or_(c.valid_from.is_(None), c.valid_from <= at),
                or_(c.valid_to.is_(None), c.valid_to > at),
            ]
        return and_(*clauses)

    def matches(self, cube: MemCube, at: datetime) -> bool:
        """The filter without its access part, of a cube at a past moment."""
        d, expires = cube.header.descriptive, cube.header.governance.expires_at
        plain = cube.payload if isinstance(cube.payload, Plaintext) else None
        starts, ends = (plain.valid_from, plain.valid_to) if plain else (None, None)
        depth = len(self.namespace)
        return (
            cube.namespace[:depth] == tuple(self.namespace)
            and (not self.exact_namespace or len(cube.namespace) == depth)
            and (self.types is None or d.semantic_type in self.types)
            and d.semantic_type not in self.not_types
            and (self.kinds is None or cube.payload.kind in self.kinds)
            and (self.ids is None or cube.id in self.ids)
            and (self.keys is None or cube.key in self.keys)
            and (cube.state in self.states if self.states is not None else self._may_be_over(cube.state))
            and (self.expired or expires is None or expires > at or cube.frozen)
            and (
                self.valid_at is None
                or ((starts is None or starts <= self.valid_at) and (ends is None or ends > self.valid_at))
            )
        )

    def _may_be_over(self, state: State) -> bool:
        return self.expired or state is not State.EXPIRED

    def owns(self, scope: Scope) -> bool:
        """Whether a cube of this scope is inside the filter's own, grants aside."""
        mine = self.scope
        return (
            scope.tenant == mine.tenant
            and mine.user in (ANY_USER, scope.user)
            and all(getattr(mine, p) in (None, getattr(scope, p)) for p in ("agent", "session"))
        )

    def cleared(self, cube: MemCube) -> bool:
        """Whether the principal's clearance covers the cube's sensitivity."""
        return self.clearance is None or set(cube.header.governance.sensitivity) <= self.clearance

    def _access(self) -> ColumnElement[bool]:
        c, s = t.cubes.c, self.scope
        own: list[ColumnElement[bool]] = [c.tenant == s.tenant]
        if s.user != ANY_USER:
            own.append(c.user == (s.user or ""))
        own += [c[p] == getattr(s, p) for p in ("agent", "session") if getattr(s, p) is not None]
        allowed = and_(*own)
        if self.granted is not None and s.user not in (None, ANY_USER):
            others = granted_ids(s.tenant, s.user, self.granted)
            # The tenant once more, as an expression: as a column it would draw SQLite to an index of the tenant
            # for both sides, instead of one of the user's and one of the ids'.
            # One's own are never among them: a grant to everyone does not open a view of another agent.
            theirs = and_(Among(c.id, others), c.tenant.concat("") == s.tenant, c.user.concat("") != s.user)
            allowed = or_(allowed, theirs)
        if self.clearance is None:
            return allowed
        return and_(allowed, ~labels_above(c.id, self.clearance))


def labels_above(cube_id: ColumnElement[str], clearance: frozenset[str]) -> Exists:
    """Whether a cube has a sensitivity label that is not in a clearance."""
    labels = t.labels.c
    return select(labels.cube_id).where(labels.cube_id == cube_id, labels.label.not_in(clearance)).exists()


def granted_ids(tenant: str, user: str, right: Right) -> Select[tuple[str]]:
    """The ids of the cubes that a user was granted a right to: by name, by group, or with everyone."""
    g, m = t.grants.c, t.members.c
    # Joined, not a condition with "or": each of the names is one look into the index.
    to = union_all(
        select(literal("user").label("kind"), literal(user).label("name")),
        select(literal("everyone"), literal("")),
        select(literal("group"), m.group).where(m.tenant == tenant, m.user == user),
    ).subquery("granted_to")
    return (
        select(g.cube_id)
        .join(to, and_(g.kind == to.c.kind, g.name == to.c.name))
        .where(g.tenant == tenant, g.right == right)
    )


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


def partition_of(tenant: str, user: str) -> str:
    """The word that stands for (tenant, user) in the text index."""
    return "p" + blake2b(f"{tenant}{t.SEP}{user}".encode(), digest_size=12).hexdigest()


def digest_of(kind: str, value: bytes) -> str:
    """Checksum of a serialized value, stored beside it."""
    return blake2b(value, digest_size=16, key=kind.encode(errors="surrogateescape")[:64]).hexdigest()


def to_row(cube: MemCube, written_at: int, *, stored: bool = False) -> dict[str, Any]:
    """The columns of `cubes` for a cube, `seq` left out.

    Args:
        written_at: the vault's clock, in microseconds.
        stored: it is in the vault already, whatever the length of its names.

    Raises:
        InvalidArgument: something in it cannot be stored.
    """
    d, g, s = cube.header.descriptive, cube.header.governance, cube.scope
    if s.user == ANY_USER:
        raise InvalidArgument("user: a cube belongs to one user or to none, '*' is for reading only")
    row = {
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
        "written_at": written_at,
        "content_hash": content_hash(cube),
    }
    if not stored:
        _check_lengths(row, g.sensitivity)
    return _derive(row, cube.payload)


def _check_lengths(row: Mapping[str, Any], sensitivity: Sequence[str]) -> None:
    """Refuse names that an index cannot hold, on every database the same."""
    if 4 * (sum(len(row[name]) for name in _CAPPED) + sum(map(len, sensitivity))) <= MAX_NAME:
        return  # as nearly always: no letter has more than four bytes
    size = {name: len(row[name].encode(errors="surrogatepass")) for name in _CAPPED}
    longest = max((len(label.encode(errors="surrogatepass")) for label in sensitivity), default=0)
    for name, n in (*size.items(), ("sensitivity: each label", longest)):
        if n > MAX_NAME:
            raise InvalidArgument(f"{name} must have at most {MAX_NAME:,} bytes as UTF-8, it has {n:,}")
    for names in _INDEXED:
        n = sum(size[name] for name in names)
        if n > _MAX_INDEXED:
            raise InvalidArgument(
                f"{', '.join(names[:-1])} and {names[-1]} must have at most {_MAX_INDEXED:,} bytes together as UTF-8, "
                f"they have {n:,}"
            )


def complete(row: dict[str, Any]) -> dict[str, Any]:
    """A row of schema version 1 with the columns that came with version 2.

    Raises:
        CubeDamaged: it is no whole cube. Version 1 had no checksums: what else it says is taken as it is.
    """
    behaviour = {"reads": None, "last_read": None, "frequency": None}
    try:
        for value in row.values():
            if isinstance(value, str):
                value.encode()  # bytes that are no UTF-8 come as surrogates
        cube = _cube(SimpleNamespace(**{**behaviour, **row}), StructureRegistry(), _checked)
        new = {"frozen": cube.frozen, "written_at": row["updated_at"], "content_hash": content_hash(cube)}
        return _derive({**row, **new}, cube.payload)
    except _NO_CUBE as err:
        raise CubeDamaged(f"the stored cube {row.get('id')} is damaged: {_why(err)}") from None


def complete_damaged(row: dict[str, Any]) -> dict[str, Any]:
    """A damaged row of schema version 1 as it is, with a checksum that says so."""
    return {
        **row,
        "frozen": bool(row["frozen"]),
        "written_at": row["updated_at"],
        "content_hash": "",
        "slot": "",
        "valid_from": None,
        "valid_to": None,
        "partition": partition_of(row["tenant"], row["user"]),
        "checksum": "",
    }


def _derive(row: dict[str, Any], payload: Plaintext[Any] | Activation | Parametric) -> dict[str, Any]:
    """Add the columns that repeat what a row holds, so that SQL can ask for it, and the checksum."""
    plain = payload if isinstance(payload, Plaintext) else None
    for name in ("valid_from", "valid_to"):
        at = getattr(plain, name, None)
        row[name] = micros(at) if at else None
    row["slot"] = plain.slot.key if plain and plain.slot else ""
    row["partition"] = partition_of(row["tenant"], row["user"])
    row["checksum"] = _checksum(row)
    return row


def _checksum(row: Mapping[str, Any]) -> str:
    return blake2b(json.dumps([row[name] for name in _SEALED]).encode(), digest_size=16).hexdigest()


def keep_row(row: Row[Any]) -> str:
    """A row as JSON text, for `versions`: exactly what was stored, whatever its structure."""
    return json.dumps(
        {name: value for name, value in row._mapping.items() if name != "seq"}, ensure_ascii=False
    )


def from_kept(kept: str, structures: StructureRegistry, cube_id: str) -> MemCube:
    """The cube of a row that `keep_row` kept.

    Raises:
        CubeDamaged: it is not what was kept.
    """
    what = f"an earlier version of cube {cube_id}"
    try:
        row = SimpleNamespace(**json.loads(kept))
    except (ValueError, TypeError) as err:
        raise CubeDamaged(f"{what} is damaged: {_why(err)}") from None
    return from_row(row, structures, what)


def from_row(row: Any, structures: StructureRegistry, what: str = "") -> MemCube:
    """A cube from a row of `cubes` joined with its `behaviour` (which may be missing).

    Args:
        what: how a message calls it, if not by its id and key.

    Raises:
        CubeDamaged: the row is not what was written.
    """
    try:
        if row.checksum == _checksum({name: getattr(row, name) for name in _SEALED}):
            return _cube(row, structures, _trusted)
        why = "its checksum does not match; restore it from a backup or delete it"
    except _NO_CUBE as err:
        why = _why(err)
    raise CubeDamaged(f"{what or f'the stored cube {row.id} (key {row.key!r})'} is damaged: {why}")


_NO_CUBE = (AttributeError, KeyError, TypeError, ValueError, OverflowError)


def _why(err: Exception) -> str:
    return (
        "a part of it is missing"
        if isinstance(err, AttributeError | KeyError)
        else " ".join(str(err).split())
    )


def _checked(kind: type[_M], **values: Any) -> _M:
    return kind(**values)


def _trusted(kind: type[_M], **values: Any) -> _M:
    """An instance of a model from what its validated form was stored as, every field of it: the checksum has said
    that nothing changed. Like `model_construct`, which takes as long as validation."""
    made = kind.__new__(kind)
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", set(values))
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


def _cube(row: Any, structures: StructureRegistry, make: Callable[..., Any]) -> MemCube:
    header = json.loads(row.header)
    cube: MemCube = make(
        MemCube,
        id=row.id,
        version=row.version,
        scope=make(
            Scope,
            tenant=row.tenant,
            user=row.user or None,
            agent=row.agent or None,
            session=row.session or None,
        ),
        namespace=unpack_namespace(row.namespace),
        key=row.key,
        payload=_payload(row.kind, row.text, json.loads(row.payload), structures),
        header=make(
            Header,
            descriptive=make(
                Descriptive,
                created_at=moment(row.created_at),
                updated_at=moment(row.updated_at),
                origin=header["origin"],
                semantic_type=row.semantic_type,
                tags=tuple(header["tags"]),
                source_messages=tuple(header["source_messages"]),
            ),
            governance=make(
                Governance,
                owner=header["owner"],
                expires_at=moment(row.expires_at) if row.expires_at is not None else None,
                priority=header["priority"],
                sensitivity=tuple(header["sensitivity"]),
            ),
            behaviour=make(
                Behaviour, reads=row.reads, last_read=moment(row.last_read), frequency=row.frequency
            )
            if row.reads is not None
            else make(Behaviour, reads=0, last_read=None, frequency=0.0),
        ),
        state=State(row.state),
        frozen=bool(row.frozen),
        derived_from=tuple(make(Source, id=i, version=v) for i, v in json.loads(row.derived_from)),
    )
    return cube


def _payload_json(payload: Plaintext[Any] | Activation | Parametric) -> str:
    if not isinstance(payload, Plaintext):
        return payload.model_dump_json(exclude={"kind"})
    for name in ("spoken_at", "valid_from", "valid_to"):
        if getattr(payload, name) is not None:
            micros(getattr(payload, name))
    if payload.valid_from and payload.valid_to and payload.valid_to < payload.valid_from:
        raise InvalidArgument("valid_to must not be before valid_from")
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

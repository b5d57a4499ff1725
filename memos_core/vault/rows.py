"""MemCube to row and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from json.encoder import encode_basestring_ascii as _quoted
from operator import attrgetter, itemgetter
from types import SimpleNamespace
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import (
    Row,
)

from memos_core.cube import (
    ANY_USER,
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
    to_json,
)
from memos_core.errors import InvalidArgument, VaultError
from memos_core.vault import tables as t

_M = TypeVar("_M", bound=BaseModel)
_set = object.__setattr__
_FAR = 250_000_000_000_000_000  # microseconds: what a datetime can hold
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

_sealed, _sealed_of = attrgetter(*_SEALED), itemgetter(*_SEALED)

# What the indexes hold: at most so many bytes each, and so many together in one index (PostgreSQL's limit is 2,704).
MAX_NAME = 1_000
_MAX_INDEXED = 2_600
_INDEXED = (
    ("tenant", "user", "namespace", "key"),
    ("tenant", "user", "semantic_type", "id"),
    ("tenant", "session", "semantic_type", "id"),
)
_CAPPED = ("id", "tenant", "user", "agent", "session", "namespace", "key", "semantic_type")


class CubeDamaged(VaultError):
    """A stored cube is not what was written: its checksum does not match."""


def pack_namespace(namespace: Namespace) -> str:
    """The stored form of a namespace.

    Raises:
        InvalidArgument: a label is not a non-empty string without control characters.
    """
    return _packed(tuple(namespace))


@lru_cache(maxsize=10_000)
def _packed(namespace: Namespace) -> str:
    for label in namespace:
        if not isinstance(label, str) or not label or any(ord(ch) < 32 for ch in label):
            raise InvalidArgument(
                f"namespace: each label must be a non-empty string without control characters, got {label!r}"
            )
    return "".join(label + t.SEP for label in namespace)


def unpack_namespace(packed: str) -> Namespace:
    """The labels of a stored namespace."""
    return tuple(packed.split(t.SEP)[:-1])


def ahead(before: Any, key: Any, table: str) -> Any:
    """The key that a page of rows ended with, behind which the next one begins; `before` is where this one began.

    Raises:
        VaultError: it is not behind `before`, so that there would be no end.
    """
    if before is not None and key <= before:
        raise VaultError(f"the vault is damaged: the rows of {table!r} are out of order; run `memos doctor`")
    return key


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


@lru_cache(maxsize=10_000)
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
        "header": _header_json(
            d.origin, d.tags, d.source_messages, g.owner, g.priority, g.sensitivity, g.ttl
        ),
        "derived_from": dump_json([[x.id, x.version] for x in cube.derived_from])
        if cube.derived_from
        else "[]",
        "written_at": written_at,
        "content_hash": content_hash(cube),
    }
    if not stored:
        _check_lengths(row, g.sensitivity)
    return _derive(row, cube.payload)


@lru_cache(maxsize=500)
def _header_json(
    origin: str,
    tags: tuple[str, ...],
    source_messages: tuple[str, ...],
    owner: str,
    priority: int,
    sensitivity: tuple[str, ...],
    ttl: timedelta | None,
) -> str:
    """What a header says as JSON. Most cubes of a user have the same."""
    said = {
        "origin": origin,
        "tags": tags,
        "source_messages": source_messages,
        "owner": owner,
        "priority": priority,
        "sensitivity": sensitivity,
    }
    return dump_json(said if ttl is None else {**said, "ttl": ttl // timedelta(microseconds=1)})


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
    row["checksum"] = _checksum(_sealed_of(row))
    return row


def _checksum(sealed: tuple[Any, ...]) -> str:
    """Of the values as a JSON list, put together here: `json.dumps` takes twice as long for so few."""
    said = ", ".join([_quoted(one) if type(one) is str else int.__repr__(one) for one in sealed])
    return blake2b(f"[{said}]".encode(), digest_size=16).hexdigest()


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
        if row.checksum == _checksum(_sealed(row)):
            return _cube(row, structures, trusted)
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


def trusted(kind: type[_M], /, **values: Any) -> _M:
    """An instance of a model from what its validated form was stored as, every field of it: the checksum has said
    that nothing changed. Like `model_construct`, which takes as long as validation."""
    made = kind.__new__(kind)
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", set(values))
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


@lru_cache(maxsize=500)
def _loaded(header: str) -> Any:
    """What a header's JSON says; never to be changed. Most cubes of a user have the same."""
    return json.loads(header)


@lru_cache(maxsize=500)
def _scope(make: Callable[..., Scope], tenant: str, user: str, agent: str, session: str) -> Scope:
    return make(Scope, tenant=tenant, user=user or None, agent=agent or None, session=session or None)


def forget_headers() -> None:
    """Drop what is kept of headers and scopes: some were erased."""
    _loaded.cache_clear()
    _header_json.cache_clear()
    _scope.cache_clear()


def _cube(row: Any, structures: StructureRegistry, make: Callable[..., Any]) -> MemCube:
    header = _loaded(row.header)
    cube: MemCube = make(
        MemCube,
        id=row.id,
        version=row.version,
        scope=_scope(make, row.tenant, row.user, row.agent, row.session),
        namespace=unpack_namespace(row.namespace),
        key=row.key,
        payload=_payload(row, structures),
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
                ttl=timedelta(microseconds=header["ttl"]) if "ttl" in header else None,
                priority=header["priority"],
                sensitivity=tuple(header["sensitivity"]),
            ),
            behaviour=behaviour_of(row),
        ),
        state=State(row.state),
        frozen=bool(row.frozen),
        derived_from=tuple(make(Source, id=i, version=v) for i, v in json.loads(row.derived_from))
        if row.derived_from != "[]"
        else (),
    )
    return cube


_MORE = ("structure", "structure_version", "spoken_at", "valid_from", "valid_to", "slot")
_TEXT_ONLY = '{"data":null}'  # the payload of most cubes
_Plain = Plaintext[Any]


def behaviour_of(row: Any) -> Behaviour:
    """How a cube was used, of a row joined with `behaviour`."""
    if counted(row):
        return trusted(Behaviour, reads=row.reads, last_read=moment(row.last_read), frequency=row.frequency)
    return trusted(Behaviour, reads=0, last_read=None, frequency=0.0)


def counted(row: Any) -> bool:
    """Whether a row says how a cube was used. Counts are no memory: damaged ones count for nothing."""
    return (
        isinstance(row.reads, int)
        and isinstance(row.last_read, int)
        and abs(row.last_read) < _FAR
        and isinstance(row.frequency, int | float)
    )


def _payload_json(payload: Plaintext[Any] | Activation | Parametric) -> str:
    if not isinstance(payload, Plaintext):
        return payload.model_dump_json(exclude={"kind"})
    if payload.data is None and all(getattr(payload, name) is None for name in _MORE):
        return _TEXT_ONLY
    for name in ("spoken_at", "valid_from", "valid_to"):
        if getattr(payload, name) is not None:
            micros(getattr(payload, name))
    if payload.valid_from and payload.valid_to and payload.valid_to < payload.valid_from:
        raise InvalidArgument("valid_to must not be before valid_from")
    data = to_json(payload.data) if isinstance(payload.data, BaseModel) else payload.data
    times = payload.model_dump(mode="json", exclude={"kind", "text", "data"}, exclude_none=True)
    return dump_json({"data": data, **times}, max_depth=MAX_DEPTH + 1)


def _payload(row: Any, structures: StructureRegistry) -> Plaintext[Any] | Activation | Parametric:
    if row.payload == _TEXT_ONLY and row.kind == "plaintext":
        return trusted(_Plain, kind="plaintext", text=row.text, data=None, **dict.fromkeys(_MORE))
    stored = json.loads(row.payload)
    if row.kind == "activation":
        return Activation(**stored)
    if row.kind == "parametric":
        return Parametric(**stored)
    data = structures.load(stored.get("structure"), stored.get("structure_version"), stored.pop("data"))
    return _Plain(text=row.text, data=data, **stored)


def _storable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(
            "text holds a lone surrogate, which is not valid Unicode; re-encode it before writing"
        ) from None
    return text


def intact(row: Any) -> bool:
    """Whether a row with all columns of `cubes` is what was written."""
    try:
        return bool(row.checksum == _checksum(_sealed(row)))
    except _NO_CUBE:
        return False

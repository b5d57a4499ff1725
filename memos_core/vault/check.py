"""Checks of a vault against itself, and what puts right what can be derived again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import (
    Column,
    Connection,
    LargeBinary,
    Row,
    Select,
    Table,
    delete,
    func,
    inspect,
    select,
    tuple_,
    type_coerce,
    update,
)

from memos_core.cube import LIVE, MemCube, StructureRegistry
from memos_core.errors import MemOSError, VaultError
from memos_core.vault import tables as t
from memos_core.vault.audit import broken_chains
from memos_core.vault.database import Database
from memos_core.vault.rows import ahead, from_kept, from_row, to_row
from memos_core.vault.statements import with_behaviour

Fix = Callable[[Connection], None]

_PAGE = 500
_DERIVED = ("slot", "partition", "valid_from", "valid_to", "content_hash")
_BELONGINGS = (t.versions, t.sources, t.behaviour, t.index_queue, t.vectors, t.labels, t.grants)
_REBUILD = "INSERT INTO cube_fts(cube_fts) VALUES ('rebuild')"


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be.

    Args:
        kind: "database", "cube", "version", "checkpoint", "log", "index", "orphan" or "schema".
        what: a sentence that names it.
        fix: puts it right within a write transaction; None where nothing can be derived.
    """

    kind: str
    what: str
    fix: Fix | None = None

    def __str__(self) -> str:
        return self.what


def problems(db: Database) -> Iterator[Problem]:
    """Everything that is wrong with a vault's database; what cannot be read does not hide the rest."""
    checks: tuple[Callable[[Database], Iterator[Problem]], ...] = (
        _damage,
        _schema,
        damaged_cubes,
        _damaged_versions,
        _vectors,
        _text_index,
        _orphans,
        _log,
    )
    for check in checks:
        yield from guarded("database", check(db))


def guarded(kind: str, found: Iterator[Problem]) -> Iterator[Problem]:
    """What a check finds; where it ends in an error, that is a finding too."""
    try:
        yield from found
    except (MemOSError, ValueError, TypeError, KeyError) as err:
        yield Problem(kind, f"a check could not go on: {err}")


# -- the database --------------------------------------------------------------------------------------------


def _damage(db: Database) -> Iterator[Problem]:
    for wrong in db.damage():
        lost = "index" in wrong and db.engine.dialect.name == "sqlite"
        yield Problem("database", wrong, _reindex if lost else None)


def _reindex(conn: Connection) -> None:
    conn.exec_driver_sql("REINDEX")
    found = [str(row[0]) for row in conn.exec_driver_sql("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise VaultError(f"an index cannot be built again: {found[0]}")


def _schema(db: Database) -> Iterator[Problem]:
    with db.read() as conn:
        seen = inspect(conn)
        tables = set(seen.get_table_names())
        for table in t.metadata.sorted_tables:
            if table.name not in tables:
                yield Problem("schema", f"the table {table.name} is missing")
                continue
            known = {index["name"] for index in seen.get_indexes(table.name)}
            for index in table.indexes:
                if index.name not in known:
                    yield Problem("schema", f"the index {index.name} is missing", index.create)
        if conn.dialect.name == "sqlite":
            stored = {
                row.name: " ".join(str(row.sql).split())
                for row in conn.exec_driver_sql("SELECT name, sql FROM sqlite_master")
            }
            wanted = {
                statement.split()[_NAME_AT[statement.split()[1]]]: statement for statement in t.FTS5_DDL
            }
            wrong = [name for name, sql in wanted.items() if stored.get(name) != " ".join(sql.split())]
            wrong += [name for name in _triggers(conn) if name not in wanted]
            if wrong:
                yield Problem("schema", f"{', '.join(wrong)} of the text index is not as made", _remake_texts)


_NAME_AT = {"VIEW": 2, "VIRTUAL": 3, "TRIGGER": 2}


def _remake_texts(conn: Connection) -> None:
    for name in _triggers(conn):
        conn.exec_driver_sql(f"DROP TRIGGER {name}")
    for statement in reversed(t.FTS5_DDL):
        kind = statement.split()[1]
        name = statement.split()[_NAME_AT[kind]]
        conn.exec_driver_sql(f"DROP {'TABLE' if kind == 'VIRTUAL' else kind} IF EXISTS {name}")
    for statement in t.FTS5_DDL:
        conn.exec_driver_sql(statement)
    conn.exec_driver_sql(_REBUILD)


def _triggers(conn: Connection) -> list[str]:
    """The triggers that keep the text index."""
    found = conn.exec_driver_sql(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'cubes'"
    )
    return [name for name in found.scalars() if name.startswith("cube_fts_") and name.isidentifier()]


def _text_index(db: Database) -> Iterator[Problem]:
    if db.engine.dialect.name != "sqlite":
        return
    try:
        with db.write() as conn:  # a check that FTS5 has as a command
            conn.exec_driver_sql("INSERT INTO cube_fts(cube_fts, rank) VALUES ('integrity-check', 1)")
    except VaultError as err:
        if "read-only" not in str(err):
            yield Problem("index", f"the text index is not that of the texts: {err}", _rebuild_texts)


def _rebuild_texts(conn: Connection) -> None:
    conn.exec_driver_sql(_REBUILD)


def _log(db: Database) -> Iterator[Problem]:
    with db.read() as conn:
        wrong = broken_chains(conn, None)
    yield from (Problem("log", sentence) for sentence in wrong)


def _pages(db: Database, rows: Select[Any], *key: Column[Any]) -> Iterator[Sequence[Row[Any]]]:
    """All rows in the order of their key, which `rows` selects, a page at a time: nobody waits for a check.

    Raises:
        VaultError: they are out of order. SQLite does not notice, and would give one page again and again.
    """
    after: tuple[Any, ...] | None = None
    while True:
        query = rows.order_by(*key).limit(_PAGE)
        with db.read() as conn:
            page = conn.execute(query if after is None else query.where(tuple_(*key) > after)).all()
        if not page:
            return
        yield page
        after = ahead(after, tuple(page[-1]._mapping[column] for column in key), key[0].table.name)


# -- cubes ---------------------------------------------------------------------------------------------------


def damaged_cubes(db: Database) -> Iterator[Problem]:
    """What is wrong with single cubes: their own rows first, then what is derived from them."""
    for page in _pages(db, with_behaviour(), t.cubes.c.seq):
        with db.read() as conn:
            beside = _Beside(conn, [row.id for row in page])
        for row in page:
            yield from _cube(row, beside)


class _Beside:
    """What other tables hold about a page of cubes."""

    def __init__(self, conn: Connection, ids: Sequence[str]) -> None:
        self.vectors = _pairs(conn, t.vectors, "version", ids)
        self.queue = _pairs(conn, t.index_queue, "version", ids)
        self.labels = _sets(conn, t.labels, "label", ids)
        self.sources = _sets(conn, t.sources, "source_id", ids)
        v = t.versions.c
        counted = select(v.cube_id, func.count()).where(v.cube_id.in_(ids)).group_by(v.cube_id)
        self.versions: dict[str, int] = {row[0]: row[1] for row in conn.execute(counted)}


def _pairs(conn: Connection, table: Table, value: str, ids: Sequence[str]) -> dict[str, Any]:
    c = table.c
    return {row[0]: row[1] for row in conn.execute(select(c.cube_id, c[value]).where(c.cube_id.in_(ids)))}


def _sets(conn: Connection, table: Table, value: str, ids: Sequence[str]) -> dict[str, set[str]]:
    c, found = table.c, dict[str, set[str]]()
    for row in conn.execute(select(c.cube_id, c[value]).where(c.cube_id.in_(ids))):
        found.setdefault(row[0], set()).add(row[1])
    return found


def _cube(row: Any, beside: _Beside) -> Iterator[Problem]:
    try:
        cube = from_row(row, StructureRegistry())
        fresh = to_row(cube, row.written_at, stored=True)
    except (MemOSError, ValueError) as err:
        yield Problem("cube", f"{err}" if row.id in str(err) else f"cube {row.id} is damaged: {err}")
        return
    wrong = {name: fresh[name] for name in _DERIVED if getattr(row, name) != fresh[name]}
    if wrong:
        repeated = f"cube {cube.id}: {', '.join(wrong)} does not repeat its content"
        yield Problem("cube", repeated, _set(cube.id, cube.version, wrong))
    lost = cube.version - 1 - beside.versions.get(cube.id, 0)
    if lost:
        yield Problem(
            "version", f"cube {cube.id} of version {cube.version} lacks {lost} of its earlier versions"
        )
    yield from _about(cube, beside)
    yield from _indexed(cube, beside)


def _about(cube: MemCube, beside: _Beside) -> Iterator[Problem]:
    for table, name, stored, meant in (
        (t.labels, "label", beside.labels, set(cube.header.governance.sensitivity)),
        (t.sources, "source_id", beside.sources, {s.id for s in cube.derived_from}),
    ):
        if stored.get(cube.id, set()) != meant:
            what = f"the {table.name} of cube {cube.id} are not those of its header"
            yield Problem("cube", what, _say_again(table, name, cube.id, cube.version, meant))


def _indexed(cube: MemCube, beside: _Beside) -> Iterator[Problem]:
    held = {x for x in (beside.vectors.get(cube.id), beside.queue.get(cube.id)) if x is not None}
    searched = cube.state in LIVE and bool(cube.text.strip())
    if searched and cube.version not in held:
        what = f"cube {cube.id} has neither a vector nor a place in the queue for one"
        yield Problem("index", what, _queue_again(cube.id))
    elif not searched and held:
        yield Problem("index", f"cube {cube.id} is not searched and still indexed", _drop_from_index(cube.id))


def _unchanged(id_: str, version: int) -> Any:
    return select(t.cubes.c.id).where(t.cubes.c.id == id_, t.cubes.c.version == version)


def _set(id_: str, version: int, values: Mapping[str, Any]) -> Fix:
    def fix(conn: Connection) -> None:
        c = t.cubes.c
        conn.execute(update(t.cubes).where(c.id == id_, c.version == version).values(**values))

    return fix


def _say_again(table: Table, name: str, id_: str, version: int, meant: set[str]) -> Fix:
    def fix(conn: Connection) -> None:
        if conn.execute(_unchanged(id_, version)).first() is not None:
            conn.execute(delete(table).where(table.c.cube_id == id_))
            if meant:
                conn.execute(table.insert(), [{"cube_id": id_, name: value} for value in sorted(meant)])

    return fix


def _queue_again(id_: str) -> Fix:
    def fix(conn: Connection) -> None:
        conn.execute(delete(t.index_queue).where(t.index_queue.c.cube_id == id_))
        version = select(t.cubes.c.id, t.cubes.c.version).where(t.cubes.c.id == id_)
        conn.execute(t.index_queue.insert().from_select(["cube_id", "version"], version))

    return fix


def _drop_from_index(id_: str) -> Fix:
    def fix(conn: Connection) -> None:
        live = conn.execute(select(t.cubes.c.state, t.cubes.c.text).where(t.cubes.c.id == id_)).one_or_none()
        if live is None or live.state not in LIVE or not live.text.strip():
            for table in (t.vectors, t.index_queue):
                conn.execute(delete(table).where(table.c.cube_id == id_))

    return fix


def _damaged_versions(db: Database) -> Iterator[Problem]:
    v = t.versions.c
    for page in _pages(db, select(v.cube_id, v.version, v.cube), v.cube_id, v.version):
        for row in page:
            try:
                cube = from_kept(row.cube, StructureRegistry(), row.cube_id)
                if (cube.id, cube.version) != (row.cube_id, row.version):
                    raise VaultError(f"it says that it is version {cube.version} of cube {cube.id}")
            except (MemOSError, ValueError, TypeError, KeyError, AttributeError) as err:
                yield Problem("version", f"version {row.version} of cube {row.cube_id}: {err}")


# -- what is derived -----------------------------------------------------------------------------------------


def _vectors(db: Database) -> Iterator[Problem]:
    """Vectors that no search can use."""
    v = t.vectors.c
    bytes_ = db.engine.dialect.name == "sqlite"
    vector = type_coerce(v.vector, LargeBinary).label("vector") if bytes_ else v.vector
    for page in _pages(db, select(v.seq, v.cube_id, v.dims, vector), v.seq):
        for row in page:
            if not _usable(bytes(row.vector) if bytes_ else row.vector, row.dims):
                yield Problem(
                    "index", f"the vector of cube {row.cube_id} is damaged", _embed_again(row.cube_id)
                )


def _usable(vector: Any, dims: int) -> bool:
    if isinstance(vector, bytes):
        if len(vector) != 4 * dims:
            return False
        vector = np.frombuffer(vector, "<f4")
    with np.errstate(all="ignore"):
        length = float(np.linalg.norm(vector))
    return len(vector) == dims and np.isfinite(length) and (length < 1e-6 or abs(length - 1) < 1e-3)


def _embed_again(id_: str) -> Fix:
    again = _queue_again(id_)

    def fix(conn: Connection) -> None:
        conn.execute(delete(t.vectors).where(t.vectors.c.cube_id == id_))
        again(conn)

    return fix


def _orphans(db: Database) -> Iterator[Problem]:
    """Rows about cubes and plans that do not exist."""
    for table in _BELONGINGS:
        lost = table.c.cube_id.not_in(select(t.cubes.c.id))
        with db.read() as conn:
            n = conn.execute(select(func.count()).select_from(table).where(lost)).scalar_one()
        if n:
            yield Problem("orphan", f"{n} rows of {table.name} belong to no cube", _delete(table, lost))
    lost = t.session_plans.c.plan_id.not_in(select(t.plans.c.id))
    with db.read() as conn:
        n = conn.execute(select(func.count()).select_from(t.session_plans).where(lost)).scalar_one()
    if n:
        yield Problem("orphan", f"{n} sessions hold a plan that is gone", _delete(t.session_plans, lost))


def _delete(table: Table, condition: Any) -> Fix:
    def fix(conn: Connection) -> None:
        conn.execute(delete(table).where(condition))

    return fix

"""Upgrades of a vault's schema, and copies from one database to another.

An upgrade makes the newest schema anew and moves every row over, each through the steps between the versions.
A step is a function from rows to rows; no step changes a table, so an upgraded vault cannot differ from a new one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Table, func, select, text, update

from memos_core.errors import VaultError
from memos_core.vault import tables as t
from memos_core.vault.audit import chain_hash
from memos_core.vault.migratethreads import OLD_TABLES, move_threads
from memos_core.vault.rows import CubeDamaged, complete, complete_damaged

log = logging.getLogger("memos_core.vault")
Row = dict[str, Any]
_BATCH = 500


def upgrade(conn: Connection, stored: int, create: Callable[[Connection], None]) -> None:
    """Bring the SQLite vault behind `conn` from schema version `stored` to the newest, in its transaction.

    Args:
        create: makes the newest schema in an empty database.
    """
    old = _set_aside(conn)
    create(conn)
    made = {name for version in range(stored, t.SCHEMA_VERSION) for name in _MADE_BY_STEPS[version]}
    for table in t.metadata.sorted_tables:
        if table.name in old and table.name not in made:
            rows: Iterable[Row] = _stored(conn, _OLD + table.name)
            for version in range(stored, t.SCHEMA_VERSION):
                rows = _STEPS[version](table.name, rows)
            _insert(conn, table, rows)
    for version in range(stored, t.SCHEMA_VERSION):
        _AFTER[version](conn)
    fill_text_index(conn)
    for name in old:
        conn.exec_driver_sql(f"DROP TABLE {_OLD}{name}")
    stamp = update(t.meta).where(t.meta.c.key == "schema_version").values(value=str(t.SCHEMA_VERSION))
    conn.execute(stamp)


def upgrade_server(conn: Connection, stored: int) -> None:
    """Bring the PostgreSQL vault behind `conn` from schema version `stored` to the newest, in its transaction.

    Raises:
        VaultError: no release wrote that version there.
    """
    if stored != 2:  # version 1 was SQLite only
        raise VaultError(f"the vault is damaged: no release wrote schema version {stored} here")
    for name in OLD_TABLES:
        conn.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {_OLD}{name}")
        conn.exec_driver_sql(f"ALTER TABLE {_OLD}{name} RENAME CONSTRAINT {name}_pkey TO {_OLD}{name}_pkey")
    conn.exec_driver_sql("DROP INDEX ix_checkpoints_run")
    t.metadata.create_all(conn)
    next(index for index in t.cubes.indexes if index.name == "ix_cubes_updated").create(conn, checkfirst=True)
    move_threads(conn, _OLD)
    for name in OLD_TABLES:
        conn.exec_driver_sql(f"DROP TABLE {_OLD}{name}")
    stamp = update(t.meta).where(t.meta.c.key == "schema_version").values(value=str(t.SCHEMA_VERSION))
    conn.execute(stamp)


def copy_rows(source: Connection, target: Connection) -> None:
    """Copy every row of one vault into another that is new and empty, whatever databases they are on.

    Raises:
        VaultError: the target has memories already.
    """
    if target.execute(select(func.count()).select_from(t.cubes)).scalar_one():
        raise VaultError("the vault to copy into holds memories already; name a new one")
    target.execute(t.meta.delete())
    for table in t.metadata.sorted_tables:
        with source.execute(select(table).execution_options(yield_per=_BATCH)) as result:
            _insert(target, table, (dict(row._mapping) for row in result))
        if target.dialect.name == "postgresql" and "seq" in table.c:
            # The rows brought their own numbers: the next one must be above them.
            highest = select(func.coalesce(func.max(table.c.seq), 0) + 1).scalar_subquery()
            serial = func.pg_get_serial_sequence(table.name, "seq")
            target.execute(select(func.setval(serial, highest, False)))
    fill_text_index(target)


def fill_text_index(conn: Connection) -> None:
    """Put every live text into the text index, where it does not follow by itself."""
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql("INSERT INTO cube_fts(cube_fts) VALUES ('rebuild')")


def _set_aside(conn: Connection) -> set[str]:
    """Rename the tables of an older schema and drop what hangs on them; returns their names."""
    listed = conn.exec_driver_sql("SELECT type, name, sql FROM sqlite_master").all()
    for kind in ("trigger", "view"):
        for row in listed:
            if row.type == kind:
                conn.exec_driver_sql(f"DROP {kind} IF EXISTS {row.name}")
    virtual = {r.name for r in listed if r.type == "table" and str(r.sql).startswith("CREATE VIRTUAL")}
    for name in virtual:
        conn.exec_driver_sql(f"DROP TABLE {name}")
    for row in listed:
        if row.type == "index" and row.sql is not None:
            conn.exec_driver_sql(f"DROP INDEX {row.name}")
    ours = {*t.metadata.tables, *OLD_TABLES}
    names = {r.name for r in listed if r.type == "table" and r.name in ours}
    for name in names:
        conn.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {_OLD}{name}")
    return names


def _stored(conn: Connection, name: str) -> Iterator[Row]:
    result = conn.execute(text(f"SELECT * FROM {name} ORDER BY rowid"))  # noqa: S608 - one of our own tables
    for rows in result.mappings().partitions(_BATCH):
        yield from (dict(row) for row in rows)


def _insert(conn: Connection, table: Table, rows: Iterable[Row]) -> None:
    batch: list[Row] = []
    server = conn.dialect.name == "postgresql"
    for row in rows:
        if server and any(isinstance(value, str) and "\x00" in value for value in row.values()):
            which = row.get("id") or row.get("cube_id") or row.get("key")
            raise VaultError(
                f"{table.name} {which!r} holds a NUL character, which PostgreSQL cannot store; change or delete it in "
                "the vault that is copied"
            )
        batch.append(row)
        if len(batch) == _BATCH:
            conn.execute(table.insert(), batch)
            batch = []
    if batch:
        conn.execute(table.insert(), batch)


# -- from version 1: no duplicates, slots, validity, grants, labels, chain and checksums ---------------------


def _from_1(table: str, rows: Iterable[Row]) -> Iterator[Row]:
    chains: dict[tuple[str, str], tuple[int, str]] = {}
    for row in rows:
        if table == "cubes":
            try:
                yield complete(row)
            except CubeDamaged as err:
                log.error("%s", err)
                yield _storable(complete_damaged(row))
            continue
        if table == "versions":
            yield _version_from_1(row)
            continue
        row = _storable(row)
        if table == "audit":
            whose = (row["tenant"], row["user"])
            n, before = chains.get(whose, (0, ""))
            row["n"] = n + 1
            row["hash"] = chain_hash(before, row)
            chains[whose] = (row["n"], row["hash"])
            yield row
        else:
            yield row


def _version_from_1(row: Row) -> Row:
    try:
        kept = complete(json.loads(row["cube"]))
    except (CubeDamaged, ValueError, TypeError, AttributeError) as err:
        log.error("version %s of cube %s is damaged: %s", row["version"], row["cube_id"], err)
        # Its owner is that of its cube, see `_after_1`.
        return _storable({**row, "tenant": "", "user": "", "written_at": 0})
    new = {name: kept[name] for name in ("tenant", "user", "written_at")}
    return _storable({**row, "cube": json.dumps(kept, ensure_ascii=False), **new})


def _storable(row: Row) -> Row:
    """A row whose texts can be written: bytes that are no UTF-8 become signs that show them."""
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def _labels(header: Any) -> set[str]:
    try:
        return {label for label in json.loads(header)["sensitivity"] if isinstance(label, str)}
    except (ValueError, TypeError, KeyError):
        return set()


def _after_1(conn: Connection) -> None:
    conn.exec_driver_sql(_OWNERS)
    for row in conn.execute(select(t.cubes.c.id, t.cubes.c.header)).all():
        found = [{"cube_id": row.id, "label": label} for label in sorted(_labels(row.header))]
        if found:
            conn.execute(t.labels.insert(), found)
    last: dict[tuple[str, str], Row] = {}
    a = t.audit.c
    for record in conn.execute(select(a.tenant, a.user, a.n, a.hash).order_by(a.seq)):
        last[record.tenant, record.user] = dict(record._mapping)
    if last:
        conn.execute(t.audit_heads.insert(), list(last.values()))
    old = text(
        'INSERT INTO vectors (cube_id, tenant, "user", version, embedder, dims, vector, in_index) '
        'SELECT c.id, c.tenant, c."user", v.version, v.embedder, length(v.vector) / 4, v.vector, 0 '
        "FROM old_vectors v JOIN cubes c ON c.id = v.cube_id ORDER BY c.seq"
    )
    conn.execute(old)


_OLD = "old_"
_OWNERS = (  # of damaged versions
    'UPDATE versions SET (tenant, "user") = (SELECT c.tenant, c."user" FROM cubes c WHERE c.id = versions.cube_id) '
    "WHERE tenant = '' AND EXISTS (SELECT 1 FROM cubes c WHERE c.id = versions.cube_id)"
)
_MADE_BY_STEPS: Mapping[int, set[str]] = {1: {"vectors", "labels", "audit_heads"}, 2: set(OLD_TABLES)}
_STEPS: Mapping[int, Callable[[str, Iterable[Row]], Iterable[Row]]] = {1: _from_1, 2: lambda _, rows: rows}
_AFTER: Mapping[int, Callable[[Connection], None]] = {1: _after_1, 2: lambda conn: move_threads(conn, _OLD)}

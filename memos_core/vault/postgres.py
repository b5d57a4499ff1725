"""The vault's database on PostgreSQL, with pgvector: a pool of connections, any number of hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    QueuePool,
    String,
    TableValuedAlias,
    bindparam,
    column,
    create_engine,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from memos_core.errors import VaultError, missing_extra
from memos_core.vault import tables as t
from memos_core.vault.database import LOCAL_TEXTS, POOL_S, READ_ONLY, Database, Location, TextScope
from memos_core.vault.migrate import copy_rows, upgrade_server
from memos_core.vault.sqlite import SQLite
from memos_core.vault.words import bm25

_ENGLISH: ColumnElement[Any] = literal_column("'english'::regconfig")
_WITH_CONTENT = {
    "cubes",
    "versions",
    "vectors",
    "plans",
    "checkpoints",
    "checkpoint_chunks",
    "threads",
    "checkpoint_writes",
}
_STATES = (  # SQLSTATE classes
    ("25006", READ_ONLY),
    ("53100", "cannot be written: the server's disk is full; nothing of this call was stored"),
    ("53", "cannot be used now: the server has no room for it"),
    ("54", "cannot store this: a value is too long for the server; nothing of this call was stored"),
    ("40", "was changed by another writer at the same moment; nothing was stored, try again"),
    ("28", "refuses this login"),
    ("3D", "does not exist"),
    ("42501", "refuses this user the right"),
)
_SETUP_LOCK = 0x4D656D4F53  # "MemOS": hosts that open a new vault at once take turns


class Postgres(Database):
    """One PostgreSQL database (or a schema of it, with `?options=-csearch_path%3Dname`). See `Database`.

    Raises:
        MissingExtra: psycopg or pgvector is not installed.
    """

    insert = staticmethod(postgresql.insert)
    owns_whole_database = False

    def _connect(self) -> Engine:
        try:
            import pgvector.sqlalchemy  # noqa: F401
            import psycopg  # noqa: F401
        except ImportError as err:
            raise missing_extra(err.name or "psycopg", "postgres") from None
        server = self.location.server
        assert server is not None
        return create_engine(
            server,
            poolclass=QueuePool,
            pool_size=8,
            max_overflow=24,
            pool_timeout=POOL_S,
            pool_pre_ping=True,  # a server that was restarted is not an error
        )

    def _take_turns(self, conn: Connection) -> None:
        conn.execute(select(func.pg_advisory_xact_lock(_SETUP_LOCK)))

    def _create(self, conn: Connection) -> None:
        try:
            conn.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
        except DBAPIError as err:
            raise VaultError(
                f"the vault {self.location.label} needs pgvector: have `CREATE EXTENSION vector` run in that "
                f"database ({_first_line(err.orig or err)})"
            ) from None
        t.metadata.create_all(conn)
        for statement in t.POSTGRES_DDL:
            conn.exec_driver_sql(statement)

    def _migrate(self, stored: int) -> None:
        with self.write() as conn:
            self._take_turns(conn)
            found = self._stored_version(conn)  # another host may have been first
            if found is not None and found < t.SCHEMA_VERSION:
                upgrade_server(conn, found)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """See `Database.read`."""
        held = self._held_here()
        with self._sentences():
            if held is not None:
                yield held
                return
            with self.engine.connect() as conn:
                yield conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def write(self, *, derived: bool = False, brief: bool = False) -> Iterator[Connection]:
        """See `Database.write`. Writers of one user wait for each other at its row in `audit_heads`; of several users,
        the server commits together what it can."""
        with self._sentences(), self.engine.connect() as conn, conn.begin():
            if derived:
                conn.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
            yield conn

    def lexical(
        self, conn: Connection, words: Sequence[str], within: TextScope, limit: int
    ) -> list[tuple[str, float]]:
        """See `Database.lexical`. Few texts are scored by BM25, as on SQLite; of many the score is `ts_rank`: how
        often and how near, not how rare a word is."""
        c = t.cubes.c
        each = [func.plainto_tsquery(_ENGLISH, word) for word in words]
        query: ColumnElement[Any] = each[0]
        for other in each[1:]:
            query = query.op("||")(other)
        vector: ColumnElement[Any] = literal_column(t.TSVECTOR)
        found = (vector.op("@@")(query), text(t.LIVE_TEXT), within.which.where())
        few = conn.execute(select(c.id, c.text).where(*found).limit(LOCAL_TEXTS + 1)).all()
        if len(few) <= LOCAL_TEXTS:
            scores = bm25(words, [row.text for row in few], total=within.size(conn))
            ranked = sorted(zip((row.id for row in few), scores, strict=True), key=lambda x: (-x[1], x[0]))
            return ranked[:limit]
        score = func.ts_rank(vector, query).label("score")
        best = select(c.id, score).where(*found).order_by(score.desc(), c.id).limit(limit)
        return [(row.id, float(row.score)) for row in conn.execute(best)]

    def add_texts(self, conn: Connection, ids: Sequence[str]) -> None:
        """See `Database.add_texts`: here it is an index like the others."""

    def listed(self, values: Sequence[str]) -> Any:
        """See `Database.listed`."""
        return list(values)

    def each(self, name: str) -> TableValuedAlias:
        """See `Database.each`."""
        given = bindparam(name, type_=postgresql.ARRAY(String))
        return func.unnest(given).table_valued(column("value", String)).render_derived()

    def scrub(self) -> bool:
        """See `Database.scrub`. The server's autovacuum does it in its own time."""
        return True

    def compact(self) -> bool:
        """See `Database.compact`. Rewrites the tables; the server's own write-ahead log, replicas and backups
        are its administrator's to clear."""
        with self._sentences(), self.engine.connect() as conn:
            alone = conn.execution_options(isolation_level="AUTOCOMMIT")
            for table in t.metadata.sorted_tables:
                if table.name in _WITH_CONTENT:
                    alone.exec_driver_sql(f"VACUUM FULL {table.name}")
        return True

    def damage(self) -> list[str]:
        """See `Database.damage`. PostgreSQL has no check of its own that a client may run."""
        try:
            with self.read() as conn:
                for table in t.metadata.sorted_tables:
                    conn.execute(select(func.count()).select_from(table))
        except VaultError as err:
            return [str(err)]
        return []

    def backup(self, file: Path) -> None:
        """See `Database.backup`: a SQLite vault with the same rows, from one snapshot."""
        target = SQLite(Location(file, None))
        try:
            with self.read() as source, target.write() as into:
                copy_rows(source, into)
        finally:
            target.close()

    def _reason(self, err: BaseException) -> str:
        from psycopg import DatabaseError, OperationalError

        said = _first_line(err)
        state = getattr(err, "sqlstate", None) or ""
        for sign, meaning in _STATES:
            if state.startswith(sign):
                return f"{meaning} ({said})"
        if "number of parameters" in said:
            return f"cannot take so many values at once ({said})"
        if isinstance(err, OperationalError):
            return f"cannot be reached: {said}"
        return f"rejected the data: {said}" if isinstance(err, DatabaseError) else f"failed: {said}"


def _first_line(err: BaseException) -> str:
    return str(err).strip().partition("\n")[0]

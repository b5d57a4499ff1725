"""Opens the database behind a vault: location, pragmas, schema version, transactions, error sentences."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, inspect, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from memos_core.cube import new_id
from memos_core.errors import InvalidArgument, VaultError, VaultNewer
from memos_core.vault import tables as t

_FILE_SUFFIXES = {".db", ".sqlite", ".sqlite3"}
_BUSY_MS = 60_000
_POOL_S = 120


@dataclass(frozen=True)
class Location:
    """Where a vault lies. `file` is None for a vault in memory; `home` holds its derived files."""

    file: Path | None
    home: Path | None

    @property
    def label(self) -> str:
        """How messages call it."""
        return str(self.file) if self.file else ":memory:"


def locate(url: str | os.PathLike[str]) -> Location:
    """Understand what a user passes to `MemOS.open`.

    Args:
        url: a folder (`.memos/mine`), a database file (`agent.db`), `sqlite:///…`, or `:memory:`.

    Raises:
        InvalidArgument: empty, or a database we do not speak.
    """
    text = os.fspath(url)
    if text.startswith("sqlite://"):
        text = (
            text.removeprefix("sqlite:///")
            if text.startswith("sqlite:///")
            else text.removeprefix("sqlite://")
        )
        text = text or ":memory:"
    elif "://" in text:
        raise InvalidArgument(
            f"url: {text.split('://')[0]}:// is not a vault this release can open; "
            "pass a folder, a .db file, sqlite:///PATH or :memory:"
        )
    if text == ":memory:":
        return Location(None, None)
    if not text.strip() or "\x00" in text:
        raise InvalidArgument("url must name a folder or a database file, it is empty")
    path = Path(text).expanduser().absolute()
    if path.suffix in _FILE_SUFFIXES:
        return Location(path, path.with_suffix(".derived"))
    return Location(path / "vault.db", path)


class Database:
    """One SQLite database: short transactions, one writer at a time, any number of readers.

    Args:
        location: from `locate`.

    Raises:
        VaultError: the folder or file cannot be created, opened or read.
        VaultNewer: a newer release wrote it.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._write_lock = threading.Lock()
        self._closed = False
        if location.file is not None:
            try:
                location.file.parent.mkdir(parents=True, exist_ok=True)
                if not location.file.exists():  # what people told an agent is theirs to read
                    location.file.touch(mode=0o600)
            except OSError as err:
                raise VaultError(
                    f"cannot create the vault folder {location.file.parent}: {err.strerror or err}"
                ) from None
        self.engine = _engine(location)
        try:
            self._set_up()
        except BaseException:
            self.engine.dispose()
            raise

    def _set_up(self) -> None:
        # Look before taking the write lock: opening an up-to-date vault writes nothing.
        with self.read() as conn:
            if {"meta", "cubes"} <= set(inspect(conn).get_table_names()) and self._check_version(conn):
                return
        with self.write() as conn:
            tables = set(inspect(conn).get_table_names())
            if tables and not {"meta", "cubes"} <= tables:
                raise VaultError(
                    f"{self.location.label} is another program's SQLite database; pass a path of its own"
                )
            t.metadata.create_all(conn)
            conn.exec_driver_sql(t.FTS_DDL)
            if not self._check_version(conn):
                rows = [
                    {"key": "schema_version", "value": str(t.SCHEMA_VERSION)},
                    {"key": "vault_id", "value": new_id()},
                ]
                conn.execute(t.meta.insert(), rows)

    def _check_version(self, conn: Connection) -> bool:
        stored = conn.execute(select(t.meta.c.value).where(t.meta.c.key == "schema_version")).scalar()
        if stored is None:
            return False
        if not stored.isdecimal():
            raise VaultError(f"the vault {self.location.label} is damaged: its schema version is {stored!r}")
        if int(stored) > t.SCHEMA_VERSION:
            raise VaultNewer(
                f"the vault {self.location.label} has schema version {stored}, "
                f"this release reads up to {t.SCHEMA_VERSION}; upgrade memos-core"
            )
        return True

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with self._sentences(), self.engine.connect() as conn:
            yield conn

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed whole when the block ends, or not at all."""
        with self._sentences(), self._write_lock, self.engine.connect() as conn:
            conn = conn.execution_options(memos_write=True)
            with conn.begin():
                yield conn

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn driver errors into one sentence each."""
        if self._closed:
            raise VaultError(f"the vault {self.location.label} is closed; open it again")
        try:
            yield
        except UnicodeEncodeError:
            raise InvalidArgument("a text holds a lone surrogate, which is not valid Unicode") from None
        except OverflowError:
            raise InvalidArgument("a number is too large for the vault (64 bits)") from None
        except PoolTimeout:
            raise VaultError(
                f"the vault {self.location.label} was busy for {_POOL_S} seconds; use fewer threads at once"
            ) from None
        except DBAPIError as err:
            raise VaultError(f"the vault {self.location.label} {_reason(err)}") from err

    def truncate_log(self) -> None:
        """Move the write-ahead log into the database and empty it, if nobody is using it right now."""
        if self.location.file is None:
            return
        with self._sentences(), self.engine.connect() as conn:
            dbapi = conn.connection.dbapi_connection
            assert dbapi is not None
            cursor = dbapi.cursor()
            cursor.execute("PRAGMA busy_timeout=0")
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
                cursor.close()

    def close(self) -> None:
        """Close every connection. What uses the database afterwards gets a VaultError."""
        self._closed = True
        self.engine.dispose()


def _reason(err: DBAPIError) -> str:
    text = str(err.orig)
    for sign, meaning in (
        ("readonly", "cannot be written: it is read-only"),
        ("unable to open", "cannot be opened: check that the folder exists and may be written"),
        ("full", "cannot be written: the disk is full; nothing of this call was stored"),
        ("disk I/O", "cannot be read or written: the disk reports an error"),
        ("malformed", "is damaged; restore a backup"),
        ("not a database", "is not a vault: the file is no SQLite database, or it is damaged"),
        ("locked", f"was busy for {_BUSY_MS // 1000} seconds; another process holds a transaction open"),
    ):
        if sign in text:
            return meaning
    kind = "rejected the data" if isinstance(err, DatabaseError) else "failed"
    return f"{kind}: {text}"


def _engine(location: Location) -> Engine:
    file = location.file
    # An in-memory vault has one connection, checked out by one thread at a time.
    size: dict[str, Any] = (
        {"pool_size": 8, "max_overflow": 24} if file else {"pool_size": 1, "max_overflow": 0}
    )
    engine = create_engine(
        URL.create("sqlite", database=str(file) if file else None),  # a path may hold "?" or "%"
        poolclass=QueuePool,
        pool_timeout=_POOL_S,
        connect_args={"check_same_thread": False, "timeout": _BUSY_MS / 1000},
        **size,
    )

    @event.listens_for(engine, "connect")
    def _on_connect(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # transactions are begun below, explicitly
        cursor = dbapi.cursor()
        if file:
            _use_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")  # acknowledged means on the disk
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.execute("PRAGMA cache_size=-16000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(conn: Connection) -> None:
        # A writer takes the write lock at once: upgrading a read later can fail with "locked".
        conn.exec_driver_sql(
            "BEGIN IMMEDIATE" if conn.get_execution_options().get("memos_write") else "BEGIN"
        )

    return engine


def _use_wal(cursor: Any) -> None:
    """Switch to write-ahead logging. SQLite does not wait its turn for this, so we do: processes that open a
    new vault at the same moment are in each other's way."""
    deadline = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as err:
            if "locked" not in str(err) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)

"""The vault's database on SQLite: one file, write-ahead log, any number of processes."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Connection,
    Engine,
    QueuePool,
    RootTransaction,
    TableValuedAlias,
    create_engine,
    event,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import TimeoutError as PoolTimeout

from memos_core.errors import VaultError
from memos_core.vault import tables as t
from memos_core.vault.database import POOL_S, READ_ONLY, Database, Location, TextScope
from memos_core.vault.fulltext import each, lexical
from memos_core.vault.groupcommit import GroupCommit
from memos_core.vault.migrate import upgrade
from memos_core.vault.prepared import any_text, driver

_BUSY_MS = 60_000
_IDLE = 8  # connections that are kept
_READERS = 64  # at once; others wait for their turn
_READERS_MS = 1_000  # how long a rewritten file waits for those who read the old one


class SQLite(Database):
    """One SQLite database: one writer at a time, any number of readers. See `Database`."""

    insert = staticmethod(sqlite.insert)
    driver_errors = (sqlite3.Error,)

    def __init__(self, location: Location) -> None:
        self._writes = GroupCommit(self._begin_write, self._end_write)
        # To take a connection from SQLAlchemy's pool and give it back costs more than most reads: some wait here.
        self._idle: deque[Connection] = deque()
        self._writer: Connection | None = None
        self._room = threading.BoundedSemaphore(_READERS)
        self._seen: object = None  # of a file that is read as it lies: what it was when it was opened
        if location.file is not None:
            try:
                location.file.parent.mkdir(parents=True, exist_ok=True)
                log = location.file.with_name(location.file.name + "-wal")
                if _is_empty(location.file) and log.exists() and not _is_empty(log):
                    raise VaultError(  # SQLite would throw away what is left
                        f"the vault {location.file} is damaged: the file is empty, but its log {log.name} is not; "
                        "restore a backup"
                    )
                if not location.file.exists():  # what people told an agent is theirs to read
                    location.file.touch(mode=0o600)
            except OSError as err:
                raise VaultError(
                    f"cannot create the vault folder {location.file.parent}: {err.strerror or err}"
                ) from None
        super().__init__(location)

    def _connect(self) -> Engine:
        as_it_lies = _only_readable(self.location.file)
        self._seen = _state(self.location.file) if as_it_lies else None
        return _engine(self.location.file, as_it_lies=as_it_lies)

    def _take_turns(self, conn: Connection) -> None:
        """Nothing to do: a write transaction is alone."""

    def _create(self, conn: Connection) -> None:
        create(conn)

    def _migrate(self, stored: int) -> None:
        """First on a copy beside the file, which must come out whole; then in one transaction."""
        file = self.location.file
        if file is not None:
            copy = file.with_name(file.name + ".migrating")
            copy.unlink(missing_ok=True)
            try:
                self.backup(copy)
                trial = _engine(copy)
                try:
                    with trial.connect() as conn, conn.execution_options(memos_write=True).begin():
                        upgrade(conn, stored, create)
                    with trial.connect() as conn:
                        wrong = _check(conn)
                finally:
                    trial.dispose()
                if wrong:
                    raise VaultError(
                        f"the vault {self.location.label} was not upgraded, its copy came out damaged: {wrong[0]}"
                    )
            finally:
                for suffix in ("", "-wal", "-shm"):
                    copy.with_name(copy.name + suffix).unlink(missing_ok=True)
        with self.write() as conn:
            found = self._stored_version(conn)  # another process may have been first
            if found is not None and found < t.SCHEMA_VERSION:
                upgrade(conn, found, create)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """See `Database.read`."""
        held = self._held_here()
        with self._sentences():
            if held is not None:
                yield held
                return
            if not self._room.acquire(timeout=POOL_S):
                raise PoolTimeout
            try:
                yield from self._reading()
            finally:
                self._room.release()

    def _reading(self) -> Iterator[Connection]:
        self._look_again()
        try:
            conn = self._idle.pop()
        except IndexError:
            conn = self.engine.connect()
        try:
            yield conn
        except BaseException:
            conn.close()
            raise
        conn.rollback()
        if self._closed or self.location.file is None or len(self._idle) >= _IDLE:
            conn.close()
        else:
            self._idle.append(conn)

    def _look_again(self) -> None:
        """Open a file that was read as it lies once more if somebody writes to it: SQLite itself would not notice."""
        if self._seen is None or self._seen == (now := _state(self.location.file)):
            return
        with self._writes.excluded():
            if self._seen is not None and self._seen != now:
                while self._idle:
                    self._idle.pop().close()
                self.engine.dispose()
                self.engine = self._connect()

    @contextmanager
    def write(self, *, derived: bool = False, brief: bool = False) -> Iterator[Connection]:
        """See `Database.write`."""
        # A vault in memory has nothing to wait for, and one connection for all.
        alone = not brief or self.location.file is None
        with self._sentences(), self._writes.block(synced=not derived, alone=alone) as conn:
            yield conn

    def _begin_write(self, synced: bool) -> tuple[Connection, RootTransaction]:
        conn, self._writer = self._writer or self.engine.connect(), None
        try:
            if self._closed:  # while this waited for its turn
                raise VaultError(f"the vault {self.location.label} is closed; open it again")
            conn.execution_options(memos_write=True)
            driver(conn).execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
            return conn, conn.begin()
        except BaseException:
            conn.close()
            raise

    def _end_write(self, conn: Connection, whole: bool) -> None:
        if whole and self.location.file is not None and not self._closed:
            self._writer = conn
        else:
            driver(conn).execute("PRAGMA synchronous=FULL")
            conn.close()

    def close(self) -> None:
        """See `Database.close`."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        with self._writes.excluded():
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        super().close()

    def lexical(
        self, conn: Connection, words: Sequence[str], within: TextScope, limit: int
    ) -> list[tuple[str, float]]:
        """See `Database.lexical`."""
        return lexical(conn, self.prepared, words, within, limit)

    def add_texts(self, conn: Connection, ids: Sequence[str]) -> None:
        """See `Database.add_texts`."""
        driver(conn).execute(t.ADD_TEXTS, (self.listed(ids),))

    def listed(self, values: Sequence[str]) -> Any:
        """See `Database.listed`."""
        return json.dumps(list(values))

    def each(self, name: str) -> TableValuedAlias:
        """See `Database.each`."""
        return each(name)

    def scrub(self) -> bool:
        """See `Database.scrub`: the text index keeps deleted words until its segments are merged, the
        write-ahead log until it is truncated."""
        with self.write() as conn:
            conn.exec_driver_sql("INSERT INTO cube_fts(cube_fts) VALUES ('optimize')")
        return self._truncate_log()

    def compact(self) -> bool:
        """See `Database.compact`."""
        with self.write() as conn:
            conn.exec_driver_sql("INSERT INTO cube_fts(cube_fts) VALUES ('optimize')")
        with self._sentences(), self._writes.excluded(), self.engine.connect() as conn:
            cursor = driver(conn).cursor()
            try:
                cursor.execute("VACUUM")
            except sqlite3.OperationalError as err:
                raise VaultError(f"the vault {self.location.label} cannot be compacted: {err}") from err
            finally:
                cursor.close()
        return self._truncate_log(_READERS_MS)

    def damage(self) -> list[str]:
        """See `Database.damage`."""
        try:
            with self.read() as conn:
                return _check(conn)
        except VaultError as err:
            return [str(err)]

    def backup(self, file: Path) -> None:
        """See `Database.backup`: SQLite's online backup, which a writer may interrupt but not spoil.

        Raises:
            VaultError: the file cannot be written.
        """
        try:
            with closing(sqlite3.connect(file)) as copy, self._sentences(), self.engine.connect() as conn:
                driver(conn).backup(copy, pages=4096)
                copy.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as err:
            raise VaultError(f"the copy {file} cannot be written: {err}") from err

    def _truncate_log(self, patience_ms: int = 0) -> bool:
        """Move the write-ahead log into the database and empty it. False: somebody goes on reading an older state."""
        if self.location.file is None:
            return True
        with self._sentences(), self.engine.connect() as conn:
            cursor = driver(conn).cursor()
            cursor.execute(f"PRAGMA busy_timeout={patience_ms}")
            deadline = time.monotonic() + patience_ms / 1000
            try:
                while cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    if time.monotonic() >= deadline:
                        return False
                    time.sleep(0.01)  # for somebody else's checkpoint SQLite does not wait
                return True
            finally:
                cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
                cursor.close()

    def _reason(self, err: BaseException) -> str:
        said = str(err)
        for sign, meaning in (
            ("readonly", READ_ONLY),
            ("unable to open", "cannot be opened: check that the folder exists and may be written"),
            ("full", "cannot be written: the disk is full; nothing of this call was stored"),
            ("disk I/O", "cannot be read or written: the disk reports an error"),
            ("malformed", "is damaged; restore a backup, or see what `memos doctor` can save"),
            ("not a database", "is not a vault: the file is no SQLite database, or it is damaged"),
            ("locked", f"was busy for {_BUSY_MS // 1000} seconds; another process holds a transaction open"),
        ):
            if sign in said:
                return meaning
        kind = "rejected the data" if isinstance(err, sqlite3.DatabaseError) else "failed"
        return f"{kind}: {said}"


def _only_readable(file: Path | None) -> bool:
    """Whether the folder is closed to us and nobody has the vault open: then it is read without the log and the
    locks, which cannot be made there."""
    if file is None or not file.exists() or _is_empty(file) or os.access(file.parent, os.W_OK):
        return False
    return not file.with_name(file.name + "-wal").exists()


def _state(file: Path | None) -> object:
    """What changes when somebody writes to the file or opens it for writing."""
    assert file is not None
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino, file.with_name(file.name + "-wal").exists()


def _is_empty(file: Path) -> bool:
    return file.exists() and file.stat().st_size == 0


def create(conn: Connection) -> None:
    """Make the newest schema in an empty SQLite database."""
    t.metadata.create_all(conn)
    for statement in t.FTS5_DDL:
        conn.exec_driver_sql(statement)


def _check(conn: Connection) -> list[str]:
    found = [str(row[0]) for row in conn.exec_driver_sql("PRAGMA integrity_check(20)")]
    return [] if found == ["ok"] else found


def _engine(file: Path | None, *, as_it_lies: bool = False) -> Engine:
    # An in-memory vault has one connection, checked out by one thread at a time.
    size: dict[str, Any] = (
        {"pool_size": 8, "max_overflow": -1} if file else {"pool_size": 1, "max_overflow": 0}
    )
    engine = create_engine(
        _address(file, as_it_lies),
        poolclass=QueuePool,
        pool_timeout=POOL_S,
        connect_args={"check_same_thread": False, "timeout": _BUSY_MS / 1000},
        **size,
    )

    @event.listens_for(engine, "connect")
    def _on_connect(dbapi: Any, _record: Any) -> None:
        dbapi.text_factory = any_text
        dbapi.isolation_level = None  # transactions are begun below, explicitly
        cursor = dbapi.cursor()
        if file and not as_it_lies:
            _use_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")  # acknowledged means on the disk
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.execute("PRAGMA cache_size=-16000")
        cursor.execute("PRAGMA temp_store=MEMORY")  # what VACUUM rewrites is not written elsewhere
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(conn: Connection) -> None:
        # A writer takes the write lock at once: upgrading a read later can fail with "locked".
        driver(conn).execute(
            "BEGIN IMMEDIATE" if conn.get_execution_options().get("memos_write") else "BEGIN"
        )

    return engine


def _address(file: Path | None, as_it_lies: bool) -> URL:
    if file is None:
        return URL.create("sqlite")
    if as_it_lies:
        query = {"mode": "ro", "immutable": "1", "uri": "true"}
        return URL.create("sqlite", database=f"file:{quote(str(file))}", query=query)
    return URL.create("sqlite", database=str(file))  # a path may hold "?" or "%"


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

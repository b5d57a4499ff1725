"""Whole copies of a vault: backups, and vaults moved from one database to another."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import NullPool, create_engine, inspect, update
from sqlalchemy.exc import DBAPIError

from memos_core.errors import InvalidArgument, VaultError, missing_extra
from memos_core.vault import tables as t
from memos_core.vault.check import damaged_cubes
from memos_core.vault.connect import locate, open_database
from memos_core.vault.database import Database, Location
from memos_core.vault.erase import any_rows
from memos_core.vault.migrate import copy_rows
from memos_core.vault.sqlite import SQLite

PARTIAL = ".partial"


def back_up(db: Database, dest: str | os.PathLike[str]) -> Path:
    """Write a checked copy of a vault to a new SQLite file; see `MemOS.backup`."""
    target = locate(dest)
    if target.file is None:
        raise InvalidArgument(f"dest must be a folder or a .db file, got {target.label}")
    file = target.file
    if file.exists():
        raise InvalidArgument(f"dest: {file} exists; name a new file or folder")
    partial = file.with_name(file.name + PARTIAL)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        partial.touch(mode=0o600)  # what people told an agent is theirs to read
        db.backup(partial)
        _check(partial)
        _publish(partial, file)
    except OSError as err:
        raise VaultError(f"the backup {file} cannot be written: {err.strerror or err}") from err
    finally:
        with suppress(OSError):  # what went wrong before this is what the caller must hear of
            _remove(partial)
    return file


def copy_vault(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy everything of a vault into a new or empty one, on the same or another database.

    Args:
        source, target: see `locate`. The source may be a backup of an older release; it is not changed.

    Raises:
        InvalidArgument: there is no vault at `source`, or `target` holds something already.
        VaultError: one cannot be read or written; then nothing is in the target.
    """
    origin = locate(source)
    if origin.server is None and (origin.file is None or not origin.file.is_file()):
        raise InvalidArgument(f"source: there is no vault at {origin.label}; name a backup's file or folder")
    with TemporaryDirectory(prefix="memos-restore-") as folder:
        taken = open_database(origin if origin.server else _taken(origin, Path(folder)))
        try:
            _copy_into(taken, locate(target))
        finally:
            taken.close()


def _copy_into(source: Database, location: Location) -> None:
    target = open_database(location)
    try:
        with source.read() as rows, target.write() as into:
            if any_rows(into):
                raise InvalidArgument(
                    f"the vault {location.label} holds something already; name a new one to copy into"
                )
            copy_rows(rows, into)
            into.execute(update(t.vectors).values(in_index=False))  # Chroma's files are not copied
    finally:
        target.close()


def _taken(origin: Location, folder: Path) -> Location:
    """A copy of a SQLite vault in a private folder: opening it may have to upgrade it."""
    assert origin.file is not None
    copy = folder / "vault.db"
    try:
        with closing(_connect(origin.file)) as stored, closing(sqlite3.connect(copy)) as taken:
            stored.backup(taken)
    except sqlite3.Error as err:
        raise VaultError(f"the vault {origin.file} cannot be read: {err}") from err
    return Location(copy, None)


def _connect(file: Path) -> Any:
    return sqlite3.connect(file.as_uri() + "?mode=ro", uri=True, timeout=60)


def _check(file: Path) -> None:
    copy = SQLite(Location(file, None))
    try:
        wrong = copy.damage() or [str(what) for what in damaged_cubes(copy)]
    finally:
        copy.close()
    if wrong:
        raise VaultError(f"the backup was not kept, because what it copied is damaged: {wrong[0]}")
    with closing(sqlite3.connect(file)) as conn:  # opening it turned the log on; a backup is one file
        conn.execute("PRAGMA journal_mode=DELETE")


def _publish(partial: Path, file: Path) -> None:
    """Give a finished file its name, on stable storage, unless somebody else took the name meanwhile."""
    with partial.open("rb+") as stream:
        os.fsync(stream.fileno())
    try:
        os.link(partial, file)
    except FileExistsError:
        raise InvalidArgument(f"dest: {file} exists; name a new file or folder") from None
    except OSError:  # a file system without links
        os.replace(partial, file)
    if os.name == "posix":
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _remove(file: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def is_vault(location: Location) -> bool:
    """Whether there is a vault, without making one.

    Raises:
        OSError: its folder cannot be looked at. VaultError: the server cannot be reached.
    """
    if location.server is None:
        return location.file is not None and location.file.exists()
    try:
        engine = create_engine(location.server, poolclass=NullPool)
    except ImportError as err:
        raise missing_extra(err.name or "psycopg", "postgres") from None
    try:
        with engine.connect() as conn:
            return {"meta", "cubes"} <= set(inspect(conn).get_table_names())
    except DBAPIError as err:
        said = str(err.orig).strip().partition("\n")[0]
        raise VaultError(f"the vault {location.label} cannot be reached: {said}") from err

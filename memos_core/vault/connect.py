"""Chooses the database behind a vault from what a user passes."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from memos_core.errors import InvalidArgument
from memos_core.localfiles import cache_folder
from memos_core.vault.database import Database, Location, public_query

_FILE_SUFFIXES = {".db", ".sqlite", ".sqlite3"}
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")


def locate(url: str | os.PathLike[str]) -> Location:
    """Understand what a user passes to `MemOS.open`.

    Args:
        url: a folder (`.memos/mine`), a database file (`agent.db`), `sqlite:///…`, `:memory:`, or
            `postgresql://user@host/database`.

    Raises:
        InvalidArgument: empty, or a database we do not speak.
    """
    text = os.fspath(url)
    kind = text.partition("://")[0]
    if kind in _POSTGRES and "://" in text:
        return _server(text)
    if text.startswith("sqlite://"):
        text = (
            text.removeprefix("sqlite:///")
            if text.startswith("sqlite:///")
            else text.removeprefix("sqlite://")
        )
        text = text or ":memory:"
    elif "://" in text:
        raise InvalidArgument(
            f"url: {kind}:// is not a vault this release can open; "
            "pass a folder, a .db file, sqlite:///PATH, :memory: or postgresql://USER@HOST/DATABASE"
        )
    if text == ":memory:":
        return Location(None, None)
    if not text.strip() or "\x00" in text:
        raise InvalidArgument("url must name a folder or a database file, it is empty")
    path = Path(text).expanduser().absolute()
    if path.suffix in _FILE_SUFFIXES:
        return Location(path, path.with_suffix(".derived"))
    return Location(path / "vault.db", path)


def open_database(location: Location) -> Database:
    """Open it, making the vault in it where there is none.

    Raises:
        VaultError, VaultNewer: see `Database`. MissingExtra: PostgreSQL without its driver.
    """
    if location.server is not None:
        from memos_core.vault.postgres import Postgres

        return Postgres(location)
    from memos_core.vault.sqlite import SQLite

    return SQLite(location)


def _server(text: str) -> Location:
    try:
        url = make_url(text).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        # Not repeated: it may hold a password.
        raise InvalidArgument(
            "url must be like postgresql://USER@HOST:5432/DATABASE, it has another form"
        ) from None
    password = url.query.get("password")
    if password is not None:  # where nothing shows it
        url = url.set(password=password if isinstance(password, str) else password[-1])
        url = url.difference_update_query(["password"])
    if not url.database:
        raise InvalidArgument("url names no database; add /DATABASE to it, before any '?'")
    return Location(None, _host_folder(url), url)


def _host_folder(url: URL) -> Path:
    """Where this host keeps what it derives from a vault on a server: in the user's cache."""
    place = f"{url.host}|{url.port}|{url.database}|{sorted(public_query(url).items())}"
    return cache_folder() / "vaults" / sha256(place.encode()).hexdigest()[:32]

"""What the vault needs of a database: short transactions, one sentence for every failure. Two kinds exist,
`vault/sqlite.py` and `vault/postgres.py`; `vault/connect.py` chooses."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import (
    Connection,
    Engine,
    Table,
    TableValuedAlias,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from memos_core.cube import new_id
from memos_core.errors import InvalidArgument, MemOSError, VaultError, VaultNewer, VaultReadOnly
from memos_core.vault import tables as t
from memos_core.vault.filter import CubeFilter
from memos_core.vault.prepared import Prepared

POOL_S = 120
READ_ONLY = "cannot be written: it is read-only"
_TOO_LARGE = "22003"  # PostgreSQL: numeric_value_out_of_range
LOCAL_TEXTS = 500  # so many texts that hold a word are scored here, among themselves
_SECRETS = ("password", "passfile", "secret", "scram_")  # in names of libpq's parameters
# More texts than this count as this many: rarity is a logarithm.
_SIZE_OF_ALL = text("SELECT count(*) FROM (SELECT 1 FROM cubes WHERE tenant = :tenant LIMIT 20000) AS found")
_SIZE = text(
    'SELECT count(*) FROM (SELECT 1 FROM cubes WHERE tenant = :tenant AND "user" = :user LIMIT 20000) AS found'
)


@dataclass(frozen=True)
class TextScope:
    """Where a search by words looks.

    Args:
        tenant, owners: the tenant, and the users of it whose texts may match; None for all.
        which: what decides. prepared: the database's statements.
    """

    tenant: str
    owners: Sequence[str] | None
    which: CubeFilter
    prepared: Prepared

    def size(self, conn: Connection) -> int:
        """About how many cubes the owners have."""
        run = self.prepared.execute
        if self.owners is None:
            return int(run(conn, _SIZE_OF_ALL, {"tenant": self.tenant})[0][0])
        return sum(
            int(run(conn, _SIZE, {"tenant": self.tenant, "user": owner})[0][0]) for owner in self.owners
        )


@dataclass(frozen=True)
class Location:
    """Where a vault lies.

    Args:
        file: the SQLite file; None for one in memory and on PostgreSQL.
        home: the folder of what is derived from it (KV files, Chroma); None for a vault in memory.
        server: the PostgreSQL database, or None.
    """

    file: Path | None
    home: Path | None
    server: URL | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """How messages call it; never with a password."""
        if self.server is not None:
            return _public(self.server).render_as_string(hide_password=True)
        return str(self.file) if self.file else ":memory:"

    @property
    def url(self) -> str | None:
        """What opens it again, in any process; without a password. None for a vault in memory."""
        if self.server is not None:
            return _public(self.server, password=False).render_as_string()
        if self.file is None:
            return None
        return str(self.home if self.home == self.file.parent else self.file)


def public_query(server: URL) -> Mapping[str, str | tuple[str, ...]]:
    """What the query of a URL says but for secrets."""
    return {
        name: value
        for name, value in server.query.items()
        if not any(secret in name.lower() for secret in _SECRETS)
    }


def _public(server: URL, *, password: bool = True) -> URL:
    return URL.create(
        "postgresql",
        server.username,
        server.password if password else None,  # `set` cannot take it away
        server.host,
        server.port,
        server.database,
        public_query(server),
    )


class Database(ABC):
    """One database with a vault in it.

    Args:
        location: from `memos_core.vault.connect.locate`.

    Raises:
        VaultError: it cannot be created, reached, opened or read. VaultNewer: a newer release wrote it.
    """

    engine: Engine
    insert: ClassVar[Any]  # the dialect's own INSERT, with `on_conflict_do_…`
    owns_whole_database: ClassVar[bool] = True  # a vault may share a PostgreSQL database with other tables
    driver_errors: ClassVar[tuple[type[Exception], ...]] = ()  # that statements run without SQLAlchemy raise

    def __init__(self, location: Location) -> None:
        self.location = location
        self.prepared = Prepared()
        self._held = threading.local()
        self._closed = False
        self.engine = self._connect()
        try:
            self._set_up()
        except BaseException:
            self.engine.dispose()
            raise

    # -- what differs --------------------------------------------------------------------------------------

    @abstractmethod
    def _connect(self) -> Engine: ...

    @abstractmethod
    def _take_turns(self, conn: Connection) -> None:
        """Wait for others that are making the same new vault."""

    @abstractmethod
    def _create(self, conn: Connection) -> None:
        """Make the tables and what only this database has."""

    @abstractmethod
    def _migrate(self, stored: int) -> None:
        """Bring a vault of an older schema to this one's."""

    @abstractmethod
    def _reason(self, err: BaseException) -> str:
        """What a driver's own error means, as the end of a sentence that begins with the vault's name."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the database and changes nothing (a context manager)."""

    @abstractmethod
    def write(self, *, derived: bool = False, brief: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that is committed whole when the block ends, or not at all (a context manager).

        Args:
            brief: the block takes a few milliseconds and keeps nothing in memory of what it reads: it may be committed
                together with others of its kind.
            derived: what is written can be made again: the commit does not wait for the disk. A power failure may
                take it back, whole; nothing committed otherwise after it can survive without it.
        """

    @abstractmethod
    def lexical(
        self, conn: Connection, words: Sequence[str], within: TextScope, limit: int
    ) -> list[tuple[str, float]]:
        """Live texts that hold any of the words, best first, as (cube id, score).

        Args:
            words: plain words, never parsed as a query. within: where to look. limit: how many at most.
        """

    @abstractmethod
    def add_texts(self, conn: Connection, ids: Sequence[str]) -> None:
        """These cubes are new: put their texts into the text index, where the database does not do it itself."""

    @abstractmethod
    def each(self, name: str) -> TableValuedAlias:
        """A table with the column `value`: one row for each text in the parameter of this name, see `listed`."""

    @abstractmethod
    def listed(self, values: Sequence[str]) -> Any:
        """Texts as the value of a parameter for `each`."""

    @abstractmethod
    def scrub(self) -> bool:
        """Clear what deletions leave in the files. False: as far as others' use of them allows it now, which is not
        all the way."""

    @abstractmethod
    def compact(self) -> bool:
        """Rewrite the files without anything that was deleted; else as `scrub`."""

    @abstractmethod
    def damage(self) -> list[str]:
        """What the database's own check finds wrong, in sentences."""

    @abstractmethod
    def backup(self, file: Path) -> None:
        """Write one consistent state of the vault to a new SQLite file, while others go on using it."""

    # -- what does not -------------------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """Every `read` of this thread within the block sees the same state, over one connection. Nothing may be
        written in it."""
        # A vault in memory has one connection, which others wait for.
        if self._held_here() is not None or (self.location.file is None and self.location.server is None):
            yield
            return
        with self.read() as conn:
            self._held.conn = conn
            try:
                yield
            finally:
                self._held.conn = None

    def _held_here(self) -> Connection | None:
        return getattr(self._held, "conn", None)

    def _set_up(self) -> None:
        # Look before taking a lock: opening an up-to-date vault writes nothing.
        with self.read() as conn:
            stored = self._stored_version(conn)
        if stored is None:
            with self.write() as conn:
                self._take_turns(conn)
                if self._stored_version(conn) is None:
                    self._create(conn)
                    rows = [
                        {"key": "schema_version", "value": str(t.SCHEMA_VERSION)},
                        {"key": "vault_id", "value": new_id()},
                    ]
                    conn.execute(t.meta.insert(), rows)
        elif stored < t.SCHEMA_VERSION:
            with self._sentences():
                self._upgrade(stored)

    def _upgrade(self, stored: int) -> None:
        try:
            self._migrate(stored)
        except (VaultError, DBAPIError):
            raise
        except (
            MemOSError,
            StatementError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            OSError,
        ) as err:
            said = " ".join(str(err).split())
            raise VaultError(
                f"the vault {self.location.label} was not upgraded and is as it was: {said[:500]}"
            ) from err

    def _stored_version(self, conn: Connection) -> int | None:
        """The schema version of the vault; None where there is nothing yet.

        Raises:
            VaultError: it is another program's database, or damaged. VaultNewer.
        """
        tables = set(inspect(conn).get_table_names())
        if not {"meta", "cubes"} <= tables:
            if tables & set(t.metadata.tables) or (tables and self.owns_whole_database):
                raise VaultError(
                    f"{self.location.label} is another program's database; pass one of its own to the vault"
                )
            return None
        value = conn.execute(select(t.meta.c.value).where(t.meta.c.key == "schema_version")).scalar()
        if value is None or not value.isdecimal():
            raise VaultError(f"the vault {self.location.label} is damaged: its schema version is {value!r}")
        if int(value) > t.SCHEMA_VERSION:
            raise VaultNewer(
                f"the vault {self.location.label} has schema version {value}, "
                f"this release reads up to {t.SCHEMA_VERSION}; upgrade memos-agents"
            )
        return int(value)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn driver errors into one sentence each."""
        if self._closed:
            raise VaultError(f"the vault {self.location.label} is closed; open it again")
        try:
            yield
        except UnicodeDecodeError:  # SQLite quotes a damaged schema in its message
            raise VaultError(f"the vault {self.location.label} is damaged; restore a backup") from None
        except UnicodeEncodeError:
            raise InvalidArgument("a text holds a lone surrogate, which is not valid Unicode") from None
        except OverflowError:
            raise InvalidArgument("a number is too large for the vault (64 bits)") from None
        except PoolTimeout:
            raise VaultError(
                f"the vault {self.location.label} was busy for {POOL_S} seconds; use fewer threads at once"
            ) from None
        except DBAPIError as err:
            if getattr(err.orig, "sqlstate", None) == _TOO_LARGE:
                raise InvalidArgument("a number is too large for the vault (64 bits)") from None
            raise self._error(err.orig or err) from err
        except self.driver_errors as err:
            raise self._error(err) from err

    def _error(self, err: BaseException) -> VaultError:
        reason = self._reason(err)
        kind = VaultReadOnly if reason.startswith(READ_ONLY) else VaultError
        return kind(f"the vault {self.location.label} {reason}")

    def upsert(self, table: Table, row: dict[str, Any]) -> Any:
        """An INSERT that replaces the row with the same primary key."""
        keys = [col.name for col in table.primary_key]
        changed = {k: v for k, v in row.items() if k not in keys}
        return self.insert(table).values(**row).on_conflict_do_update(index_elements=keys, set_=changed)

    def close(self) -> None:
        """Close every connection. What uses the database afterwards gets a VaultError."""
        self._closed = True
        self.engine.dispose()

"""Group commit: write transactions that wait for each other anyway are committed together, so that the threads of a
process share one sync of the disk. InnoDB and PostgreSQL do so themselves; SQLite has one writer and leaves it to us.

Each block is still stored whole or not at all: one that fails is taken back to its savepoint, and the others go on.
None is told that it is stored before the commit of all of them has reached the disk."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError

from memos_core.errors import VaultError
from memos_core.vault.prepared import driver

_MOST = 64  # blocks in one commit
_MOST_S = 0.02  # no block begins in a transaction that is older: another process may be waiting for its end
_LOOK_AGAIN_S = 1.0


@dataclass
class _Group:
    """Blocks that are committed together.

    Args:
        synced: the commit waits for the disk. size: blocks that ended well.
        error: why nothing of it is stored. done: set when it is committed or given up.
    """

    conn: Connection
    transaction: RootTransaction
    synced: bool
    began: float
    size: int = 0
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


class GroupCommit:
    """The write transactions of one SQLite database, one block at a time.

    Args:
        begin: makes a connection with a transaction begun; its argument says whether the commit is to wait for
            the disk.
        end: takes the connection back after the end of its transaction, and whether that ended well.
    """

    def __init__(
        self,
        begin: Callable[[bool], tuple[Connection, RootTransaction]],
        end: Callable[[Connection, bool], None],
    ) -> None:
        self._begin, self._end = begin, end
        self._turn = threading.Lock()  # held while a block runs
        self._counting = threading.Lock()
        self._waiting = 0
        # Waits for the next block to go on with it. Only while its turn is nobody's or another's.
        self._open: _Group | None = None

    @property
    def waiting(self) -> int:
        """How many blocks wait for their turn whose commit is to wait for the disk."""
        return self._waiting

    @contextmanager
    def block(self, *, synced: bool, alone: bool = False) -> Iterator[Connection]:
        """A block of writes, stored whole when this returns, or not at all.

        Args:
            synced: the commit waits for the disk. alone: no other block may share its transaction: it may take long,
                and who is done would wait for it.
        """
        self._wait_for_turn(counted=synced and not alone)
        try:
            if alone:
                self._commit_open()
            group = self._joined(synced)
        except BaseException:
            self._turn.release()
            raise
        try:
            yield group.conn
        except BaseException as err:
            self._undo(group, err)
            self._leave(group, alone)
            raise
        group.size += 1
        if self._leave(group, alone):
            while not group.done.wait(_LOOK_AGAIN_S):  # who was waiting may have given up
                self._settle(group)
        if group.error is not None:
            raise group.error

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """No block runs and no transaction is open within this."""
        with self._turn:
            self._commit_open()
            yield

    def _wait_for_turn(self, *, counted: bool) -> None:
        if not counted:
            self._turn.acquire()
            return
        with self._counting:
            self._waiting += 1
        try:
            self._turn.acquire()
        finally:
            with self._counting:
                self._waiting -= 1

    def _joined(self, synced: bool) -> _Group:
        """The open group, with a savepoint to go back to, or a new one."""
        group, self._open = self._open, None
        if group is None:
            conn, transaction = self._begin(synced)
            return _Group(conn, transaction, synced, time.monotonic())
        try:
            driver(group.conn).execute("SAVEPOINT block")
        except BaseException as err:
            self._give_up(group, err)
            raise
        return group

    def _undo(self, group: _Group, err: BaseException) -> None:
        """Take back a block that failed, and the whole group if SQLite has done so already (a full disk)."""
        if not group.size:
            return  # nobody else's work: the transaction is given up as a whole
        raw = driver(group.conn)
        try:
            if raw.in_transaction:
                raw.execute("ROLLBACK TO block")
                return
        except sqlite3.Error as worse:
            err = worse
        group.error = (
            err
            if isinstance(err, DBAPIError | sqlite3.Error)
            else VaultError("the transaction was taken back by the database; nothing of this call was stored")
        )

    def _leave(self, group: _Group, alone: bool) -> bool:
        """End a block's turn: leave the group to who waits, or commit it. Returns whether it was left to others."""
        try:
            if (
                group.synced
                and not alone
                and group.error is None
                and 0 < group.size < _MOST
                and self._waiting
                and time.monotonic() - group.began < _MOST_S
            ):
                self._open = group
                return True
            self._commit(group)
            return False
        finally:
            self._turn.release()

    def _commit(self, group: _Group) -> None:
        """Commit; what goes wrong is the group's error."""
        if group.error is not None or not group.size:
            self._give_up(group, group.error)
            return
        try:
            group.transaction.commit()
        except BaseException as err:
            self._give_up(group, err)
            if not isinstance(err, Exception):
                raise
        else:
            group.done.set()
            self._end(group.conn, True)

    def _give_up(self, group: _Group, err: BaseException | None) -> None:
        """Store nothing of a group."""
        group.error = (
            err if isinstance(err, Exception) or err is None else VaultError(f"interrupted: {err!r}")
        )
        group.done.set()
        try:
            group.transaction.rollback()
            raw = driver(group.conn)
            if raw.in_transaction:  # to SQLAlchemy it is over when a commit was tried
                raw.rollback()
        finally:
            self._end(group.conn, False)

    def _commit_open(self) -> None:
        group, self._open = self._open, None
        if group is not None:
            self._commit(group)

    def _settle(self, group: _Group) -> None:
        """Commit a group that nobody goes on with."""
        with self._turn:
            if self._open is group:
                self._commit_open()

"""Threads that write at the same moment share a commit: each still stores all or nothing, and none hears of it before
the disk does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from memos_core import MemOS
from memos_core.errors import MemOSError, VaultError
from memos_core.vault import Actor, Vault
from memos_core.vault.sqlite import SQLite

ACTOR = Actor()
PATIENCE_S = 60


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "vault", user="u", embedder=None) as memos:
        yield memos
        assert memos.verify_audit_log() == []


@pytest.fixture
def vault(memos: MemOS) -> Vault:
    return memos._core.vault


@contextmanager
def held_up(vault: Vault, waiting: int, start: Callable[[], None]) -> Iterator[None]:
    """Hold the vault's one turn to write until so many blocks wait for it."""
    assert isinstance(vault.db, SQLite)
    writes, deadline = vault.db._writes, threading.Event()
    with writes.excluded():
        start()
        timer = threading.Timer(PATIENCE_S, deadline.set)
        timer.start()
        while writes.waiting < waiting:
            assert not deadline.is_set(), f"{writes.waiting} of {waiting} wait"
        timer.cancel()
    yield


def together(vault: Vault, jobs: list[Callable[[], object]]) -> list[Future[object]]:
    """Run jobs that each write, so that all wait for their turn at the same moment."""
    pool = ThreadPoolExecutor(len(jobs))
    futures: list[Future[object]] = []
    with held_up(vault, len(jobs), lambda: futures.extend(pool.submit(job) for job in jobs)):
        pool.shutdown(wait=True)
    return futures


@contextmanager
def commits(vault: Vault) -> Iterator[list[Connection]]:
    """The commits of the vault's own engine, as they are made."""
    made: list[Connection] = []

    def note(conn: Connection) -> None:
        made.append(conn)

    event.listen(vault.db.engine, "commit", note)
    try:
        yield made
    finally:
        event.remove(vault.db.engine, "commit", note)


def texts(memos: MemOS) -> list[str]:
    return sorted(c.text for c in memos.find())


def test_writes_that_wait_for_each_other_share_a_commit(memos: MemOS, vault: Vault) -> None:
    memos.scheduler.stop()
    with commits(vault) as made:
        done = together(vault, [lambda n=n: memos.write(f"fact {n}") for n in range(20)])
    assert {f.result().text for f in done} == {f"fact {n}" for n in range(20)} == set(texts(memos))
    assert len(made) < 10
    with commits(vault) as made:
        memos.write("one alone")
    assert len(made) == 1


def test_who_writes_little_does_not_wait_for_who_writes_much(memos: MemOS, vault: Vault) -> None:
    memos.scheduler.stop()

    def much(n: int) -> None:
        memos.put([memos.cube(f"fact {n} {i}") for i in range(40)])

    with commits(vault) as made, ThreadPoolExecutor(4) as pool:
        list(pool.map(much, range(8)))
    assert len(made) == 8
    assert len(texts(memos)) == 320


def test_a_write_that_fails_takes_nothing_else_with_it(memos: MemOS, vault: Vault) -> None:
    def spoiled(n: int) -> None:
        with vault.writing(ACTOR, brief=True) as writer:
            writer.put(memos.cube(f"half of {n}"))
            raise KeyError(n)

    jobs: list[Callable[[], object]] = []
    for n in range(8):
        jobs += [lambda n=n: memos.write(f"fact {n}"), lambda n=n: spoiled(n)]
    done = together(vault, jobs)
    assert texts(memos) == [f"fact {n}" for n in range(8)]
    assert [type(f.exception()) for f in done[1::2]] == [KeyError] * 8
    assert [f.exception() for f in done[::2]] == [None] * 8
    audited = [r.action for r in memos.audit_log(limit=None)]
    assert audited.count("write") == 8


def test_what_every_write_of_a_group_refuses_leaves_the_vault_as_it_was(memos: MemOS, vault: Vault) -> None:
    def refused() -> None:
        with vault.writing(ACTOR, brief=True):
            raise ValueError("no")

    done = together(vault, [refused] * 5)
    assert all(isinstance(f.exception(), ValueError) for f in done)
    memos.write("afterwards")
    assert texts(memos) == ["afterwards"]


def test_a_full_disk_is_told_to_every_write_of_the_group_and_none_is_stored(
    memos: MemOS, vault: Vault
) -> None:
    memos.write("there before")
    memos.scheduler.stop()

    def limited(conn: Connection) -> None:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages + 8}")

    event.listen(vault.db.engine, "begin", limited)
    done = together(vault, [lambda n=n: memos.write(f"{n} " + "long " * 4000) for n in range(12)])
    failed = [f for f in done if f.exception()]
    assert failed
    assert all(isinstance(f.exception(), VaultError) and "full" in str(f.exception()) for f in failed)
    kept = {f.result().text for f in done if not f.exception()}
    assert set(texts(memos)) == {"there before", *kept}

    event.remove(vault.db.engine, "begin", limited)
    with vault.db.write() as conn:
        conn.exec_driver_sql("PRAGMA max_page_count=4294967294")
    memos.write("there is room again")
    assert "there is room again" in texts(memos)


def test_a_commit_that_fails_is_told_to_every_write_of_the_group(memos: MemOS, vault: Vault) -> None:
    memos.scheduler.stop()

    def deferred(n: int) -> None:
        with vault.db.write(brief=True) as conn:  # a constraint that SQLite looks at when it commits
            conn.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            conn.exec_driver_sql("INSERT INTO child VALUES (?)", (n,))

    with vault.db.write() as conn:
        conn.exec_driver_sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        conn.exec_driver_sql("CREATE TABLE child (id REFERENCES parent (id))")

    def enforced(dbapi: object, *_: object) -> None:
        dbapi.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]

    event.listen(vault.db.engine, "connect", enforced)
    vault.db._writer.close()  # type: ignore[attr-defined]
    vault.db._writer = None  # type: ignore[attr-defined]
    vault.db.engine.dispose()
    done = together(vault, [lambda n=n: deferred(n) for n in range(6)])
    assert all(isinstance(f.exception(), VaultError) for f in done)
    memos.write("later")
    assert texts(memos) == ["later"]


def test_a_group_that_nobody_goes_on_with_is_committed_by_who_waits(memos: MemOS, vault: Vault) -> None:
    memos.scheduler.stop()
    assert isinstance(vault.db, SQLite)
    vault.db._writes._waiting += 1  # a thread that gave up while it waited for its turn
    try:
        memos.write("kept waiting for nobody")
    finally:
        vault.db._writes._waiting -= 1
    assert texts(memos) == ["kept waiting for nobody"]


def test_nothing_is_open_while_files_are_rewritten(memos: MemOS, vault: Vault) -> None:
    stop = threading.Event()
    failed: list[MemOSError] = []

    def write(n: int) -> None:
        count = 0
        while not stop.is_set() or count < 5:
            try:
                memos.write(f"{n} {count}")
            except MemOSError as err:
                failed.append(err)
                return
            count += 1

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        vault.db.compact()
        vault.db.scrub()
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []

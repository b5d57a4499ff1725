"""SIGKILL at any moment, of writers and of the database server: what was acknowledged is there, nothing is half
there, and the indexes and the audit log tell of exactly what is there.

Each back end gets `MEMOS_KILLS` kills (20). The full run:

    MEMOS_KILLS=200 python -m pytest tests/core/test_kill.py
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import postgres
import pytest
from support import bag_of_words, findings, run_script

from memos_core import MemCube, MemOS
from memos_core.errors import VaultError

KILLS = int(os.environ.get("MEMOS_KILLS", "20"))

# Forks writers and kills them. What a writer says (a JSON line for what it is about to delete, and one for
# everything that it did) is passed on as soon as it is read.
KILLER = """
import json, os, random, signal, sys, threading, traceback
from sqlalchemy import Engine, event
from support import bag_of_words
from memos_core import MemOS
import memos_core.core  # now, not in each writer
try:
    import psycopg, pgvector.sqlalchemy
except ImportError:
    pass

url, seed, rounds, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
random.seed(seed)

def work(out, name, quota):
    with MemOS.open(url, user="u", embedder=bag_of_words, index="exact") as memos:
        act(memos, out, name, quota)

def work_together(out, name, quota):
    # Threads, whose commits are one where they meet.
    with MemOS.open(url, user="u", embedder=bag_of_words, index="exact") as memos:
        threads = [threading.Thread(target=act, args=(memos, out, f"{name}t{n}", quota)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

def act(memos, out, name, quota):
    def say(what, cubes):
        line = json.dumps([what, [[c.id, c.version, c.text] for c in cubes]]) + "\\n"
        os.write(out, line.encode())
    mine = []
    for n in range(quota):
        word = f"{name}n{n}"
        if n % 4 == 0:
            say("did", memos.put([memos.cube(f"pair {word} one"), memos.cube(f"pair {word} two")]))
        elif n % 7 == 1:
            say("did", memos.remember([{"role": "user", "content": f"I own the boat {word}."}]))
        elif n % 7 == 3:
            say("did", [memos.write(f"shared {word}", key="shared")])
        elif n % 5 == 3 and mine:
            say("did", [memos.update(random.choice(mine).id, f"changed {word}")])
        elif n % 11 == 5 and mine:
            gone = mine.pop(random.randrange(len(mine)))
            say("deleting", [gone])
            memos.delete(gone.id)
            say("deleted", [gone])
        else:
            mine.append(memos.write(f"fact {word}"))
            say("did", mine[-1:])

def start(name, quota, statements=None, work=work):
    # A writer that ends by itself after `quota` acts, or kills itself before that many SQL statements.
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, os.fdopen(reading, "rb")
    left = statements
    def count(*_):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    if statements:
        def trace(driver, _):  # SQLite says every statement, those that SQLAlchemy does not see included
            if hasattr(driver, "set_trace_callback"):
                driver.set_trace_callback(count)
        event.listen(Engine, "connect", trace)
        if url.startswith("postgresql"):
            event.listen(Engine, "before_cursor_execute", count)
            event.listen(Engine, "commit", count)
    try:
        work(writing, name, quota)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)

def tell(stream, most=None):
    # Pass on `most` lines, or all until the writer is dead. A line that it could not end counts for nothing.
    told = 0
    while (most is None or told < most) and (line := stream.readline()).endswith(b"\\n"):
        sys.stdout.buffer.write(line)
        told += 1
    sys.stdout.flush()
    return told

def hesitate():
    for _ in range(random.randrange(150_000)):
        pass

def reap(child, wanted):
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != wanted:
        sys.exit(f"a writer ended with {status}")

for round in range(rounds):
    name = f"w{seed}k{round}"
    if how == "statement":  # the first ones die while they make the vault
        child, stream = start(name, 10**6, random.randint(1, 60 if round < 5 else 300))
        tell(stream)
        reap(child, -signal.SIGKILL)
    elif how in ("moment", "threads"):
        child, stream = start(name, 10**6, work=work if how == "moment" else work_together)
        if not tell(stream, random.randint(1, 12 if how == "moment" else 60)):
            sys.exit("a writer ended before its first word")
        hesitate()
        os.kill(child, signal.SIGKILL)
        tell(stream)
        reap(child, -signal.SIGKILL)
    else:  # two at once, of which one is killed
        (doomed, his), (other, hers) = start(name + "a", 10**6), start(name + "b", 40)
        tell(hers, random.randint(1, 15))
        tell(his, random.randint(1, 15))
        hesitate()
        os.kill(doomed, signal.SIGKILL)
        tell(his)
        tell(hers)
        reap(doomed, -signal.SIGKILL)
        reap(other, 0)
    stream.close() if how != "two" else (his.close(), hers.close())
"""


@dataclass
class Acknowledged:
    """What writers were told is done.

    Args:
        texts: what each version of a cube says, by (id, version). deleted: ids that are gone for sure.
        uncertain: ids of which the deletion was asked for and perhaps not answered.
    """

    texts: dict[tuple[str, int], str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)

    def hear(self, what: str, cubes: list[tuple[str, int, str]]) -> None:
        """Take down one line of a writer."""
        for id_, version, text in cubes:
            if what == "did":
                self.texts[id_, version] = text
            else:
                (self.deleted if what == "deleted" else self.uncertain).add(id_)


def check(url: str, acknowledged: Acknowledged) -> None:
    """Everything that must hold of the vault at `url`, whatever was killed."""
    with MemOS.open(url, user="u", embedder=bag_of_words, index="exact") as memos:
        stored = {c.id: c for c in memos.find()}
        check_acknowledged(memos, stored, acknowledged)
        check_whole(stored)
        check_audit(memos, stored, acknowledged)
        check_tables(memos)
        assert findings(memos) == []
        assert memos.verify_audit_log() == []
        sample = list(stored.values())[:: max(1, len(stored) // 50)]
        for cube in sample:  # by meaning
            assert memos.search(cube.text, k=1, types=[cube.semantic_type])[0].cube.text == cube.text
    with MemOS.open(url, user="u", embedder=None) as memos:
        for cube in sample:  # by words: what is there is found, what was there before is not
            for version in memos.history(cube.id):
                word = next(w for w in version.text.strip(".").split() if w[0] == "w" and "n" in w)
                found = {h.cube.id for h in memos.search(word, k=10, not_types=())}
                assert found == {c.id for c in stored.values() if word in c.text.strip(".").split()}


def check_acknowledged(memos: MemOS, stored: dict[str, MemCube], acknowledged: Acknowledged) -> None:
    assert not acknowledged.deleted & set(stored)
    by_id = defaultdict(dict)
    for (id_, version), text in acknowledged.texts.items():
        if id_ in stored or id_ not in acknowledged.uncertain:
            by_id[id_][version] = text
    assert set(by_id) <= set(stored)
    for id_, texts in by_id.items():
        history = {c.version: c.text for c in memos.history(id_)}
        assert texts.items() <= history.items()
    for cube in stored.values():
        assert [c.version for c in memos.history(cube.id)] == list(range(1, cube.version + 1))


def check_whole(stored: dict[str, MemCube]) -> None:
    """What was put at once is there at once: pairs, and a message with what was learnt from it."""
    pairs = defaultdict(set)
    for cube in stored.values():
        kind, word, *rest = cube.text.split()
        if kind == "pair":
            pairs[word].update(rest)
    assert pairs
    assert all(parts == {"one", "two"} for parts in pairs.values())
    messages = {c.id for c in stored.values() if c.semantic_type == "message"}
    assert messages == {s.id for c in stored.values() for s in c.derived_from}


def check_audit(memos: MemOS, stored: dict[str, MemCube], acknowledged: Acknowledged) -> None:
    """One record for each version, and none of a version that is not there."""
    told = defaultdict(list)
    for record in memos.audit_log(limit=None):
        if record.action in ("write", "update", "delete"):
            told[record.cube_id].append((record.action, record.version))
    for id_, cube in stored.items():
        updates = [("update", v) for v in range(2, cube.version + 1)]
        assert sorted(told[id_], key=lambda x: x[1]) == [("write", 1), *updates]
    gone = set(told) - set(stored)
    assert acknowledged.deleted <= gone <= acknowledged.uncertain
    assert all("delete" in {action for action, _ in told[id_]} for id_ in gone)


def check_tables(memos: MemOS) -> None:
    """Each cube has its current vector or is queued with its current version, and nothing else is."""
    with memos.vault.db.read() as conn:
        broken = conn.exec_driver_sql(
            "SELECT c.id FROM cubes c LEFT JOIN vectors v ON v.cube_id = c.id AND v.version = c.version "
            "LEFT JOIN index_queue q ON q.cube_id = c.id AND q.version = c.version "
            "WHERE (v.cube_id IS NULL) = (q.cube_id IS NULL)"
        ).scalars()
        assert list(broken) == []
        for table in ("vectors", "index_queue", "versions", "behaviour"):
            orphans = conn.exec_driver_sql(
                f"SELECT cube_id FROM {table} WHERE cube_id NOT IN (SELECT id FROM cubes)"
            ).scalars()
            assert list(orphans) == [], table
        if conn.dialect.name == "sqlite":
            conn.exec_driver_sql("INSERT INTO cube_fts(cube_fts, rank) VALUES ('integrity-check', 1)")
            assert conn.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def kill_writers(url: str, seed: int, rounds: int, how: str) -> Acknowledged:
    done = run_script(KILLER, url, seed, rounds, how, timeout=60 + 5 * rounds)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    acknowledged = Acknowledged()
    for line in done.stdout.splitlines():
        acknowledged.hear(*json.loads(line))
    return acknowledged


def test_what_was_acknowledged_survives_sigkill(vault_url: str) -> None:
    """Half of the writers die before a statement that was drawn by lot, the opening's included; half at a
    moment drawn by lot."""
    by_statement = kill_writers(vault_url, 7, KILLS - KILLS // 2, "statement")
    by_moment = kill_writers(vault_url, 8, KILLS // 2, "moment")
    assert len(by_moment.texts) >= KILLS // 2
    acknowledged = Acknowledged(
        by_statement.texts | by_moment.texts,
        by_statement.deleted | by_moment.deleted,
        by_statement.uncertain | by_moment.uncertain,
    )
    check(vault_url, acknowledged)


def test_what_threads_of_one_process_were_told_survives_sigkill(tmp_path: Path) -> None:
    """Their writes share commits: none is told before the commit."""
    url = str(tmp_path / "vault")
    acknowledged = kill_writers(url, 10, max(4, KILLS // 5), "threads")
    assert len({text.split("t")[-1].split("n")[0] for text in acknowledged.texts.values()}) > 3
    check(url, acknowledged)


def test_of_two_writers_one_is_killed_and_the_other_does_not_notice(vault_url: str) -> None:
    rounds = max(2, KILLS // 10)
    acknowledged = kill_writers(vault_url, 9, rounds, "two")
    survivors = {t for t in acknowledged.texts.values() if "bn" in t}
    assert len(survivors) >= 30 * rounds
    check(vault_url, acknowledged)


def test_a_killed_server_comes_back_with_everything(postgres_server: postgres.Server) -> None:
    """The writers stay, and go on when the server is back. What fails meanwhile is one VaultError."""
    kills = max(3, KILLS // 10)
    try:
        server = postgres.OwnServer(fsync="on")
    except postgres.CannotRun as err:
        pytest.skip(f"no PostgreSQL of our own: {err}")
    try:
        url = server.new_database()
        acknowledged, progress, stop = Acknowledged(), SimpleQueue[object](), threading.Event()
        errors: list[VaultError] = []

        def write(memos: MemOS, name: str) -> None:
            try:
                n = 0
                while not stop.is_set():
                    n += 1
                    word = f"w{name}n{n}"
                    try:
                        if n % 3:
                            cubes = [memos.write(f"fact {word}")]
                        elif n % 2:
                            cubes = memos.remember([{"role": "user", "content": f"I own the boat {word}."}])
                        else:
                            cubes = memos.put([memos.cube(f"pair {word} {i}") for i in ("one", "two")])
                    except VaultError as err:
                        errors.append(err)
                        continue
                    acknowledged.hear("did", [(c.id, c.version, c.text) for c in cubes])
                    progress.put(None)
            except BaseException as err:
                progress.put(err)
                raise

        def wait_for(acts: int) -> None:
            for _ in range(acts):
                failed = progress.get(timeout=60)
                assert failed is None, failed

        with MemOS.open(url, user="u", embedder=bag_of_words, index="exact") as memos:
            threads = [threading.Thread(target=write, args=(memos, name)) for name in ("a", "b")]
            for thread in threads:
                thread.start()
            try:
                for kill in range(kills):
                    wait_for(10 + 7 * (kill % 3))
                    server.kill()
                    server.start()
                wait_for(60)  # more than may have been in the queue before the last kill
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        assert errors
        for error in errors:
            assert "\n" not in str(error)
            assert "psycopg" not in str(error)
        check(url, acknowledged)
    finally:
        server.close()

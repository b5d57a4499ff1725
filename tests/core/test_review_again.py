"""What a second hostile review found, each in the form in which it was found."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import bag_of_words, findings, run_script

from memos_core import MemCube, MemOS
from memos_core.cube import Activation, Source, State, now
from memos_core.cube.lifecycle import BY_WRITING, LEGAL
from memos_core.errors import InvalidArgument
from memos_core.governance import DecayPolicy, Step
from memos_core.vault import words

KV = Activation(model="m", tokenizer="t", key="ab", n_tokens=1, nbytes=1)


def expire(memos: MemOS, cube: MemCube) -> None:
    """Let a cube's ttl have passed."""
    with memos.vault.db.write() as conn:
        conn.exec_driver_sql(f"UPDATE cubes SET expires_at = 1 WHERE id = '{cube.id}'")


def test_what_was_derived_from_an_expired_cube_is_new_in_the_same_put(memos: MemOS) -> None:
    source = memos.write("soon over", namespace=("n",), key="source", ttl=timedelta(days=1))
    kv = memos.cube("x", namespace=("n",), key="kv").model_copy(
        update={"payload": KV, "derived_from": (Source(id=source.id, version=1),)}
    )
    memos.put([kv])
    expire(memos, source)
    again = kv.model_copy(update={"id": "another", "derived_from": ()})
    stored = memos.put([memos.cube("fresh", namespace=("n",), key="source"), again])
    assert [(c.version, memos.read(c.id).id) for c in stored] == [(1, c.id) for c in stored]
    assert findings(memos) == []


def test_more_readers_than_connections_all_get_their_turn(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        memos.write("a common word")
        start, failed = threading.Barrier(100), []

        def read() -> None:
            try:
                start.wait(60)
                for _ in range(5):
                    assert len(memos.search("word")) == 1
            except Exception as err:
                failed.append(err)

        threads = [threading.Thread(target=read) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert failed == []
        assert not any(thread.is_alive() for thread in threads)


READER = """
import os, sys
from memos_core import MemOS
from support import bag_of_words
with MemOS.open(":memory:", embedder=bag_of_words, user="u") as memos:  # loads what may be closed to the other user
    memos.write("falcon"); memos.search("falcon")
os.setgid(65534); os.setuid(65534)
with MemOS.open(sys.argv[1], embedder=bag_of_words, index="exact", user="u") as memos:
    while line := sys.stdin.readline():
        print(len(memos.find()), len(memos.search("falcon", k=50)), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_a_reader_of_a_folder_that_it_may_not_write_sees_what_is_written(tmp_path: Path) -> None:
    import subprocess
    import sys

    from support import environment

    home = tmp_path / "vault"
    with MemOS.open(home, embedder=None, user="u") as memos:
        memos.write("a falcon over the roof")
    for folder in (home, *home.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
    (home / "vault.db").chmod(0o644)
    told = [sys.executable, "-c", READER, str(home)]
    with subprocess.Popen(told, stdin=-1, stdout=-1, text=True, env=environment()) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def ask() -> str:
            print("now", file=reader.stdin, flush=True)
            return reader.stdout.readline().strip()

        assert ask() == "1 1"  # though its vectors cannot be stored
        with MemOS.open(home, embedder=None, user="u") as memos:
            second = memos.write("a falcon on the tower")
            (home / "vault.db-wal").chmod(0o644)
            (home / "vault.db-shm").chmod(0o644)
            assert ask() == "2 2"
            memos.erase(second.id)
        assert ask() == "1 1"
        reader.stdin.close()


def test_an_erasure_elsewhere_is_followed_from_the_opening_on(tmp_path: Path) -> None:
    how: dict[str, Any] = {"embedder": bag_of_words, "index": "exact"}
    with MemOS.open(tmp_path, **how) as one, MemOS.open(tmp_path, **how) as other:
        one.scoped(user="u").write("a secret falcon")
        assert other.scoped(user="u").search("falcon")
        assert one.scoped(user="u").erase().clean
        assert other._core.retriever._matrices.nbytes > 0
        other._core.keep_house()
        assert other._core.retriever._matrices.nbytes == 0


def test_an_erasure_takes_words_and_headers_from_memory(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=None, user="u") as memos:
        memos.write("xylophagous beetles", tags=["wood"])
        assert memos.search("xylophagous")
        kept = words.stem.cache_info().currsize
        assert kept > 0
        assert memos.erase().clean
        assert words.stem.cache_info().currsize == 0


@pytest.mark.parametrize(
    "broken",
    [
        lambda c: ("header.descriptive", {"tags": 5}),
        lambda c: ("header.descriptive", {"semantic_type": 7}),
        lambda c: ("header.descriptive", {"created_at": None}),
        lambda c: ("header.governance", {"priority": "x"}),
        lambda c: ("header.governance", {"sensitivity": "abc"}),
        lambda c: ("scope", {"agent": 5}),
        lambda c: ("scope", {"session": ""}),
        lambda c: ("payload", {"text": b""}),
        lambda c: ("payload", {"valid_from": "today"}),
    ],
)
def test_a_cube_that_is_broken_inside_is_refused(memos: MemOS, broken: Callable[..., Any]) -> None:
    cube = memos.cube("whole")
    path, changed = broken(cube)
    if path.startswith("header."):
        group = path.removeprefix("header.")
        part = getattr(cube.header, group).model_copy(update=changed)
        bad = cube.model_copy(update={"header": cube.header.model_copy(update={group: part})})
    else:
        bad = cube.model_copy(update={path: getattr(cube, path).model_copy(update=changed)})
    [name] = changed
    with pytest.raises(InvalidArgument, match=name):
        memos.put([bad])
    assert memos.find(states=None) == []


class Meddling(DecayPolicy):
    """Uses the vault while it is asked, and answers nonsense."""

    memos: MemOS | None = None
    answer: Any = None

    def next_state(self, cube: MemCube, at: datetime) -> Step | None:
        assert self.memos is not None
        self.memos.write("written by the policy", key="policy")
        if self.answer == "raise":
            raise RuntimeError("a policy that fails")
        return self.answer


@pytest.mark.parametrize("answer", [Step(State.ARCHIVED, "as told"), "garbage", "raise", None])
def test_a_policy_may_use_the_vault_and_may_fail(vault_url: str, answer: Any) -> None:
    policy = Meddling()
    with MemOS.open(vault_url, embedder=None, lifecycle=policy) as memos:
        policy.memos, policy.answer = memos, answer
        cube = memos.write("a fact")
        memos._core.lifecycle.sweep()
        assert memos.read(cube.id, as_of=now()).state is (
            State.ARCHIVED if isinstance(answer, Step) else State.GENERATED
        )


def test_every_change_of_state_is_legal_and_in_the_log(memos: MemOS) -> None:
    archived = memos.write("kept away", key="a")
    memos.archive(archived.id)
    memos.update(archived.id, "back again")
    one, two = memos.write("one", key="b"), memos.write("two", key="c")
    memos.merge([one.id, two.id], "both")
    memos.write("a new life", key="b")
    for id_ in (archived.id, one.id):
        state = State.GENERATED
        for record in memos.audit_log(cube_id=id_, newest_first=False):
            if record.action.startswith("state:"):
                new = State(record.action.removeprefix("state:"))
                assert new in LEGAL[state] or new is BY_WRITING[state]
                assert record.detail
                state = new
        assert state is memos.read(id_).state


def test_new_cubes_begin_where_a_life_begins(memos: MemOS) -> None:
    for state in (State.MERGED, State.EXPIRED):
        with pytest.raises(InvalidArgument, match="state"):
            memos.put([memos.cube("x").model_copy(update={"state": state})])
    [born] = memos.put([memos.cube("away").model_copy(update={"state": State.ARCHIVED})])
    assert memos.find() == memos.find(as_of=now()) == []
    assert [c.id for c in memos.find(as_of=now(), states=None)] == [born.id]


def test_an_id_that_a_cube_of_the_same_put_has(memos: MemOS) -> None:
    cube = memos.write("first", key="k")
    with pytest.raises(InvalidArgument, match=f"id {cube.id}"):
        memos.put([cube.model_copy(update={"id": "other"}), cube.model_copy(update={"key": "new"})])
    assert [c.version for c in memos.find()] == [1]


def test_limits_that_are_too_large_are_named(memos: MemOS) -> None:
    memos.write("x")
    assert len(memos.find(limit=2**62)) == 1
    assert memos.find(limit=2**62, offset=2**62) == []
    for name, call in (("limit", memos.find), ("offset", memos.find), ("limit", memos.audit_log)):
        with pytest.raises(InvalidArgument, match=name):
            call(**{name: 2**70})


def test_damaged_counts_hide_nothing(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        cube = memos.write("whole")
        memos.read(cube.id)
        memos._core.scheduler._flush_reads()
        with sqlite3.connect(tmp_path / "vault.db") as db:
            db.execute("UPDATE behaviour SET last_read = 'nonsense', frequency = 'much'")
        db.close()
        assert [c.id for c in memos.find()] == [cube.id]
        memos.read(cube.id)
        memos._core.scheduler._flush_reads()
        assert memos.find()[0].header.behaviour.reads == 1


def test_triggers_of_an_older_release_are_dropped(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        with sqlite3.connect(tmp_path / "vault.db") as db:
            db.execute(
                "CREATE TRIGGER cube_fts_insert AFTER INSERT ON cubes BEGIN "
                "INSERT INTO cube_fts(rowid, text, partition) VALUES (new.seq, new.text, new.partition); END"
            )
        db.close()
        memos.write("indexed twice")
        assert findings(memos)
        assert memos.doctor(repair=True).clean
        memos.write("indexed once")
        assert findings(memos) == []


def test_a_clearance_of_many_labels(memos: MemOS) -> None:
    labels = {f"label{i}" for i in range(5_000)}
    view = memos.scoped(user="u", clearance=labels)
    secret = view.write("also open", sensitivity=["label7"])
    assert view.find() == [view.read(secret.id)]
    assert memos.scoped(user="u", clearance=labels - {"label7"}).find() == []


def test_a_nul_on_its_way_to_postgresql_is_named(postgres_url: str, tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        cube = memos.write("a\x00b")
        memos.backup(tmp_path / "copy.db")
    done = run_script(
        "import sys; from memos_core.cli import main; sys.argv = ['memos', *sys.argv[1:]]; main()",
        "--vault",
        postgres_url,
        "restore",
        tmp_path / "copy.db",
    )
    assert done.returncode != 0
    assert cube.id in done.stderr
    assert "NUL" in done.stderr


def test_the_moment_of_a_state_is_that_of_its_record(memos: MemOS) -> None:
    cube = memos.write("here and away")
    between = datetime.now(UTC)
    memos.archive(cube.id)
    assert [c.id for c in memos.find(as_of=between)] == [cube.id]
    assert memos.find() == []

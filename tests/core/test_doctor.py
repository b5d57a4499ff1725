"""The doctor names what is wrong, puts right what can be derived again, and never removes what was damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from support import bag_of_words, findings

from memos_core import MemOS
from memos_core.vault.checkpoints import Lane, StoredCheckpoint, StoredWrite


def filled(memos: MemOS) -> list[str]:
    """Some memories of all kinds; the ids."""
    view = memos.scoped(user="u")
    cubes = [view.write(f"memory {i} of the harbour master", sensitivity=["work"]) for i in range(4)]
    view.update(cubes[0].id, "memory 0 of the harbour master, told anew")
    view.write("a summary of the harbour master", derived_from=cubes[:2])
    view.grant(cubes[1].id, "user:bob")
    view.archive(cubes[3].id)
    view.search("harbour")
    view.read(cubes[2].id)
    put_thread(memos, "1", {"a": "1"}, a="value one of the thread " * 9)
    put_thread(memos, "2", {"a": "2"}, a="value two of the thread " * 9)
    view.turn_finished()
    assert memos.scheduler.wait_idle()
    return [c.id for c in cubes]


def put_thread(memos: MemOS, id_: str, versions: dict[str, str], **values: str) -> None:
    lane = Lane("default", "thread")
    said = {name: ("json", value.encode()) for name, value in values.items()}
    stored = StoredCheckpoint(lane, id_, None, ("json", b"{}"), "{}", said)
    memos.vault.checkpoints.put(stored, versions)
    memos.vault.checkpoints.put_writes(lane, id_, [StoredWrite("t", "", 0, "a", ("json", b"written"))])


def change(memos: MemOS, *statements: str) -> None:
    with memos.vault.db.write() as conn:
        for statement in statements:
            conn.execute(text(statement))


def test_a_vault_in_use_is_in_order(memos: MemOS) -> None:
    filled(memos)
    assert findings(memos) == []
    assert memos.doctor().clean
    assert str(memos.doctor()) == "nothing is wrong"


BELONGINGS = {
    "versions": "cube, tenant, \"user\", written_at, replaced_at, version) VALUES (:id, '{{}}', '', '', 0, 0, 1",
    "sources": "source_id) VALUES (:id, 'x'",
    "behaviour": "reads, last_read, frequency) VALUES (:id, 1, 1, 1.0",
    "index_queue": "version) VALUES (:id, 1",
    "labels": "label) VALUES (:id, 'x'",
    "grants": "kind, name, \"right\", tenant) VALUES (:id, 'user', 'x', 'read', 'default'",
}


@pytest.mark.parametrize("table", [name for name in BELONGINGS if name != "versions"])
def test_rows_without_a_cube_are_removed(memos: MemOS, table: str) -> None:
    filled(memos)
    with memos.vault.db.write() as conn:
        conn.execute(text(f"INSERT INTO {table} (cube_id, {BELONGINGS[table]})"), {"id": "nobody"})
    [finding] = memos.doctor().findings
    assert finding.kind == "orphan"
    assert table in finding.what
    [finding] = memos.doctor(repair=True).findings
    assert finding.repaired
    assert findings(memos) == []


DERIVED = {
    "a label that is missing": ("DELETE FROM labels",),
    "a label too many": ("UPDATE labels SET label = 'other'",),
    "sources that are missing": ("DELETE FROM sources",),
    "vectors that are missing": ("DELETE FROM vectors",),
    "vectors of another version": ("UPDATE vectors SET version = 77",),
    "a slot that the text does not have": ("UPDATE cubes SET slot = 'i live in'",),
    "a hash of something else": ("UPDATE cubes SET content_hash = 'x'",),
    "a vector of the wrong length": ("UPDATE vectors SET dims = dims + 1",),
    "values that nobody refers to": (
        "DELETE FROM checkpoints WHERE checkpoint_id = '1'",
        "DELETE FROM checkpoint_writes WHERE checkpoint_id = '1'",
    ),
    "writes of a checkpoint that is gone": ("DELETE FROM checkpoints WHERE checkpoint_id = '1'",),
    "a session whose plan is gone": (
        "INSERT INTO session_plans (tenant, \"user\", agent, session, plan_id) VALUES ('t', 'u', 'a', 's', 'p')",
    ),
    "an index of a table": ("DROP INDEX ix_cubes_slot",),
}


@pytest.mark.parametrize("what", list(DERIVED))
def test_what_is_derived_is_derived_again(memos: MemOS, what: str) -> None:
    ids = filled(memos)
    change(memos, *DERIVED[what])
    found = memos.doctor().findings
    assert found, what
    assert not any(f.repaired for f in found)
    report = memos.doctor(repair=True)
    assert report.clean, str(report)
    assert findings(memos) == []
    view = memos.scoped(user="u")
    assert view.search("told anew", k=1)[0].cube.id == ids[0]
    assert memos.scoped(user="u", clearance=[]).find() == [
        c for c in view.find() if not c.header.governance.sensitivity
    ]


LOST = {
    "a cube": ("UPDATE cubes SET text = 'another text' WHERE key = id AND version = 2", "cube"),
    "an earlier version": ("DELETE FROM versions", "version"),
    "a checkpoint": (
        "UPDATE checkpoints SET metadata = '{\"x\": 1}' WHERE checkpoint_id = '1'",
        "checkpoint",
    ),
    "a value of a checkpoint": ("DELETE FROM checkpoint_chunks", "checkpoint"),
    "the log": ("UPDATE audit SET principal = 'somebody' WHERE n = 2", "log"),
    "the end of the log": ("DELETE FROM audit WHERE n = (SELECT max(n) FROM audit)", "log"),
}


@pytest.mark.parametrize("what", list(LOST))
def test_what_is_lost_is_named_and_left_alone(memos: MemOS, what: str) -> None:
    ids = filled(memos)
    statement, kind = LOST[what]
    change(memos, statement)
    report = memos.doctor(repair=True)
    left = [f for f in report.findings if not f.repaired]
    assert {f.kind for f in left} == {kind}, str(report)
    assert not report.clean
    assert memos.vault.existing(ids) == set(ids)
    assert {f.what for f in memos.doctor().findings} == {f.what for f in left}


def test_the_text_index_is_built_again(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        ids = filled(memos)
        change(memos, "INSERT INTO cube_fts(cube_fts) VALUES ('delete-all')")
        assert memos.scoped(user="u").search("told anew") == []
        assert [f.kind for f in memos.doctor().findings] == ["index"]
        assert memos.doctor(repair=True).clean
        assert memos.scoped(user="u").search("told anew", k=1)[0].cube.id == ids[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda db: db.execute("DROP TRIGGER cube_fts_after"),
        lambda db: db.executescript("DROP TRIGGER cube_fts_after; DROP TABLE cube_fts"),
    ],
)
def test_triggers_that_are_gone_are_made_again(
    tmp_path: Path, damage: Callable[[sqlite3.Connection], object]
) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        filled(memos)
        with sqlite3.connect(tmp_path / "vault.db") as db:
            damage(db)
        db.close()
        assert any("schema" in finding for finding in findings(memos))
        assert memos.doctor(repair=True).clean
        assert findings(memos) == []
        bird = memos.scoped(user="u").write("a heron stands in the shallow water")
        assert memos.scoped(user="u").search("heron")
        memos.scoped(user="u").update(bird.id, "an egret stands in the shallow water")
        assert memos.scoped(user="u").search("egret")
        assert findings(memos) == []


def test_a_damaged_vector_is_made_again(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=bag_of_words, index="exact") as memos:
        filled(memos)
        noise = np.full(256, np.nan, np.float32).tobytes()
        with sqlite3.connect(tmp_path / "vault.db") as db:
            db.execute("UPDATE vectors SET vector = ? WHERE seq = (SELECT min(seq) FROM vectors)", (noise,))
        db.close()
        assert [f.kind for f in memos.doctor().findings] == ["index"]
        assert memos.doctor(repair=True).clean
        memos.scoped(user="u").search("harbour")
        assert findings(memos) == []


def test_files_left_behind_are_removed(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        (tmp_path / "vault.db.migrating").write_bytes(b"half a copy")
        assert [f.kind for f in memos.doctor().findings] == ["file"]
        assert memos.doctor(repair=True).clean
        assert not (tmp_path / "vault.db.migrating").exists()


def test_a_vault_in_memory(tmp_path: Path) -> None:
    with MemOS.open(":memory:", embedder=bag_of_words) as memos:
        filled(memos)
        assert findings(memos) == []
        assert memos.scoped(user="u").erase().clean
        assert findings(memos) == []

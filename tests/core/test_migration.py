"""A vault that an earlier release wrote opens with everything in it, and is then like a new one."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import update
from support import bag_of_words, findings

from langgraph.checkpoint.memos import MemOSSaver
from memos_core import MemOS, Preference
from memos_core.errors import VaultError
from memos_core.vault import SCHEMA_VERSION, migrate, tables

# Written by release 0.1 (schema version 1).
V1 = Path(__file__).parent / "data" / "vault_v1.db"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copy(V1, tmp_path / "vault.db"))


def schema(file: Path) -> set[tuple[str, str]]:
    with sqlite3.connect(file) as conn:
        return set(conn.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def test_everything_is_there_after_the_upgrade(old: Path) -> None:
    with MemOS.open(old, embedder=bag_of_words, index="exact") as memos:
        alice = memos.scoped(user="alice")
        texts = [c.text for c in alice.find(not_types=("message", "kv"))]
        assert texts[-3:] == ["The glacier is very old", "harp: strings: 47", "I dislike rain"]
        [glacier] = [c for c in alice.find() if "glacier" in c.text]
        assert [c.text for c in alice.history(glacier.id)] == [
            "The glacier is old",
            "The glacier is very old",
        ]
        assert (glacier.header.governance.sensitivity, glacier.header.governance.priority) == (("travel",), 2)
        assert glacier.header.behaviour.reads == 1
        assert isinstance(alice.find()[-1].data, Preference)
        assert len(alice.conversation()) == 2
        assert [c.text for c in memos.scoped(user="bob").find()] == ["Bob keeps bees"]
        assert [c.text for c in memos.find()] == ["nobody's note é☃"]
        assert [r.action for r in memos.scoped(user="bob").audit_log()] == ["write", "delete", "write"]
        assert memos.all_users().verify_audit_log() == []
        assert alice.search("glacier")[0].cube.id == glacier.id
        assert alice.scoped(clearance=[]).search("glacier", min_similarity=0.5) == []
        state = MemOSSaver(memos).get_tuple({"configurable": {"thread_id": "t1"}})
        assert state is not None
        assert state.checkpoint["channel_values"]["log"] == ["hi 0", "step", "hi 1", "step"]
        assert findings(memos) == []


def test_an_upgraded_vault_has_the_schema_of_a_new_one(old: Path, tmp_path: Path) -> None:
    MemOS.open(old, embedder=None).close()
    MemOS.open(tmp_path / "new.db", embedder=None).close()
    assert schema(old) == schema(tmp_path / "new.db")
    assert [p.name for p in tmp_path.iterdir() if "migrating" in p.name] == []


def test_a_vault_is_upgraded_once(old: Path) -> None:
    for _ in range(2):
        with MemOS.open(old, user="bob", embedder=None) as memos:
            memos.write("one more")
            assert len(memos.audit_log(action="write")) >= 2
    with sqlite3.connect(old) as conn:
        stored = conn.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    assert stored == (str(SCHEMA_VERSION),)


def test_an_upgrade_that_fails_leaves_the_vault_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise VaultError("no")

    with monkeypatch.context() as patch:
        patch.setitem(migrate._AFTER, 1, fail)  # type: ignore[arg-type]
        with pytest.raises(VaultError, match="no"):
            MemOS.open(old, embedder=None)
    assert schema(old) == schema(V1)
    assert list(old.parent.iterdir()) == [old] or all("migrating" not in p.name for p in old.parent.iterdir())
    with MemOS.open(old, user="bob", embedder=None) as memos:
        assert [c.text for c in memos.find()] == ["Bob keeps bees"]


def test_a_step_that_breaks_something_is_noticed_by_the_doctor(old: Path) -> None:
    """That the checks above can fail: a row that a step got wrong does not pass."""
    MemOS.open(old, embedder=None).close()
    with MemOS.open(old, user="bob", embedder=None) as memos:
        with memos.vault.db.write() as conn:
            conn.execute(update(tables.cubes).values(text="other"))
        assert findings(memos) != []

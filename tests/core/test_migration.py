"""A vault that an earlier release wrote opens with everything in it, and is then like a new one."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from sqlalchemy import update
from support import bag_of_words, findings

from langgraph.checkpoint.memos import MemOSSaver
from memos_core import MemOS, Preference
from memos_core.errors import VaultError
from memos_core.vault import SCHEMA_VERSION, migrate, tables

# Written by release 0.1 (schema version 1).
V1 = Path(__file__).parent / "data" / "vault_v1.db"
# Written by the code before checkpoints were cut (schema version 2): threads "chat" (four turns), "named" (of user
# alice, in the operator's lane) and "asked" (interrupted, in alice's own).
V2 = Path(__file__).parent / "data" / "vault_v2.db"
CHAT: Any = {"configurable": {"thread_id": "chat"}}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copy(V1, tmp_path / "vault.db"))


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return Path(shutil.copy(V2, tmp_path / "second.db"))


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


# -- from version 2: checkpoints ----------------------------------------------------------------------------


def ask(_: MessagesState) -> Any:
    return {"messages": [AIMessage("you said " + interrupt("name?"))]}


def check_threads(memos: MemOS) -> None:
    """Everything of the threads of `V2` is there, and they go on."""
    saver = MemOSSaver(memos)
    listed = list(saver.list(CHAT))
    assert [f.metadata["step"] for f in listed] == list(range(10, -2, -1))
    for found in listed:
        messages = found.checkpoint["channel_values"].get("messages", [])
        assert [m.id for m in messages] == [
            f"{'ha'[i % 2]}{i // 2 if i % 2 == 0 else i}" for i in range(len(messages))
        ]
        assert (found.parent_config is None) == (found.metadata["step"] == -1)
    last = listed[0].checkpoint["channel_values"]["messages"]
    assert len(last) == 8
    assert last[1].content.startswith("answer 1: the harbour lies in fog")
    asked = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask")
    graph = asked.compile(checkpointer=MemOSSaver(memos.scoped(user="alice")))
    config: Any = {"configurable": {"thread_id": "asked"}}
    assert graph.get_state(config).tasks[0].interrupts[0].value == "name?"
    assert graph.invoke(Command(resume="Ada"), config)["messages"][-1].content == "you said Ada"
    saver.prune(["chat"])
    assert saver.get_tuple(CHAT).checkpoint["channel_values"]["messages"] == last  # type: ignore[union-attr]
    assert findings(memos) == []
    erased = memos.scoped(user="alice").erase(verify=True)
    assert sorted(erased.threads) == ["asked", "named"]
    assert erased.traces == ()


def test_threads_of_version_2_are_there_and_go_on(second: Path, tmp_path: Path) -> None:
    with MemOS.open(second, embedder=None) as memos:
        check_threads(memos)
        assert [c.text for c in memos.scoped(user="bob").find()] == ["Bob keeps bees"]
    MemOS.open(tmp_path / "new.db", embedder=None).close()
    assert schema(second) == schema(tmp_path / "new.db")


def test_an_upgrade_stores_each_message_once(second: Path) -> None:
    before = second.read_bytes().count(b"answer 3: the harbour")
    MemOS.open(second, embedder=None).close()
    with sqlite3.connect(second) as conn:
        conn.execute("VACUUM")
    conn.close()
    assert before > 5
    assert second.read_bytes().count(b"answer 3: the harbour") == 1


@pytest.mark.parametrize(
    ("damage", "channel"),
    [
        (
            "UPDATE checkpoint_blobs SET value = x'c1' WHERE channel = 'messages' AND tenant = 'default'",
            "messages",
        ),
        ("DELETE FROM checkpoint_blobs WHERE channel = 'messages' AND tenant = 'default'", "messages"),
        ("UPDATE checkpoints SET metadata = '{}' WHERE thread_id = 'chat'", "checkpoint"),
    ],
)
def test_what_was_damaged_before_an_upgrade_is_damaged_after_it(
    second: Path, damage: str, channel: str
) -> None:
    with sqlite3.connect(second) as conn:
        conn.execute(damage)
    conn.close()
    with MemOS.open(second, embedder=None) as memos:
        with pytest.raises(VaultError, match=rf"{channel}.*"):
            MemOSSaver(memos).get_tuple(CHAT)
        assert any("'chat'" in finding for finding in findings(memos))
        asked: Any = {"configurable": {"thread_id": "asked"}}
        assert MemOSSaver(memos.scoped(user="alice")).get_tuple(asked) is not None


def test_a_server_of_version_2_is_upgraded(second: Path, postgres_url: str) -> None:
    """The tables as that release made them, with the rows of `V2`."""
    MemOS.open(postgres_url, embedder=None).close()
    with sqlite3.connect(second) as old, psycopg.connect(postgres_url) as new:
        for table in ("threads", "checkpoints", "checkpoint_chunks", "checkpoint_writes"):
            new.execute(f"DROP TABLE {table}")  # type: ignore[arg-type]
        for table, columns in V2_TABLES.items():
            new.execute(f"CREATE TABLE {table} ({columns})")  # type: ignore[arg-type]
            rows = old.execute(f"SELECT * FROM {table}").fetchall()
            marks = ", ".join(["%s"] * len(rows[0]))
            new.cursor().executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # type: ignore[arg-type]
        new.execute(
            "CREATE INDEX ix_checkpoints_run ON checkpoints (tenant, run_id) WHERE run_id IS NOT NULL"
        )
        new.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    old.close()
    for _ in range(2):
        with MemOS.open(postgres_url, embedder=None) as memos:
            assert MemOSSaver(memos).get_tuple(CHAT) is not None
    with MemOS.open(postgres_url, embedder=None) as memos:
        check_threads(memos)


_ADDRESS = 'tenant VARCHAR COLLATE "C", thread_id VARCHAR COLLATE "C", checkpoint_ns VARCHAR COLLATE "C", '
V2_TABLES = {
    "checkpoints": _ADDRESS
    + 'checkpoint_id VARCHAR COLLATE "C", parent_id VARCHAR, run_id VARCHAR, type VARCHAR, checkpoint BYTEA, '
    "refs VARCHAR, metadata VARCHAR, digest VARCHAR, PRIMARY KEY (tenant, thread_id, checkpoint_ns, checkpoint_id)",
    "checkpoint_blobs": _ADDRESS
    + 'channel VARCHAR COLLATE "C", version VARCHAR COLLATE "C", type VARCHAR, value BYTEA, digest VARCHAR, '
    "PRIMARY KEY (tenant, thread_id, checkpoint_ns, channel, version)",
    "checkpoint_writes": _ADDRESS
    + 'checkpoint_id VARCHAR COLLATE "C", task_id VARCHAR COLLATE "C", idx INTEGER, task_path VARCHAR, '
    "channel VARCHAR, type VARCHAR, value BYTEA, digest VARCHAR, "
    "PRIMARY KEY (tenant, thread_id, checkpoint_ns, checkpoint_id, task_id, idx)",
}

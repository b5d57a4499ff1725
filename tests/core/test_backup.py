"""A backup is a whole vault, made while others write, and can be restored on any back end."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from support import bag_of_words, findings

from memos_core import MemOS
from memos_core.errors import InvalidArgument, VaultError
from memos_core.vault.checkpoints import Lane, StoredCheckpoint
from memos_core.vault.copies import copy_vault


def filled(memos: MemOS) -> None:
    view = memos.scoped(user="u", agent="a", session="s")
    cubes = [view.write({"n": i}, text=f"memory {i} of the lighthouse") for i in range(20)]
    view.update(cubes[3].id, "memory 3 of the lighthouse, told anew")
    view.delete(cubes[4].id)
    view.grant(cubes[5].id, "group:keepers")
    memos.add_to_group("keepers", ["bob"])
    view.archive(cubes[6].id)
    view.search("lighthouse")
    lane = Lane("default", "thread")
    stored = StoredCheckpoint(lane, "1", None, ("json", b"{}"), "{}", {"a": ("json", b"value")})
    memos.vault.checkpoints.put(stored, {"a": "1"})


def content(memos: MemOS) -> list[object]:
    view = memos.scoped(user="u", agent="a", session="s")
    cubes = view.find(states=None)
    return [
        [c.model_dump(mode="json", exclude={"header": {"behaviour"}}) for c in cubes],
        [[v.text for v in view.history(c.id)] for c in cubes],
        {c.id: view.grants(c.id) for c in cubes},
        memos.groups(),
        memos.scoped(user="u").audit_log(limit=None),
        memos.scoped(user="u").verify_audit_log(),
        memos.vault.checkpoints.get(Lane("default", "thread")),
    ]


@pytest.mark.parametrize("dest", ["copy", "copy.db"])
def test_a_backup_is_the_same_vault(memos: MemOS, tmp_path: Path, dest: str) -> None:
    filled(memos)
    file = memos.backup(tmp_path / "deep" / dest)
    assert file == tmp_path / "deep" / (dest if dest.endswith(".db") else f"{dest}/vault.db")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    with MemOS.open(tmp_path / "deep" / dest, embedder=bag_of_words, index="exact") as copy:
        assert content(copy) == content(memos)
        assert findings(copy) == []
        hits = copy.scoped(user="u").search("told anew", k=1)
        assert hits[0].cube.text.endswith("told anew")
        copy.scoped(user="u").write("and it goes on")


def test_a_backup_never_replaces_anything(memos: MemOS, tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    file.write_bytes(b"somebody's")
    with pytest.raises(InvalidArgument, match="exists"):
        memos.backup(file)
    assert file.read_bytes() == b"somebody's"
    for dest in (":memory:", "postgresql://h/d"):
        with pytest.raises(InvalidArgument, match="dest"):
            memos.backup(dest)


def test_a_place_that_cannot_be_written(memos: MemOS, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VaultError, match="cannot be written"):
        memos.backup(tmp_path / "file" / "b.db")


def test_a_damaged_vault_makes_no_backup(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "v", embedder=None) as memos:
        filled(memos)
        with sqlite3.connect(tmp_path / "v" / "vault.db") as db:
            db.execute("UPDATE cubes SET text = 'changed' WHERE seq = 1")
        db.close()
        with pytest.raises(VaultError, match="damaged"):
            memos.backup(tmp_path / "b.db")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["v"]


def test_a_backup_while_others_write(vault_url: str, tmp_path: Path) -> None:
    """Each transaction writes a pair: the copy has both or none."""
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            memos.put([memos.cube(f"left {n}", key=f"l{n}"), memos.cube(f"right {n}", key=f"r{n}")])
            n += 1

    with MemOS.open(vault_url, user="u", embedder=None) as memos:
        memos.put([memos.cube(f"left {i}", key=f"l-{i}") for i in range(500)])
        memos.put([memos.cube(f"right {i}", key=f"r-{i}") for i in range(500)])
        writer = threading.Thread(target=write)
        writer.start()
        try:
            files = [memos.backup(tmp_path / f"b{i}.db") for i in range(3)]
        finally:
            stop.set()
            writer.join()
    for file in files:
        with MemOS.open(file, user="u", embedder=None) as copy:
            keys = {c.key for c in copy.find()}
            assert len(keys) >= 1000
            assert {k[1:] for k in keys if k[0] == "l"} == {k[1:] for k in keys if k[0] == "r"}
            assert findings(copy) == []


def test_restored_on_each_back_end(vault_url: str, tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "from", embedder=bag_of_words, index="exact") as memos:
        filled(memos)
        expected = content(memos)
        file = memos.backup(tmp_path / "b.db")
    before = file.read_bytes()
    copy_vault(file, vault_url)
    assert file.read_bytes() == before
    with MemOS.open(vault_url, embedder=bag_of_words, index="exact") as restored:
        assert content(restored) == expected
        assert findings(restored) == []
        view = restored.scoped(user="u", agent="a", session="s")
        assert view.search("told anew", k=1)[0].cube.text.endswith("told anew")
        view.write("and it goes on")
        view.erase()
        assert view.find(states=None) == []
    with pytest.raises(InvalidArgument, match="holds something"):
        copy_vault(file, vault_url)


def test_a_backup_of_postgresql_is_restored_to_it(postgres_url: str, tmp_path: Path) -> None:
    with MemOS.open(postgres_url, embedder=bag_of_words) as memos:
        filled(memos)
        expected = content(memos)
        file = memos.backup(tmp_path / "b")
    with MemOS.open(file.parent, embedder=bag_of_words, index="exact") as copy:
        assert content(copy) == expected


def test_restoring_what_is_not_there(tmp_path: Path) -> None:
    for source in (tmp_path / "none", ":memory:"):
        with pytest.raises(InvalidArgument, match="source"):
            copy_vault(source, tmp_path / "v")
    (tmp_path / "text.db").write_text("no database at all, only some words")
    with pytest.raises(VaultError):
        copy_vault(tmp_path / "text.db", tmp_path / "v")
    assert not (tmp_path / "v" / "vault.db").exists()

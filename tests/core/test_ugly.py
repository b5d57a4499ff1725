"""Everything that can be wrong with a place to store things: one clear error of ours each, nothing lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import run_script

from memos_core import MemOS
from memos_core.errors import InvalidArgument, MemOSError, VaultError, VaultNewer

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def one_sentence(err: pytest.ExceptionInfo[MemOSError]) -> str:
    message = str(err.value)
    assert "\n" not in message
    assert "sqlite3." not in message
    assert "Background on this error" not in message
    return message


def filled(path: Path, n: int = 50) -> None:
    with MemOS.open(path, embedder=None) as memos:
        memos.put([memos.cube(f"fact number {i} " + "x" * 200) for i in range(n)])


@pytest.mark.parametrize("content", [b"hello, this is a text file\n" * 100, os.urandom(8192)])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.db"
    file.write_bytes(content)
    with pytest.raises(VaultError) as err:
        MemOS.open(file, embedder=None)
    assert "notes.db" in one_sentence(err)
    assert file.read_bytes() == content


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    for ddl in ("CREATE TABLE users (name TEXT)", "CREATE TABLE meta (a INTEGER, b INTEGER)"):
        file = tmp_path / f"{len(ddl)}.db"
        with sqlite3.connect(file) as db:
            db.execute(ddl)
        with pytest.raises(VaultError, match="another program") as err:
            MemOS.open(file, embedder=None)
        one_sentence(err)
        with sqlite3.connect(file) as db:
            assert len(db.execute("SELECT name FROM sqlite_master").fetchall()) == 1


@pytest.mark.parametrize("path", ["file.txt", "file.txt/below", "file.txt/below/v.db"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, path: str) -> None:
    (tmp_path / "file.txt").write_text("in the way")
    with pytest.raises(VaultError) as err:
        MemOS.open(tmp_path / path, embedder=None)
    assert "file.txt" in one_sentence(err)
    assert (tmp_path / "file.txt").read_text() == "in the way"


def test_a_file_name_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "v.db").mkdir()
    with pytest.raises(VaultError) as err:
        MemOS.open(tmp_path / "v.db", embedder=None)
    one_sentence(err)


def test_a_place_where_nothing_can_be_written() -> None:
    with pytest.raises(VaultError) as err:
        MemOS.open("/proc/memos-vault", embedder=None)
    assert "/proc/memos-vault" in one_sentence(err)


@pytest.mark.parametrize("url", ["", "  ", "a\x00b", "postgresql://localhost/x", "http://example.org"])
def test_a_url_that_names_no_vault(url: str) -> None:
    with pytest.raises(InvalidArgument) as err:
        MemOS.open(url, embedder=None)
    one_sentence(err)


def test_a_vault_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with sqlite3.connect(tmp_path / "vault.db") as db:
        db.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    db.close()
    before = (tmp_path / "vault.db").read_bytes()
    with pytest.raises(VaultNewer, match="upgrade") as err:
        MemOS.open(tmp_path, embedder=None)
    one_sentence(err)
    assert (tmp_path / "vault.db").read_bytes() == before


def use(path: Path) -> None:
    """Opening may succeed, if what it reads is whole; then reading or writing may not."""
    with MemOS.open(path, embedder=None) as memos:
        memos.find()
        memos.search("fact number")
        memos.write("one more")


@pytest.mark.parametrize("keep", [100, 4096, 0.5, 0.9])
def test_a_truncated_vault_says_so_and_is_not_made_worse(tmp_path: Path, keep: float) -> None:
    filled(tmp_path, 400)
    file = tmp_path / "vault.db"
    whole = file.read_bytes()
    cut = whole[: int(keep * len(whole)) if keep < 1 else int(keep)]
    file.write_bytes(cut)
    with pytest.raises(VaultError) as err:
        use(tmp_path)
    one_sentence(err)
    file.write_bytes(whole)
    with MemOS.open(tmp_path, embedder=None) as memos:
        assert len(memos.find()) == 400


READ_ONLY = """
import os, sys
from memos_core import MemOS
from memos_core.errors import VaultError
url, new = sys.argv[1:]
with MemOS.open(":memory:", embedder=None) as warm:  # imports now what the other user may not read
    warm.search(warm.write("a fact").text)
    warm.prompt([{"role": "user", "content": "fact?"}])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in (new, os.path.join(url, "below")):
    try:
        MemOS.open(path, embedder=None)
    except VaultError as err:
        print("new:", err)
try:
    memos = MemOS.open(url, embedder=None)
    print("read:", len(memos.find()), len(memos.search("fact")))
    memos.prompt([{"role": "user", "content": "fact?"}])
    memos.read(memos.find(limit=1)[0].id)
    try:
        memos.write("one more")
    except VaultError as err:
        print("write:", err)
    memos.close()
except VaultError as err:
    print("open:", err)
"""


@pytest.mark.skipif(not ROOT, reason="needs root, to become another user")
def test_a_read_only_folder(tmp_path: Path) -> None:
    vault = tmp_path / "v"
    filled(vault, 3)
    for folder in (vault, *vault.parents[: len(vault.parents) - 2]):
        folder.chmod(0o755)
    before = (vault / "vault.db").read_bytes()
    done = run_script(READ_ONLY, vault, tmp_path / "new")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["new", "new"]
    assert lines[2].startswith(("open:", "read: 3 3")), lines
    assert all("Traceback" not in line for line in lines)
    assert len(lines) == (3 if lines[2].startswith("open:") else 4)
    assert (vault / "vault.db").read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if ROOT
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr if mounted else 'not root'}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    acknowledged = []
    with MemOS.open(small_disk / "v", embedder=None) as memos:
        with pytest.raises(VaultError) as err:  # noqa: PT012 - which write it is depends on the file system
            for i in range(5_000):
                acknowledged.append(memos.write(f"fact {i} " + "x" * 2_000).id)
        assert "disk" in one_sentence(err)
        assert len(acknowledged) > 10
        assert [c.id for c in memos.find()] == acknowledged
        with pytest.raises(VaultError):
            memos.put([memos.cube("y" * 4_000) for _ in range(500)])
        assert len(memos.find()) == len(acknowledged)
    with MemOS.open(small_disk / "v", embedder=None) as memos:
        assert [c.id for c in memos.find()] == acknowledged
        assert [h.cube.id for h in memos.search("fact 3 ", k=1)]


def test_a_transaction_that_another_process_holds_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memos_core.vault import connect

    monkeypatch.setattr(connect, "_BUSY_MS", 50)
    with MemOS.open(tmp_path, embedder=None) as memos:
        memos.write("a fact")
        assert memos.scheduler.wait_idle()
        other = sqlite3.connect(tmp_path / "vault.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(VaultError, match="another process") as err:
            memos.write("another fact")
        one_sentence(err)
        assert len(memos.find()) == 1
        other.execute("ROLLBACK")
        other.close()
        memos.write("another fact")
        assert len(memos.find()) == 2

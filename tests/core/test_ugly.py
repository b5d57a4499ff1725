"""Everything that can be wrong with a place to store things: one clear error of ours each, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import findings, run_script

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


@pytest.mark.parametrize("url", ["", "  ", "a\x00b", "mysql://localhost/x", "http://example.org"])
def test_a_url_that_names_no_vault(url: str) -> None:
    with pytest.raises(InvalidArgument) as err:
        MemOS.open(url, embedder=None)
    one_sentence(err)


def test_a_server_that_is_not_there() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(VaultError) as err:
        MemOS.open("postgresql://me:secret@127.0.0.1:1/memory", embedder=None)
    assert "127.0.0.1" in one_sentence(err)
    assert "secret" not in str(err.value)


def test_a_database_that_is_not_there(postgres_url: str) -> None:
    before, _, after = postgres_url.partition("memos_test")
    with pytest.raises(VaultError, match="nowhere") as err:
        MemOS.open(f"{before}nowhere_memos_test{after}", embedder=None)
    assert "psycopg" not in one_sentence(err)


def test_a_vault_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with sqlite3.connect(tmp_path / "vault.db") as db:
        db.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
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
        MemOS.open(path, embedder=None).close()
    except VaultError as err:
        print("new:", err)
try:
    memos = MemOS.open(url, embedder=None)
    print("read:", len(memos.find()), len(memos.search("fact")))
    memos.prompt([{"role": "user", "content": "fact?"}])
    memos.read(memos.find(limit=1)[0].id)
    for change in (lambda: memos.write("one more"), lambda: memos.delete(memos.find(limit=1)[0].id)):
        try:
            change()
        except VaultError as err:
            print("write:", err)
    print("read:", len(memos.find()), len(memos.search("fact")))
    memos.close()
except VaultError as err:
    print("open:", err)
"""

# Leaves the vault as a killed process does: what it wrote last is in the write-ahead log only.
KILLED = """
import os, signal, sys
from memos_core import MemOS
memos = MemOS.open(sys.argv[1], embedder=None)
memos.put([memos.cube(f"fact number {i}") for i in range(3)])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not ROOT, reason="needs root, to become another user")
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o755, 0o666), (0o777, 0o644)])
def test_a_vault_that_may_only_be_read(tmp_path: Path, folder: int, file: int, killed: bool) -> None:
    """It is read, or there is one error that says why not; it stays as it is."""
    vault = tmp_path / "v"
    if killed:
        assert run_script(KILLED, vault).returncode == -signal.SIGKILL
        assert (vault / "vault.db-wal").stat().st_size
    else:
        filled(vault, 3)
    for above in vault.parents[: len(vault.parents) - 2]:
        above.chmod(0o755)
    for stored in vault.rglob("*"):
        stored.chmod(0o755 if stored.is_dir() else 0o644)
    (vault / "vault.db").chmod(file)
    vault.chmod(folder)
    done = run_script(READ_ONLY, vault, tmp_path / "new")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    refused = [line for line in lines if line.startswith("new:")]
    assert len(refused) == (2 if folder == 0o755 else 1)
    assert str(tmp_path / "new") in refused[0]
    rest = lines[len(refused) :]
    if rest[0].startswith("open:"):
        assert len(rest) == 1
        assert str(vault) in rest[0]
    else:
        assert [line.split(":")[0] for line in rest] == ["read", "write", "write", "read"]
        assert rest[0] == rest[3] == "read: 3 3"
        assert "read-only" in rest[1]
    with MemOS.open(vault, embedder=None) as memos:
        assert len(memos.find()) == 3
        assert len(memos.search("fact")) == 3


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


# No file may grow past the limit: what a quota does, and a full disk, as any user and on any file system.
LIMITED = """
import json, resource, sys
from memos_core import MemOS
from memos_core.errors import VaultError

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

acknowledged, errors = [], []
with MemOS.open(sys.argv[1], user="u", embedder=None) as memos:
    limit(int(sys.argv[2]))
    try:
        for i in range(5_000):
            acknowledged.append(memos.write(f"fact {i} " + "x" * 2_000).id)
    except VaultError as err:
        errors.append(str(err))
    try:
        memos.put([memos.cube(f"many {i} " + "y" * 4_000) for i in range(2_000)])
    except VaultError as err:
        errors.append(str(err))
    listed = [c.id for c in memos.find()]
    limit(resource.RLIM_INFINITY)
    after = memos.write("there is room again").id
print(json.dumps([acknowledged, errors, listed, after]))
"""


@pytest.mark.parametrize("size", [400_000, 5_000_000])
def test_files_that_may_not_grow(tmp_path: Path, size: int) -> None:
    done = run_script(LIMITED, tmp_path / "v", size)
    assert done.returncode == 0, done.stderr
    acknowledged, errors, listed, after = json.loads(done.stdout)
    assert len(errors) == 2
    for error in errors:
        assert "\n" not in error
        assert "disk" in error
    assert acknowledged
    assert listed == acknowledged
    with MemOS.open(tmp_path / "v", user="u", embedder=None) as memos:
        assert [c.id for c in memos.find()] == [*acknowledged, after]
        assert {h.cube.id for h in memos.search("fact", k=5_000)} == set(acknowledged)
        assert memos.search("many", k=1) == []
        assert findings(memos) == []


def test_an_empty_file_is_a_new_vault(tmp_path: Path) -> None:
    """It is what a process leaves that is killed while it makes one."""
    (tmp_path / "v.db").touch()
    with MemOS.open(tmp_path / "v.db", embedder=None) as memos:
        assert memos.find() == []
        memos.write("a fact")
    with MemOS.open(tmp_path / "v.db", embedder=None) as memos:
        assert [c.text for c in memos.find()] == ["a fact"]


def test_a_vault_that_became_an_empty_file_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    """The write-ahead log beside it is what is left; SQLite would throw that away."""
    vault = tmp_path / "v"
    assert run_script(KILLED, vault).returncode == -signal.SIGKILL
    os.truncate(vault / "vault.db", 0)
    left = (vault / "vault.db-wal").read_bytes()
    with pytest.raises(VaultError) as err:
        MemOS.open(vault, embedder=None)
    assert "vault.db" in one_sentence(err)
    assert (vault / "vault.db-wal").read_bytes() == left


def test_a_transaction_that_another_process_holds_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memos_core.vault import sqlite

    monkeypatch.setattr(sqlite, "_BUSY_MS", 50)
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

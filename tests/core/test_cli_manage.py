"""The commands that govern a vault, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import environment

from memos_core import MemOS
from memos_core.cli import cli
from memos_core.errors import MemOSError
from memos_core.vault.connect import locate

Run = Callable[..., Result]
SECRET = "the combination of the old safe is nine-seventeen-four"


@pytest.fixture
def run(vault_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on this test's vault."""
    monkeypatch.setenv("COLUMNS", "200")

    def run_(*words: object, stdin: str | None = None, vault: object = vault_url) -> Result:
        return CliRunner().invoke(cli, ["--vault", str(vault), *map(str, words)], input=stdin)

    return run_


@pytest.fixture
def ids(vault_url: str) -> list[str]:
    """Two memories of Alice and one of Bob."""
    with MemOS.open(vault_url, embedder=None) as memos:
        alice, bob = memos.scoped(user="alice"), memos.scoped(user="bob", agent="cook", session="s")
        return [
            alice.write(SECRET).id,
            alice.write("the cat prefers the red armchair").id,
            bob.write("the oven is too hot on the left side").id,
        ]


def texts(vault_url: str) -> set[str]:
    with MemOS.open(vault_url, user="*", embedder=None) as memos:
        return {c.text.split()[1] for c in memos.find()}


def said(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_erase_a_user(run: Run, ids: list[str], vault_url: str) -> None:
    assert "nothing" not in said(run("trace", "nine-seventeen-four"), 1)
    assert "Aborted" in said(run("erase", "--user", "alice", stdin="n\n"), 1)
    assert texts(vault_url) == {"combination", "cat", "oven"}
    out = said(run("erase", "--user", "alice", stdin="y\n"))
    assert "2 memories" in out
    assert "found: 0" in out
    assert texts(vault_url) == {"oven"}
    assert "not found" in said(run("trace", "nine-seventeen-four"))


def test_erase_by_id_and_scope(run: Run, ids: list[str], vault_url: str) -> None:
    out = said(run("erase", "--id", ids[0][-8:], "--yes", "--no-verify"))
    assert "1 memories" in out
    assert "found" not in out
    assert texts(vault_url) == {"cat", "oven"}
    said(run("erase", "--user", "bob", "--agent", "another", "--yes"))
    assert texts(vault_url) == {"cat", "oven"}
    said(run("erase", "--user", "bob", "--agent", "cook", "--session", "s", "--yes"))
    assert texts(vault_url) == {"cat"}


def test_traces_that_remain_are_exit_code_1(run: Run, ids: list[str], vault_url: str) -> None:
    home = locate(vault_url).home
    assert home is not None
    home.mkdir(parents=True, exist_ok=True)
    note = home / "a-note.txt"
    note.write_text(SECRET)
    try:
        assert "a-note.txt" in said(run("erase", "--user", "alice", "--yes"), 1)
    finally:
        note.unlink()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--user", "a", "--id", "b"],
        ["--user", "a", "--no-user"],
        ["--id", "b", "--agent", "c"],
        ["--user", "*"],
    ],
)
def test_erase_wants_one_thing(run: Run, ids: list[str], words: list[str], vault_url: str) -> None:
    result = run("erase", *words, "--yes")
    assert isinstance(result.exception, MemOSError)
    assert len(texts(vault_url)) == 3


def test_doctor(run: Run, ids: list[str], vault_url: str) -> None:
    assert said(run("doctor")) == "nothing is wrong\n"
    with MemOS.open(vault_url, embedder=None) as memos, memos.vault.db.write() as conn:
        conn.exec_driver_sql("INSERT INTO labels (cube_id, label) VALUES ('nobody', 'x')")
    assert "labels" in said(run("doctor"), 1)
    assert "repaired" in said(run("doctor", "--repair"))
    assert said(run("doctor")) == "nothing is wrong\n"


def test_backup_and_restore(run: Run, ids: list[str], tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    assert str(file) in said(run("backup", file))
    assert isinstance(run("backup", file).exception, MemOSError)
    copy = tmp_path / "restored"
    assert "nothing is wrong" in said(run("restore", file, vault=copy))
    assert texts(str(copy)) == {"combination", "cat", "oven"}
    assert isinstance(run("restore", file, vault=copy).exception, MemOSError)


def test_log(run: Run, ids: list[str], vault_url: str) -> None:
    said(run("erase", "--id", ids[0], "--yes"))
    out = said(run("log"))
    assert out.count("write") == 3
    assert "erase" in out
    assert SECRET not in out
    records = [json.loads(line) for line in said(run("log", "--user", "alice", "--json")).splitlines()]
    assert [r["action"] for r in records] == ["erase", "write", "write"]
    assert len(said(run("log", "--id", ids[0], "--json")).splitlines()) == 2
    assert len(said(run("log", "--id", ids[1][-8:], "--json")).splitlines()) == 1
    assert len(said(run("log", "--action", "write", "--limit", 2, "--json")).splitlines()) == 2
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    assert said(run("log", "--since", tomorrow, "--json")) == ""
    assert len(said(run("log", "--until", tomorrow, "--json")).splitlines()) == 4
    assert run("log", "--since", "yesterday").exit_code == 2
    assert "as it was written" in said(run("log", "--verify"))
    with MemOS.open(vault_url, embedder=None) as memos, memos.vault.db.write() as conn:
        conn.exec_driver_sql("UPDATE audit SET principal = 'somebody'")
    assert "was changed" in said(run("log", "--verify"), 1)


def test_history_diff_and_rollback(run: Run, ids: list[str], vault_url: str) -> None:
    with MemOS.open(vault_url, user="alice", embedder=None) as memos:
        memos.update(ids[1], "the cat prefers the blue armchair")
    out = said(run("history", ids[1]))
    assert out.index("red armchair") < out.index("blue armchair")
    assert len(said(run("history", ids[1], "--json")).splitlines()) == 2
    assert "blue" in said(run("history", ids[1], "--diff", 1, 2))
    assert "version 3" in said(run("rollback", ids[1][-8:], 1))
    with MemOS.open(vault_url, user="alice", embedder=None) as memos:
        assert memos.read(ids[1]).text == "the cat prefers the red armchair"
    assert isinstance(run("rollback", ids[1], 9).exception, MemOSError)


def test_life_cycle(run: Run, ids: list[str], vault_url: str) -> None:
    said(run("archive", ids[0], ids[2]))
    assert "armchair" in said(run("ls"))
    assert "safe" not in said(run("ls"))
    out = said(run("ls", "--state", "archived"))
    assert "safe" in out
    assert "armchair" not in out
    assert "archived" in said(run("show", ids[0]))
    assert "safe" in said(run("ls", "--state", "archived")), "looking brought it back"
    said(run("activate", ids[0]))
    assert "safe" in said(run("ls"))
    said(run("freeze", ids[0]))
    assert isinstance(run("archive", ids[0]).exception, MemOSError)
    said(run("unfreeze", ids[0]))
    said(run("archive", ids[0]))
    assert "oven" in said(run("ls", "--state", "all"))


def test_as_of(run: Run, ids: list[str], vault_url: str) -> None:
    before = datetime.now().astimezone().isoformat()
    with MemOS.open(vault_url, user="alice", embedder=None) as memos:
        memos.update(ids[1], "the cat prefers the blue armchair")
        memos.write("the dog prefers the garden")
    assert "blue" in said(run("ls"))
    then = said(run("ls", "--as-of", before))
    assert "red" in then
    assert "blue" not in then
    assert "dog" not in then
    assert "red" in said(run("search", "armchair", "--as-of", before))
    assert "0 shown" in said(run("ls", "--as-of", "2020-05-03"))


def test_grants(run: Run, ids: list[str], vault_url: str) -> None:
    out = said(run("grant", ids[0], "user:bob", "--write", "--share"))
    assert "user:bob: read, share, write" in out
    said(run("grant", ids[0], "group:cooks"))
    with MemOS.open(vault_url, user="alice", embedder=None) as memos:
        assert memos.grants(ids[0]) == {"group:cooks": ("read",), "user:bob": ("read", "share", "write")}
    assert "user:bob" not in said(run("revoke", ids[0], "user:bob"))
    assert isinstance(run("grant", ids[0], "bob").exception, MemOSError)


def test_commands_make_no_vault(run: Run, tmp_path: Path, postgres_url: str) -> None:
    for vault in (tmp_path / "none", postgres_url):
        for words in (
            ["ls"],
            ["doctor"],
            ["log"],
            ["erase", "--user", "a", "--yes"],
            ["backup", tmp_path / "b.db"],
        ):
            result = run(*words, vault=vault)
            assert isinstance(result.exception, MemOSError), words
            assert "no vault" in str(result.exception)
    assert not (tmp_path / "none").exists()
    result = run("ls", vault="postgresql://nobody@127.0.0.1:1/none")
    assert isinstance(result.exception, MemOSError)
    assert "\n" not in str(result.exception)


LOOKER = """
import contextlib, io, os, sys
from memos_core.cli import cli, main
own, id_, *words = sys.argv[1:]
with contextlib.redirect_stdout(io.StringIO()):  # imports now what the other user may not read
    for command in (["ls"], ["show", id_], ["archive", id_]):
        cli(["--vault", own, *command], standalone_mode=False)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv = ["memos", *words]
main()
"""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become another user"
)
def test_looking_at_a_vault_in_a_read_only_folder(tmp_path: Path) -> None:
    home = tmp_path / "v"
    own = tmp_path / "own"
    with MemOS.open(home, user="alice", embedder=None) as memos:
        id_ = memos.write(SECRET).id
        memos.backup(own)
    for above in home.parents[: len(home.parents) - 2]:
        above.chmod(0o755)
    home.chmod(0o755)
    (home / "vault.db").chmod(0o644)

    def look(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", LOOKER, str(own), id_, "--vault", str(home), *words]
        wide = {**environment(), "COLUMNS": "200"}
        return subprocess.run(
            line, capture_output=True, text=True, check=False, env=wide, timeout=120, cwd="/"
        )

    for words in (["ls"], ["show", id_]):
        done = look(*words)
        assert done.returncode == 0, done.stderr
        assert "nine-seventeen-four" in done.stdout
        assert done.stderr == ""
    refused = look("archive", id_)
    assert refused.returncode == 1
    assert "read-only" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1

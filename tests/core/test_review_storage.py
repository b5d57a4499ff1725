"""Damage, secrets and sizes: what is wrong with one memory or one address stays with it."""

from __future__ import annotations

import json
import logging
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from psycopg.errors import ProgramLimitExceeded
from sqlalchemy import update
from support import findings

from memos_core import MemOS
from memos_core.cli import cli
from memos_core.errors import InvalidArgument, NotFound, VaultError
from memos_core.vault import CubeFilter, locate, migrate, past, rows, tables
from memos_core.vault.postgres import Postgres

V1 = Path(__file__).parent / "data" / "vault_v1.db"


# -- an old vault with damage in it --------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copy(V1, tmp_path / "vault.db"))


def spoil(file: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(file)) as conn, conn:
        assert conn.execute(statement, values).rowcount == 1


def the_bee(file: Path) -> tuple[str, dict[str, Any]]:
    """Bob's memory: its id and header."""
    with closing(sqlite3.connect(file)) as conn:
        id_, header = conn.execute("SELECT id, header FROM cubes WHERE text = 'Bob keeps bees'").fetchone()
    return id_, json.loads(header)


def test_a_label_said_twice_is_one(old: Path) -> None:
    id_, header = the_bee(old)
    header["sensitivity"] = ["medical", "medical"]
    spoil(old, "UPDATE cubes SET header = ? WHERE id = ?", json.dumps(header), id_)
    with MemOS.open(old, user="bob", embedder=None) as memos:
        assert [c.id for c in memos.find()] == [id_]
        assert memos.scoped(clearance=[]).find() == []
        assert findings(memos) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("header", "{broken"),
        ("header", "[]"),
        ("payload", '"x"'),
        ("state", "generatee"),
        ("created_at", 1 << 62),
        ("created_at", "soon"),
        ("derived_from", "[1]"),
        ("header", b"\xff\xfe"),
        ("text", None),
    ],
)
def test_a_damaged_memory_does_not_keep_an_old_vault_shut(old: Path, column: str, value: Any) -> None:
    id_, _ = the_bee(old)
    if value is None:  # bytes that are no UTF-8
        spoil(old, "UPDATE cubes SET text = CAST(x'42ff42' AS TEXT) WHERE id = ?", id_)
    else:
        spoil(old, f"UPDATE cubes SET {column} = ? WHERE id = ?", value, id_)
    with MemOS.open(old, embedder=None) as memos:
        alice, bob = memos.scoped(user="alice"), memos.scoped(user="bob")
        assert len(alice.find()) > 3
        assert bob.find(states=None) == []
        with pytest.raises(VaultError, match=id_):
            bob.read(id_)
        assert [finding for finding in findings(memos) if id_ not in finding] == []
        assert findings(memos) != []
        assert bob.write("another").version == 1
        assert bob.delete([id_]) == [id_]
        assert findings(memos) == []


@pytest.mark.parametrize("kept", ["xx", "{}", "[]", '{"checksum": null}', '{"id": 7, "checksum": null}'])
def test_a_damaged_version_does_not_keep_an_old_vault_shut(old: Path, kept: str) -> None:
    spoil(old, "UPDATE versions SET cube = ? WHERE rowid = (SELECT min(rowid) FROM versions)", kept)
    with MemOS.open(old, embedder=None) as memos:
        alice = memos.scoped(user="alice")
        [glacier] = [c for c in alice.find() if "glacier" in c.text]
        with pytest.raises(VaultError, match=glacier.id):
            alice.history(glacier.id)
        assert [glacier.id in finding for finding in findings(memos)] == [True]
        with memos.vault.db.read() as conn:
            v = tables.versions.c
            assert conn.execute(tables.versions.select().with_only_columns(v.user)).scalar() == "alice"
        alice.delete([glacier.id])
        assert findings(memos) == []


def test_what_else_stops_an_upgrade_is_one_sentence(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(old, "UPDATE plans SET planned_at = 'soon' WHERE rowid = (SELECT min(rowid) FROM plans)")
    MemOS.open(shutil.copy(old, old.with_name("copy.db")), embedder=None).close()  # taken as it is

    def fail(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setitem(migrate._AFTER, 1, fail)  # type: ignore[arg-type]
    with pytest.raises(VaultError, match=r"vault\.db was not upgraded and is as it was: 'unforeseen'"):
        MemOS.open(old, embedder=None)


# -- secrets in an address -----------------------------------------------------------------------------------


def test_no_secret_of_an_address_is_shown() -> None:
    at = locate("postgresql://u@h/db?password=s3cret&sslpassword=t0p&passfile=/my/pass&sslmode=require")
    assert at.server is not None
    assert at.server.password == "s3cret"
    assert dict(at.server.query) == {"sslpassword": "t0p", "passfile": "/my/pass", "sslmode": "require"}
    assert at.label == "postgresql://u:***@h/db?sslmode=require"
    assert at.url == "postgresql://u@h/db?sslmode=require"
    assert locate(at.url).home == at.home
    for shown in (repr(at), str(at)):
        assert not any(secret in shown for secret in ("s3cret", "t0p", "/my/pass"))
    assert locate("postgresql://u:s3cret@h/db").url == "postgresql://u@h/db"
    assert locate("postgresql://u:a@h/db?password=b&password=c").server.password == "c"  # type: ignore[union-attr]
    with pytest.raises(InvalidArgument, match="names no database") as err:
        locate("postgresql://u:hidden@h?password=s3cret&sslpassword=t0p")
    assert not any(secret in str(err.value) for secret in ("hidden", "s3cret", "t0p"))


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(VaultError, match="cannot be reached") as err:
        MemOS.open("postgresql://u@127.0.0.1:1/db?password=s3cret", embedder=None)
    assert "s3cret" not in str(err.value)


# -- damage in a vault of today ------------------------------------------------------------------------------


def damage(memos: MemOS, id_: str) -> None:
    with memos.vault.db.write() as conn:
        conn.execute(update(tables.cubes).where(tables.cubes.c.id == id_).values(text="changed"))


@pytest.mark.parametrize("kept", ["{}", "[]", "x", '{"checksum": null}'])
def test_the_past_is_there_but_for_what_is_damaged(
    memos: MemOS, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    alice = memos.scoped(user="alice")
    old, damaged, whole = alice.write("one"), alice.write("two"), alice.write("three")
    then = datetime.now(UTC)
    alice.update(old.id, "one more")
    damage(memos, damaged.id)
    with memos.vault.db.write() as conn:
        conn.execute(update(tables.versions).values(cube=kept))
    with caplog.at_level(logging.ERROR, "memos_core.vault"):
        assert [c.text for c in alice.find(as_of=then)] == ["three"]
    assert {i for i in (old.id, damaged.id, whole.id) if i in caplog.text} == {old.id, damaged.id}
    assert [c.text for c in alice.find(as_of=datetime.now(UTC))] == ["one more", "three"]
    assert alice.read(whole.id, as_of=then).text == "three"
    for id_ in (old.id, damaged.id):
        with pytest.raises(VaultError, match=id_):
            alice.read(id_, as_of=then)


def test_one_memory_of_the_past_is_read_alone(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = memos.scoped(user="alice"), memos.scoped(user="bob")
    cubes = [alice.write(f"number {i}") for i in range(4)]
    alice.grant(cubes[0].id, "user:bob")
    then = datetime.now(UTC)
    for cube in cubes[:2]:
        alice.update(cube.id, "changed")
    read: list[str] = []

    def counted(made: Callable[..., Any]) -> Callable[..., Any]:
        def made_(*args: Any) -> Any:
            cube = made(*args)
            read.append(cube.id)
            return cube

        return made_

    monkeypatch.setattr(past, "from_row", counted(rows.from_row))
    monkeypatch.setattr(past, "from_kept", counted(rows.from_kept))
    for view, cube in ((alice, cubes[0]), (alice, cubes[1]), (alice, cubes[3]), (bob, cubes[0])):
        read.clear()
        assert view.read(cube.id, as_of=then).text == cube.text
        assert set(read) == {cube.id}
    with pytest.raises(NotFound):
        bob.read(cubes[1].id, as_of=then)


def test_a_damaged_memory_can_be_erased_by_its_id(vault_url: str) -> None:
    with MemOS.open(vault_url, embedder=None) as memos:
        alice = memos.scoped(user="alice")
        damaged, whole = alice.write("one"), alice.write("two")
        damage(memos, damaged.id)

    def run(*words: str, stdin: str | None = None) -> Any:
        return CliRunner().invoke(cli, ["--vault", vault_url, *words], input=stdin)

    shown = run("show", damaged.id[-12:])
    assert shown.exit_code == 1
    assert "damaged" in f"{shown.output}{shown.exception}"
    assert run("log", "--id", damaged.id[-12:]).exit_code == 0
    done = run("erase", "--id", damaged.id[-12:], stdin="y\n")
    assert "is damaged" in done.output
    assert "1 memories" in done.output
    assert done.exit_code == 0
    with MemOS.open(vault_url, embedder=None) as memos:
        assert [c.id for c in memos.scoped(user="alice").find(states=None)] == [whole.id]
        assert findings(memos) == []


# -- sizes ---------------------------------------------------------------------------------------------------

LONG = "é" * 501


@pytest.mark.parametrize(
    ("named", "act"),
    [
        ("key", lambda m: m.write("x", key=LONG)),
        ("namespace", lambda m: m.write("x", namespace=(LONG,))),
        ("namespace", lambda m: m.write("x", namespace=("é" * 300, "é" * 300))),
        ("user", lambda m: m.scoped(user=LONG).write("x")),
        ("agent", lambda m: m.scoped(agent=LONG).write("x")),
        ("session", lambda m: m.scoped(session=LONG).write("x")),
        ("semantic_type", lambda m: m.put([m.cube({"a": 1}, text="x", semantic_type=LONG)])),
        ("sensitivity", lambda m: m.write("x", sensitivity=["a", LONG])),
        (
            "tenant, user, namespace and key",
            lambda m: m.scoped(user="u" * 900).write("x", namespace=("n" * 900,), key="k" * 900),
        ),
    ],
)
def test_what_an_index_cannot_hold_is_refused(memos: MemOS, named: str, act: Callable[[MemOS], Any]) -> None:
    with pytest.raises(InvalidArgument, match=rf"{named}.* bytes"):
        act(memos)
    assert memos.vault.count(CubeFilter(memos.scope, states=None)) == 0


def test_the_longest_names_are_stored(memos: MemOS) -> None:
    letters = random.Random(7)
    name = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=860)) for _ in range(3)]
    view = memos.scoped(user=name[0], agent=name[1] + "x" * 140, session=name[2])
    cube = view.write("x", namespace=(name[1],), key=name[2], sensitivity=["é" * 500])
    assert view.read(cube.id).key == name[2]
    assert view.update(cube.id, "y").version == 2
    assert findings(memos) == []


def test_a_longer_name_of_an_earlier_release_is_no_damage(
    memos: MemOS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rows, "MAX_NAME", 10_000)
        memos.write("x", key="k" * 1_100)
    assert findings(memos) == []
    memos.backup(tmp_path / "copy.db")


def test_the_servers_own_limits_are_not_an_unreachable_server() -> None:
    err = ProgramLimitExceeded("index row requires 9040 bytes\nmore")
    said = Postgres._reason(object.__new__(Postgres), err)
    assert "too long" in said
    assert "reached" not in said

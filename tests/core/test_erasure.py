"""What was erased is in no file: the raw bytes are searched here without the verifier, and the verifier is shown
what it has to find."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import bag_of_words, findings, run_script

from memos_core import MemOS, Principal
from memos_core.cube import State
from memos_core.errors import AccessDenied, InvalidArgument, NotFound
from memos_core.traces import Fragments, Searcher, files_below
from memos_core.vault.checkpoints import Lane, StoredCheckpoint, StoredWrite
from memos_core.vault.chunking import Typed

TEXT = "The launch code of the zeppelin is quartz-umbrella-4711"
OLDER = "It used to be kept beside the marzipan thermometer, upstairs"
NOTE = 'she said "kaleidoscope lantern 19" and\nthen: "paprika submarine 77"'
SECRETS = (
    b"zeppelin is quartz-umbrella",
    b"marzipan thermometer",
    b"kaleidoscope lantern 19",
    b"paprika submarine 77",
    b"tag-of-the-mandolin",
)
BOBS = "The bicycle of the baker stands behind the old town hall"


def raw(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in files_below(home)}


def found(home: Path, *wanted: bytes) -> list[tuple[str, bytes]]:
    return [(name, part) for name, content in raw(home).items() for part in wanted if part in content]


def vector(text: str) -> bytes:
    [made] = bag_of_words([text])
    unit = np.asarray(made, np.float32)
    return (unit / np.linalg.norm(unit)).astype("<f4").tobytes()


def filled(memos: MemOS) -> str:
    """Alice's memory, with an older version; the id."""
    alice = memos.scoped(user="alice")
    cube = alice.write(OLDER, key="code")
    alice.search("thermometer")
    alice.update(cube.id, {"note": NOTE}, text=TEXT, tags=["tag-of-the-mandolin"])
    alice.search("zeppelin")
    return cube.id


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "v"


@pytest.fixture(params=["exact", "chroma"])
def vault(request: pytest.FixtureRequest, home: Path) -> Iterator[MemOS]:
    """A vault in files, with a memory of Bob's."""
    with MemOS.open(home, embedder=bag_of_words, index=request.param) as memos:
        memos.scoped(user="bob").write(BOBS)
        memos.scoped(user="bob").search("bicycle")
        yield memos


def test_nothing_erased_is_in_any_file(vault: MemOS, home: Path) -> None:
    filled(vault)
    assert {part for _, part in found(home, *SECRETS)} == set(SECRETS)
    assert found(home, vector(TEXT))
    done = vault.scoped(user="alice").erase()
    assert len(done.ids) == 1
    assert done.traces == ()
    assert done.note == ""
    assert done.clean
    assert done.checked > 5
    assert found(home, *SECRETS, vector(TEXT), vector(OLDER)) == []
    assert [c.text for c in vault.all_users().find()] == [BOBS]
    assert vault.scoped(user="bob").search("bicycle")[0].similarity
    vault.close()
    assert found(home, *SECRETS, vector(TEXT), vector(OLDER)) == []
    with MemOS.open(home, embedder=None) as memos:
        assert findings(memos) == []


def test_words_of_it_are_in_no_file_either(home: Path) -> None:
    with MemOS.open(home, user="u", embedder=None) as memos:
        for i in range(40):
            memos.write(f"the word floccinaucinihil{i:03} stands here")
        kept = memos.write("the word antidisestablish stands here")
        memos.erase([c.id for c in memos.find() if c.id != kept.id])
        # The text index stores a word without what it shares with the word before.
        assert found(home, b"floccin", b"naucinihil") == []
        assert [h.cube.id for h in memos.search("word")] == [kept.id]


def test_all_that_was_derived_goes_too(memos: MemOS) -> None:
    alice, bob = memos.scoped(user="alice"), memos.scoped(user="bob")
    first = alice.write("the canary sings at four in the morning")
    second = alice.write("the summary of the canary", derived_from=[first])
    third = alice.write("the summary of the summary", derived_from=[second])
    alice.grant(first.id, "user:bob")
    bobs = bob.write("bob heard of the canary at four", derived_from=[first])
    other = alice.write("the parrot does not sing")
    done = alice.erase(first.id)
    assert set(done.ids) == {first.id, second.id, third.id, bobs.id}
    assert [c.id for c in memos.all_users().find()] == [other.id]
    assert not done.traces
    [record] = [r for r in alice.audit_log(cube_id=first.id) if r.action == "erase"]
    assert record.detail == ""
    assert alice.verify_audit_log() == []


def test_cubes_in_every_state_go(memos: MemOS) -> None:
    alice = memos.scoped(user="alice")
    ids = [alice.write(f"memory number {i} of the lighthouse keeper").id for i in range(5)]
    alice.archive(ids[0])
    alice.freeze(ids[1])
    alice.merge([ids[2], ids[3]])
    assert len(alice.erase().ids) == 6
    assert alice.find(states=tuple(State)) == []


def test_a_damaged_cube_is_erased(home: Path) -> None:
    with MemOS.open(home, user="u", embedder=None) as memos:
        cube = memos.write("a memory that will be damaged by somebody")
    with sqlite3.connect(home / "vault.db") as db:
        db.execute("UPDATE cubes SET text = 'a text that somebody has smuggled in here'")
    db.close()
    with MemOS.open(home, user="u", embedder=None) as memos:
        assert memos.erase().ids == (cube.id,)
        assert found(home, b"smuggled in here", b"damaged by somebody") == []


@pytest.mark.parametrize(
    ("view", "left"),
    [
        ({"user": "alice", "session": "s1"}, {"a1-s2", "a2-s2", "none", "bob"}),
        ({"user": "alice", "agent": "a1"}, {"a2-s1", "a2-s2", "none", "bob"}),
        ({"user": "alice"}, {"none", "bob"}),
        ({}, {"a1-s1", "a1-s2", "a2-s1", "a2-s2", "bob"}),
    ],
)
def test_a_scope_and_no_more_is_erased(memos: MemOS, view: dict[str, str], left: set[str]) -> None:
    for agent in ("a1", "a2"):
        for session in ("s1", "s2"):
            memos.scoped(user="alice", agent=agent, session=session).write(f"{agent}-{session}")
    memos.scoped(user="bob").write("bob")
    memos.write("none")
    memos.scoped(**view).erase()
    assert {c.text for c in [*memos.all_users().find(), *memos.find()]} == left


def put_thread(memos: MemOS, tenant: str, thread: str, text: str, metadata: dict[str, object]) -> None:
    lane = Lane(tenant, thread)
    body = ("json", json.dumps({"id": "1", "said": text}).encode())
    said: Typed = ("json", text.encode())
    user = metadata.get("user_id")
    owner = user if isinstance(user, str) else None
    stored = StoredCheckpoint(lane, "1", None, body, json.dumps(metadata), {"messages": said}, user_id=owner)
    memos.vault.checkpoints.put(stored, {"messages": "1"})
    memos.vault.checkpoints.put_writes(
        lane, "1", [StoredWrite("t", "", 0, "messages", ("json", text.encode()))]
    )


def threads(memos: MemOS, *tenants: str) -> set[str]:
    return {
        bone.lane.thread_id
        for tenant in tenants
        for name in THREADS
        for bone in memos.vault.checkpoints.bones(tenant, name)
    }


THREADS = ("t1", "t2", "t3", "t4", "t5")
LANES = ("default", "default\x1falice", "default\x1fbob")


@pytest.mark.parametrize(
    ("view", "left"),
    [
        ({"user": "alice"}, {"t3", "t4"}),
        ({"user": "alice", "session": "t1"}, {"t2", "t3", "t4", "t5"}),
        ({"user": "alice", "session": "t5"}, {"t1", "t2", "t3", "t4"}),
        ({"user": "alice", "agent": "a"}, {"t1", "t2", "t3", "t4", "t5"}),
        ({}, {"t1", "t2", "t3", "t5"}),
    ],
)
def test_threads_of_the_scope_go(memos: MemOS, view: dict[str, str], left: set[str]) -> None:
    said = {name: f"what was said in {name} about the unusual weather" for name in THREADS}
    put_thread(memos, LANES[1], "t1", said["t1"], {"step": 1})
    put_thread(memos, LANES[1], "t2", said["t2"], {"step": 1})
    put_thread(memos, LANES[2], "t3", said["t3"], {"step": 1})
    put_thread(memos, LANES[0], "t4", said["t4"], {"step": 1})
    put_thread(memos, LANES[0], "t5", said["t5"], {"step": 1, "user_id": "alice"})
    done = memos.scoped(**view).erase()
    assert threads(memos, *LANES) == left
    assert set(done.threads) == set(THREADS) - left
    assert not done.traces
    location = memos.vault.location
    if location.file is not None:
        gone = [said[name].encode() for name in set(THREADS) - left]
        assert found(location.file.parent, *gone) == []
    assert findings(memos) == []


def test_what_a_user_was_given_goes_with_the_user(memos: MemOS) -> None:
    alice, bob = memos.scoped(user="alice"), memos.scoped(user="bob")
    hers = alice.write("a recipe for gooseberry jam")
    alice.grant(hers.id, "user:bob")
    alice.grant(hers.id, "user:carol")
    memos.add_to_group("cooks", ["bob", "carol"])
    bob.erase()
    assert alice.grants(hers.id) == {"user:carol": ("read",)}
    assert memos.groups() == {"cooks": ["carol"]}


def test_plans_go_too(memos: MemOS) -> None:
    alice = memos.scoped(user="alice", agent="cook", session="s")
    alice.write("I am allergic to hazelnuts and to their oil")
    alice.turn_finished(system="You are the cook of Alice of the Northern Harbour.")
    assert memos.scheduler.wait_idle()
    assert alice.prompt([{"role": "user", "content": "hello"}]).resident
    assert memos.trace("cook of Alice of the Northern Harbour")
    memos.scoped(user="alice").erase()
    assert memos.trace("cook of Alice of the Northern Harbour") == []


# -- who may ---------------------------------------------------------------------------------------------------


def test_erasing_everybody_at_once_is_refused(memos: MemOS) -> None:
    filled(memos)
    with pytest.raises(InvalidArgument, match="one user at a time"):
        memos.all_users().erase()
    assert len(memos.all_users().find()) == 1


def test_an_id_of_another_scope_erases_nothing(memos: MemOS) -> None:
    alice, bob = memos.scoped(user="alice"), memos.scoped(user="bob")
    hers, his = alice.write("the memory of one"), bob.write("the memory of the other")
    with pytest.raises(NotFound):
        bob.erase([his.id, hers.id])
    alice.grant(hers.id, "user:bob", ["read", "write", "share"])
    with pytest.raises(AccessDenied):
        bob.erase([his.id, hers.id])
    assert len(memos.all_users().find()) == 2


def test_who_does_not_see_all_may_not_erase(memos: MemOS) -> None:
    cube = memos.scoped(user="alice").write("visible to everybody", sensitivity=["health"])
    view = memos.scoped(user="alice", clearance=["health"])
    for ids in (None, [cube.id]):
        with pytest.raises(AccessDenied, match="clearance"):
            view.erase(ids)
    assert memos.scoped(user="alice").find()


def test_a_user_erases_what_is_theirs(home: Path) -> None:
    with MemOS.open(home, embedder=None) as memos:
        filled(memos)
    with MemOS.open(home, principal=Principal(user="bob"), embedder=None) as memos:
        assert memos.erase().ids == ()
        for refused in (lambda: memos.trace("zeppelin"), memos.doctor, lambda: memos.backup(home / "b.db")):
            with pytest.raises(AccessDenied):
                refused()
    with MemOS.open(home, principal=Principal(user="alice"), embedder=None) as memos:
        assert len(memos.erase().ids) == 1
    assert found(home, *SECRETS) == []


# -- others at the same time -----------------------------------------------------------------------------------


def test_what_a_reader_holds_is_reported_and_cleared_when_it_stops(home: Path) -> None:
    with MemOS.open(home, embedder=None) as memos:
        filled(memos)
        memos.close()
    with MemOS.open(home, embedder=None) as memos:
        reader = sqlite3.connect(home / "vault.db", isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM cubes").fetchone() == (1,)
        done = memos.scoped(user="alice").erase()
        assert "Another process" in done.note
        assert not done.clean
        assert {Path(t.file).name for t in done.traces} & {"vault.db", "vault.db-wal"}
        assert found(home, SECRETS[0])
        assert any("erasure" in finding for finding in findings(memos))
        assert any("erasure" in str(f) for f in memos.doctor(repair=True).findings if not f.repaired)
        reader.execute("COMMIT")
        assert memos.doctor(repair=True).clean
        assert found(home, *SECRETS) == []
        assert memos.trace([s.decode() for s in SECRETS]) == []
        assert findings(memos) == []
        reader.close()


def test_an_open_vault_that_reads_nothing_is_in_nobodys_way(home: Path) -> None:
    with MemOS.open(home, embedder=bag_of_words) as other, MemOS.open(home, embedder=bag_of_words) as memos:
        filled(memos)
        assert other.scoped(user="alice").search("zeppelin")
        assert memos.scoped(user="alice").erase().clean
        assert found(home, *SECRETS) == []
        assert other.scoped(user="alice").search("zeppelin") == []


KILLED = """
import os, signal, sys
from memos_core import MemOS
from memos_core.vault import Vault
memos = MemOS.open(sys.argv[1], user="alice", embedder=None)
Vault.compact = lambda self: os.kill(os.getpid(), signal.SIGKILL)
memos.erase()
"""


def test_an_erasure_that_was_killed_is_finished_by_the_next_opening(home: Path) -> None:
    with MemOS.open(home, embedder=None) as memos:
        filled(memos)
    assert run_script(KILLED, home).returncode == -9
    with sqlite3.connect(home / "vault.db") as db:
        assert db.execute("SELECT count(*) FROM cubes").fetchone() == (0,)
    db.close()
    with MemOS.open(home, embedder=None) as memos:
        assert findings(memos) == []
        assert found(home, *SECRETS) == []


# -- the verifier ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["kv/a-note.txt", "chroma/left.bin", "vault.db-copy"])
@pytest.mark.parametrize("what", ["text", "part", "json", "vector"])
def test_the_verifier_finds_what_was_left_in_a_file(home: Path, where: str, what: str) -> None:
    with MemOS.open(home, embedder=bag_of_words, index="exact") as memos:
        id_ = filled(memos)
        planted = {
            "text": TEXT.encode(),
            "part": TEXT.encode()[9:50],
            "json": json.dumps(json.dumps({"note": NOTE})).encode(),
            "vector": vector(TEXT),
        }[what]
        file = home / where
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"\x00" * 4_194_290 + b"abc" + planted + b"def")
        if where.startswith("chroma"):
            file = file.rename(home / "left.bin")  # the folder itself is made anew
        done = memos.scoped(user="alice").erase()
        assert not done.clean
        assert [t.file for t in done.traces] == [str(file)]
        assert {t.cube_id for t in done.traces} == {id_}
        file.unlink()


def test_what_others_say_too_proves_nothing(home: Path) -> None:
    with MemOS.open(home, embedder=None) as memos:
        memos.scoped(user="alice").write("My favourite museum is the one of the tin soldiers")
        memos.scoped(user="bob").write("My favourite museum is the one of the paper kites")
        done = memos.scoped(user="alice").erase()
        assert done.clean
        assert done.skipped >= 1
        assert found(home, b"tin soldiers") == []
        assert found(home, b"paper kites")


def test_a_row_that_was_forgotten_is_a_trace(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> None:
    from memos_core.vault import tables as t
    from memos_core.vault.writer import Writer

    cube = memos.scoped(user="alice").write("the vanished opera house of the southern valley")
    whole = Writer.delete

    def forgetful(self: Writer, *args: object) -> object:
        gone = whole(self, *args)  # type: ignore[arg-type]
        row = {"cube_id": cube.id, "reads": 1, "last_read": 0, "frequency": 1.0}
        self.conn.execute(t.behaviour.insert().values(**row))
        return gone

    monkeypatch.setattr(Writer, "delete", forgetful)
    done = memos.scoped(user="alice").erase()
    assert [(trace.file, trace.cube_id) for trace in done.traces] == [("table behaviour", cube.id)]


def test_trace_says_where_a_text_stands(memos: MemOS) -> None:
    memos.scoped(user="alice").write("the hidden waterfall of the western ridge")
    where = {trace.file for trace in memos.trace("hidden waterfall")}
    assert "table cubes" in where
    assert memos.trace("another waterfall") == []
    with pytest.raises(InvalidArgument, match="short"):
        memos.trace("ab")


def test_erasing_without_verification_says_so(memos: MemOS) -> None:
    filled(memos)
    done = memos.scoped(user="alice").erase(verify=False)
    assert not done.verified
    assert not done.clean
    assert memos.trace(TEXT) == []


async def test_erase_has_an_async_twin(memos: MemOS) -> None:
    filled(memos)
    assert len((await memos.scoped(user="alice").aerase()).ids) == 1


@pytest.mark.parametrize("at", [0, 1, 7, 4_194_304 - 30, 4_194_304 - 12, 4_194_304, 4_194_304 + 5])
def test_any_run_of_a_text_is_found_wherever_it_lies(tmp_path: Path, at: int) -> None:
    whole = "".join(chr(97 + (i * i + 3 * i) % 26) for i in range(200))
    wanted = Fragments()
    wanted.add_text(whole)
    wanted.add_text("short text 12")
    searcher = Searcher(wanted)
    file = tmp_path / "file"
    for start in range(0, 150, 7):
        file.write_bytes(b"." * at + whole[start : start + 39].encode() + b"." * 50)
        assert searcher.search_file(file)
    file.write_bytes(b"." * at + b"short text 12")
    assert [where for _, where in searcher.search_file(file).values()] == [at]
    file.write_bytes(b"." * at + b"short text 13")
    assert searcher.search_file(file) == {}

"""What becomes of a cube over its life: versions, updates, states, expiry, deletion."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from support import bag_of_words

from memos_core import Activation, DecayPolicy, MemCube, MemOS, Scope, State
from memos_core.cube import lifecycle
from memos_core.errors import AccessDenied, InvalidArgument, NotFound, VaultError, VersionConflict
from memos_core.vault import Actor, CubeFilter
from memos_core.vault.tables import cubes

ACTOR = Actor("test", "test")


def all_bytes(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


def expire(memos: MemOS, cube: MemCube) -> None:
    """Let a cube's ttl pass without waiting for it."""
    late = (datetime.now(UTC) - timedelta(seconds=1)).timestamp() * 1e6
    with memos.vault.db.write() as conn:
        conn.execute(update(cubes).where(cubes.c.id == cube.id).values(expires_at=int(late)))


# -- life cycle --------------------------------------------------------------------------------------------

G, A, M, R, X = State.GENERATED, State.ACTIVATED, State.MERGED, State.ARCHIVED, State.EXPIRED
LEGAL = {(G, A), (G, M), (G, R), (G, X), (A, M), (A, R), (A, X), (M, R), (M, X), (R, A), (R, X)}


@pytest.mark.parametrize("old", list(State))
@pytest.mark.parametrize("new", list(State))
def test_the_table_of_steps(old: State, new: State) -> None:
    if (old, new) in LEGAL:
        lifecycle.check(old, new)
    else:
        with pytest.raises(InvalidArgument, match=f"{old} cannot become {new}"):
            lifecycle.check(old, new)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(State), max_size=8))
def test_a_cube_takes_only_legal_steps(steps: list[State]) -> None:
    kept = DecayPolicy(keep_expired=timedelta(days=1))  # else what has expired is soon gone
    with MemOS.open(":memory:", user="u", embedder=None, lifecycle=kept) as memos:
        cube = memos.write("a fact")
        state = State.GENERATED
        for step in steps:
            if step == state or (state, step) in LEGAL:
                memos.vault.transition([cube.id], step, ACTOR, "test")
                state = step
            else:
                with pytest.raises(InvalidArgument):
                    memos.vault.transition([cube.id], step, ACTOR, "test")
            [now_it_is] = memos.find(states=list(State))
            assert now_it_is.state is state
            assert [c.id for c in memos.find()] == ([cube.id] if state in (G, A) else [])


def test_one_illegal_step_stops_them_all(memos: MemOS) -> None:
    one, two = memos.write("one thing"), memos.write("another thing")
    memos.vault.transition([two.id], State.EXPIRED, ACTOR, "test")
    with pytest.raises(InvalidArgument):
        memos.vault.transition([one.id, two.id], State.ACTIVATED, ACTOR, "test")
    assert memos.read(one.id).state is State.GENERATED


@pytest.mark.parametrize("state", [State.ARCHIVED, State.MERGED, State.EXPIRED])
def test_what_is_written_over_a_retired_cube_is_found(memos: MemOS, state: State) -> None:
    old = memos.write("the old heron", key="k")
    memos.vault.transition([old.id], state, ACTOR, "test")
    assert memos.search("heron") == []
    memos.write("the new heron", key="k")
    assert [h.cube.text for h in memos.search("heron")] == ["the new heron"]


def test_a_frozen_cube_is_not_changed_but_can_be_deleted(memos: MemOS) -> None:
    [cube] = memos.put([memos.cube("carved in stone", key="k").model_copy(update={"frozen": True})])
    for change in (lambda: memos.update(cube.id, "x y"), lambda: memos.write("x y", key="k")):
        with pytest.raises(InvalidArgument, match="frozen"):
            change()
    assert memos.read(cube.id) == cube
    assert memos.delete(cube.id) == [cube.id]


# -- versions ----------------------------------------------------------------------------------------------


def test_versions_count_up_and_are_all_kept(memos: MemOS) -> None:
    cube = memos.write("version one", key="k")
    memos.write("version two", key="k")
    memos.update(cube.id, "version three", expected_version=2)
    assert [(v.version, v.text) for v in memos.history(cube.id)] == [
        (1, "version one"),
        (2, "version two"),
        (3, "version three"),
    ]
    assert [(r.action, r.version) for r in memos.audit_log(cube_id=cube.id)] == [
        ("update", 3),
        ("update", 2),
        ("write", 1),
    ]


@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_an_unexpected_version_is_a_conflict_and_changes_nothing(memos: MemOS, wrong: int) -> None:
    cube = memos.write("first", key="k")
    cube = memos.update(cube.id, "second")
    for call in (
        lambda: memos.update(cube.id, "third", expected_version=wrong),
        lambda: memos.put([memos.cube("third", key="k")], expected_version=wrong),
    ):
        with pytest.raises(VersionConflict):
            call()
    assert memos.read(cube.id).text == "second"


def test_expected_version_0_means_there_must_be_none(memos: MemOS) -> None:
    memos.put([memos.cube("first", key="k")], expected_version=0)
    with pytest.raises(VersionConflict):
        memos.put([memos.cube("second", key="k")], expected_version=0)
    with pytest.raises(VersionConflict):
        memos.put([memos.cube("a b", key="j"), memos.cube("c d", key="k")], expected_version=0)
    assert [c.text for c in memos.find()] == ["first"]
    with pytest.raises(InvalidArgument):
        memos.put([memos.cube("a b"), memos.cube("c d")], expected_version=1)


def test_updates_without_an_expected_version_never_conflict(memos: MemOS) -> None:
    cube = memos.write("start here")

    def change() -> None:
        for i in range(10):
            memos.update(cube.id, f"change {i}")

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memos.read(cube.id).version == 41
    assert [v.version for v in memos.history(cube.id)] == list(range(1, 42))


def test_a_generator_of_cubes_is_stored_like_a_list(memos: MemOS) -> None:
    assert len(memos.put(memos.cube(f"number {i}") for i in range(3))) == 3  # type: ignore[arg-type]
    assert len(memos.find()) == 3


def test_an_imported_cube_begins_at_version_1_and_a_taken_id_is_refused(memos: MemOS) -> None:
    cube = memos.cube("from elsewhere", key="k").model_copy(update={"version": 7})
    [stored] = memos.put([cube])
    assert stored.version == memos.read(cube.id).version == 1
    with pytest.raises(InvalidArgument, match="another address"):
        memos.put([cube.model_copy(update={"key": "other"})])


# -- update ------------------------------------------------------------------------------------------------


def full(memos: MemOS) -> MemCube:
    source = memos.write("the source")
    cube = memos.cube(
        {"text": "likes tea", "n": 1},
        key="k",
        semantic_type="habit",
        tags=["a"],
        origin="import",
        ttl=timedelta(days=3),
        priority=2,
        sensitivity=["health"],
        spoken_at=datetime(2026, 1, 1, tzinfo=UTC),
        valid_from=datetime(2026, 1, 2, tzinfo=UTC),
        valid_to=datetime(2030, 1, 2, tzinfo=UTC),
        derived_from=[source],
    )
    descriptive = cube.header.descriptive.model_copy(update={"source_messages": ("m1", "m2")})
    return memos.put(
        [cube.model_copy(update={"header": cube.header.model_copy(update={"descriptive": descriptive})})]
    )[0]


def flat(cube: MemCube) -> dict[str, Any]:
    out = cube.model_dump()
    return {
        "id": cube.id,
        "scope": cube.scope,
        "derived_from": cube.derived_from,
        **{f"payload.{k}": v for k, v in out["payload"].items()},
        **{f"governance.{k}": v for k, v in out["header"]["governance"].items()},
        **{f"descriptive.{k}": v for k, v in out["header"]["descriptive"].items() if k != "updated_at"},
    }


@pytest.mark.parametrize(
    ("content", "details", "changed"),
    [
        (None, {"tags": ["b"]}, {"descriptive.tags"}),
        (None, {"priority": 9}, {"governance.priority"}),
        (None, {"ttl": timedelta(days=9)}, {"governance.expires_at", "governance.ttl"}),
        (None, {"ttl": None}, {"governance.expires_at", "governance.ttl"}),
        (None, {"text": "drinks tea"}, {"payload.text"}),
        (None, {"valid_to": None}, {"payload.valid_to"}),
        ({"text": "likes tea", "n": 2}, {}, {"payload.data"}),
        ("likes coffee", {}, {"payload.data", "payload.text"}),
    ],
)
def test_update_changes_what_is_named_and_nothing_else(
    memos: MemOS, content: Any, details: dict[str, Any], changed: set[str]
) -> None:
    before = full(memos)
    returned = memos.scoped(adapter="other").update(before.id, content, **details)
    after = memos.read(before.id)
    old, new = flat(before), flat(after)
    assert {name for name in old if old[name] != new[name]} == changed
    assert flat(returned) == new


@pytest.mark.parametrize(
    "details", [{"owner": "me"}, {"namespace": ("x",)}, {"tags": "abc"}, {"text": " "}, {"ttl": timedelta(0)}]
)
def test_update_refuses_what_it_cannot_do(memos: MemOS, details: dict[str, Any]) -> None:
    cube = memos.write("likes tea")
    with pytest.raises(InvalidArgument):
        memos.update(cube.id, **details)
    assert memos.read(cube.id).version == 1


def test_updating_is_not_reading(memos: MemOS) -> None:
    cube = memos.write("likes tea")
    memos.update(cube.id, "likes coffee")
    memos.history(cube.id)
    memos.turn_finished()
    assert memos.scheduler.wait_idle()
    assert memos.vault.get(CubeFilter(memos.scope), [cube.id])[cube.id].header.behaviour.reads == 0


# -- expiry ------------------------------------------------------------------------------------------------


def test_an_expired_cube_is_nowhere_and_its_address_is_free(memos: MemOS) -> None:
    old = memos.write("the old pelican", key="k", ttl=timedelta(hours=1))
    memos.update(old.id, "the older pelican")
    expire(memos, old)
    assert memos.find() == memos.search("pelican") == []
    assert memos.at(("memories",), "k") is None
    with pytest.raises(NotFound):
        memos.read(old.id)
    [new] = memos.put([memos.cube("the new pelican", key="k")], expected_version=0)
    assert (new.version, new.id != old.id) == (1, True)
    assert [v.text for v in memos.history(new.id)] == ["the new pelican"]
    assert [h.cube.text for h in memos.search("pelican")] == ["the new pelican"]


def test_the_ttl_of_a_frozen_cube_does_not_pass(memos: MemOS) -> None:
    old = memos.write("old", key="k", ttl=timedelta(hours=1))
    memos.freeze(old.id)
    expire(memos, old)
    memos.turn_finished()
    assert memos.scheduler.wait_idle()
    assert memos.read(old.id).frozen
    with pytest.raises(InvalidArgument, match="frozen"):
        memos.write("new", key="k")
    memos.unfreeze(old.id)
    assert memos.find() == []
    assert memos.write("new", key="k").version == 1


@pytest.mark.parametrize("how", ["by id", "by namespace"])
def test_an_expired_cube_can_be_deleted_for_good(memos: MemOS, how: str) -> None:
    cube = memos.write("the old pelican", ttl=timedelta(hours=1))
    expire(memos, cube)
    gone = memos.delete(cube.id) if how == "by id" else memos.delete_where()
    assert gone == [cube.id]


def test_what_has_expired_is_deleted_after_a_turn(memos: MemOS) -> None:
    cubes = [memos.scoped(user=u).write("the old pelican", ttl=timedelta(hours=1)) for u in ("a", "b")]
    kept = memos.scoped(user="a").write("a pelican that stays")
    for cube in cubes:
        expire(memos, cube)
    memos.scoped(user="a").turn_finished()
    assert memos.scheduler.wait_idle()
    with memos.vault.db.read() as conn:
        assert conn.exec_driver_sql("SELECT id FROM cubes").scalars().all() == [kept.id]
    [last] = memos.scoped(user="b").audit_log(limit=1)
    assert (last.action, last.principal) == ("expire", "lifecycle")


# -- deletion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedder", [bag_of_words, None])
def test_deletion_leaves_no_trace_of_the_text_in_any_file(tmp_path: Path, embedder: Any) -> None:
    with MemOS.open(tmp_path, user="u", embedder=embedder, index="exact") as memos:
        cube = memos.write({"text": "zebrafish quokka", "note": "axolotl"}, key="k", tags=["wombat"])
        memos.update(cube.id, "capybara narwhal")
        kept = memos.write("a fact that stays")
        memos.search("zebrafish")
        memos.delete(cube.id)
        assert memos.search("zebrafish capybara", types=["fact"])[1:] == []
    disk = all_bytes(tmp_path)
    for word in (b"zebrafish", b"quokka", b"axolotl", b"capybara", b"narwhal", b"wombat"):
        assert word not in disk
    assert b"that stays" in disk
    with MemOS.open(tmp_path, user="u", embedder=embedder, index="exact") as memos:
        assert [c.id for c in memos.find()] == [kept.id]
        for table in ("versions", "sources", "behaviour", "index_queue", "vectors"):
            with memos.vault.db.read() as conn:
                rows = conn.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE cube_id = '{cube.id}'")
                assert rows.scalar() == 0, table


def test_a_read_of_a_deleted_cube_leaves_nothing_behind(memos: MemOS) -> None:
    cube = memos.write("short life")
    memos.read(cube.id)
    memos.delete(cube.id)
    memos.turn_finished()
    assert memos.scheduler.wait_idle()
    with memos.vault.db.read() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM behaviour").scalar() == 0


def test_deletion_takes_the_kv_record_and_its_file_but_no_other_file(memos: MemOS, tmp_path: Path) -> None:
    assert memos.vault.location.home is not None
    home = memos.vault.location.home / "kv"
    source = memos.write("a source")
    hex_key, victim = "ab" * 16, tmp_path / "victim.safetensors"
    ours = home / ("cd" * 8) / f"{hex_key}.safetensors"
    ours.parent.mkdir(parents=True)
    for file in (ours, victim):
        file.write_bytes(b"kv")

    def record(model: str, key: str) -> MemCube:
        payload = Activation(model=model, tokenizer="t", key=key, n_tokens=1, nbytes=2)
        from memos_core.cube import Source

        return MemCube(
            scope=Scope(), namespace=("kv",), payload=payload, derived_from=(Source(id=source.id, version=1),)
        )

    good, evil = memos.put([record("cd" * 32, hex_key), record("../..", str(victim.with_suffix("")))])
    assert set(memos.delete(source.id)) == {source.id, good.id, evil.id}
    assert not ours.exists()
    assert victim.exists()


def test_deleting_the_same_thing_twice_or_nothing_is_fine(memos: MemOS) -> None:
    cube = memos.write("a fact")
    assert memos.delete([cube.id, cube.id, "unknown"]) == [cube.id]
    assert memos.delete(cube.id) == memos.delete([]) == []


# -- the rest of the door ----------------------------------------------------------------------------------


def test_namespaces_do_not_run_into_each_other(memos: MemOS) -> None:
    for namespace in ((), ("a",), ("a", "b"), ("a b",), ("ab",), ("a!",), ("a", "ü")):
        memos.write(f"in {namespace}", namespace=namespace)
    assert memos.namespaces(("a",)) == [("a",), ("a", "b"), ("a", "ü")]
    assert {c.namespace for c in memos.find(namespace=("a",))} == {("a",), ("a", "b"), ("a", "ü")}
    assert len(memos.find()) == 7
    with pytest.raises(InvalidArgument):
        memos.find(namespace="ab")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"limit": -1}, {"offset": -1}, {"order": "random"}, {"limit": 2**70}])
def test_find_refuses_what_it_cannot_do(memos: MemOS, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        memos.find(**bad)


def test_find_pages_in_order(memos: MemOS) -> None:
    for i in range(5):
        memos.write(f"number {i}")
    assert [c.text for c in memos.find(limit=2, offset=1)] == ["number 1", "number 2"]
    assert [c.text for c in memos.find(order="-created", limit=2)] == ["number 4", "number 3"]


def test_the_audit_log_names_actors_and_holds_no_content(memos: MemOS) -> None:
    view = memos.scoped(user="u", adapter="langgraph")
    cube = view.write({"text": "zebrafish"}, tags=["quokka"])
    view.delete(cube.id)
    log = view.audit_log()
    assert [(r.action, r.adapter, r.cube_id) for r in log] == [
        ("delete", "langgraph", cube.id),
        ("write", "langgraph", cube.id),
    ]
    assert "zebrafish" not in repr(log)
    assert memos.audit_log() == memos.scoped(user="v").audit_log() == []
    assert memos.all_users().audit_log() == log


def test_a_closed_vault_says_so(tmp_path: Path) -> None:
    memos = MemOS.open(tmp_path, embedder=None)
    memos.write("a fact")
    memos.close()
    memos.close()
    assert memos.closed
    for call in (lambda: memos.write("another"), memos.find, lambda: memos.search("fact")):
        with pytest.raises(VaultError, match="closed"):
            call()


async def test_async_forms_do_the_same(memos: MemOS) -> None:
    cube = await memos.awrite("the heron", key="k")
    assert (await memos.aread(cube.id)).text == "the heron"
    assert (await memos.aat(("memories",), "k")) == await memos.aread(cube.id)
    assert [h.cube.id for h in await memos.asearch("heron")] == [cube.id]
    assert (await memos.aupdate(cube.id, "the egret")).version == 2
    assert [c.text for c in await memos.afind()] == ["the egret"]
    assert [c.text for c in await memos.aremember([{"role": "assistant", "content": "hi"}])] == ["hi"]
    assert len(await memos.aconversation()) == 1
    assert (await memos.aprompt([{"role": "user", "content": "egret?"}])).recalled[0].cube.id == cube.id
    assert [h.cube.id for h in await memos.arecall("egret")] == [cube.id]
    assert await memos.adelete(cube.id) == [cube.id]


def test_a_path_may_hold_odd_characters(tmp_path: Path) -> None:
    odd = tmp_path / "a?b=c#d%20 é" / "v.db"
    with MemOS.open(odd, embedder=None) as memos:
        memos.write("a fact")
    assert odd.is_file()
    with MemOS.open(f"sqlite:///{odd}", embedder=None) as memos:
        assert len(memos.find()) == 1


def test_the_url_opens_the_same_vault_again(tmp_path: Path) -> None:
    for name in ("folder", "file.db"):
        with MemOS.open(tmp_path / name, embedder=None) as memos:
            memos.write("a fact")
            assert memos.url is not None
            with MemOS.open(memos.url, embedder=None) as again:
                assert len(again.find()) == 1


def test_a_scope_that_is_no_scope_is_refused(tmp_path: Path) -> None:
    for bad in ({"user": ""}, {"session": " "}, {"tenant": "a\x00b"}, {"agent": 3}):
        with pytest.raises(InvalidArgument):
            MemOS.open(tmp_path, embedder=None, **bad)  # type: ignore[arg-type]
    with MemOS.open(tmp_path, embedder=None) as memos:
        with pytest.raises(InvalidArgument):
            memos.scoped(user="")
        with pytest.raises(AccessDenied):
            memos.scoped(user="a").scoped(user="b")


def test_ids_increase_and_a_forked_process_makes_others() -> None:
    program = """
import os, uuid
from memos_core.cube import new_id
made = [new_id() for _ in range(2000)]
assert made == sorted(set(made)) and {uuid.UUID(i).version for i in made} == {7}
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, new_id()[24:].encode())
    os._exit(0)
os.wait()
assert os.read(read, 100).decode() != new_id()[24:], "the same randomness in both"
"""
    subprocess.run([sys.executable, "-c", program], check=True)

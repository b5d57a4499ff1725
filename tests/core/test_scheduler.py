"""MemScheduler: it watches, plans and preloads, and no request depends on it.

`Recorder` implements the scheduler's `PrefixEngine` protocol by recording calls: no model, no tensors. The real
engine has its own tests (tests/activation).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from support import bag_of_words

from memos_core import MemCube, MemOS, Plaintext, Scope
from memos_core.cube import Behaviour, Descriptive, Header
from memos_core.errors import KVError
from memos_core.prompt import memory_line
from memos_core.scheduler import hotness, plan_resident
from memos_core.vault import CubeFilter, Plan
from memos_core.vault import tables as t


@dataclass
class Prefix:
    key: str
    n_tokens: int
    nbytes: int


class Recorder:
    """Keeps prefixes as lists of characters' code points, for one user each."""

    model_fingerprint = "ab" * 32
    tokenizer_fingerprint = "cd" * 32
    context_length = 1_000_000

    def __init__(self) -> None:
        self.held: dict[str, tuple[Scope, list[int]]] = {}
        self.disk: dict[str, tuple[Scope, list[int]]] = {}
        self.prefilled: list[tuple[Scope, str, tuple[tuple[str, int], ...]]] = []
        self.forgotten: list[str] = []
        self.during_prefill: Callable[[], None] = lambda: None
        self.error: Exception | None = None

    def stable_prefix(self, messages: list[dict[str, Any]]) -> list[int]:
        return [ord(c) for m in messages for c in m["content"]]

    def count_tokens(self, text: str) -> int:
        return len(text)

    def warm(self, tokens: Sequence[int], scope: Scope) -> str | None:
        if self.error:
            raise self.error
        for name, tier in (("memory", self.held), ("disk", self.disk)):
            for key, entry in tier.items():
                if entry == (scope, list(tokens)):
                    self.held[key] = entry
                    return name
        return None

    def prefill(
        self,
        tokens: Sequence[int],
        scope: Scope,
        *,
        derived_from: tuple[tuple[str, int], ...] = (),
        save: bool = False,
        hold: bool = True,
        should_yield: Callable[[], None] | None = None,
    ) -> Prefix:
        self.during_prefill()
        if should_yield is not None:
            should_yield()
        key = f"{abs(hash((scope, tuple(tokens)))):032x}"
        self.held[key] = (scope, list(tokens))
        self.prefilled.append((scope, "".join(map(chr, tokens)), derived_from))
        return Prefix(key, len(tokens), 10 * len(tokens))

    def forget(self, keys: Sequence[str]) -> int:
        self.forgotten += keys
        return sum(self.held.pop(key, None) is not None for key in keys)


@pytest.fixture
def engine() -> Recorder:
    return Recorder()


@pytest.fixture
def view(memos: MemOS, engine: Recorder) -> Iterator[MemOS]:
    memos.scheduler.attach(engine)
    return memos.scoped(user="u", session="s1")


def turn(view: MemOS, **details: Any) -> None:
    view.turn_finished(**details)
    assert view.scheduler.wait_idle()


def system_of(view: MemOS) -> str:
    content: str = view.prompt([{"role": "user", "content": "q"}], k=0).messages[0]["content"]
    return content


def actions(view: MemOS) -> list[str]:
    return [d.action for d in view.scheduler.explain(view.scope)]


def kv_records(view: MemOS) -> list[MemCube]:
    # They belong to the user and agent, whatever the session.
    home = view.scope.model_copy(update={"session": None})
    return view.vault.find(CubeFilter(home, namespace=("kv",)))


def test_a_turn_leads_to_a_plan_and_its_kv(view: MemOS, engine: Recorder) -> None:
    facts = [view.write("the heron"), view.write("the otter")]
    turn(view, system="Be brief.")
    assert actions(view) == ["plan", "build"]
    fresh = view.scoped().scoped(session="s1")
    assert [c.id for c in fresh.scheduler.resident(fresh.scope)] == [c.id for c in facts]
    [(scope, text, sources)] = engine.prefilled
    assert scope == Scope(user="u")
    assert text.startswith("Be brief.")
    assert text == view.prompt([{"role": "system", "content": "Be brief."}], k=0).messages[0]["content"]
    assert sources == tuple((c.id, 1) for c in facts)
    [record] = kv_records(view)
    assert [(s.id, s.version) for s in record.derived_from] == list(sources)
    assert all(view.read(c.id).state == "activated" for c in facts)
    turn(view)
    assert set(actions(view)[2:]) <= {"keep"}
    assert len(engine.prefilled) == 1


def test_messages_and_kv_records_are_never_resident(view: MemOS) -> None:
    view.remember([{"role": "assistant", "content": "I said something."}])
    view.write("the heron")
    turn(view)
    turn(view)
    assert [c.text for c in view.scheduler.resident(view.scope)] == ["the heron"]


def test_a_session_keeps_its_plan_and_the_next_one_extends_it(memos: MemOS, view: MemOS) -> None:
    view.write("the heron")
    turn(view)
    before = system_of(view)
    assert "the heron" in before
    for fact in ("the otter", "the badger"):
        view.write(fact)
        turn(view)
        assert system_of(view) == before
    later = system_of(memos.scoped(user="u", session="s2"))
    assert later.startswith(before)
    assert later.index("heron") < later.index("otter") < later.index("badger")
    assert system_of(view) == before


def test_a_session_that_begins_while_plans_change_gets_one_and_keeps_it(memos: MemOS) -> None:
    plain = memos.scoped(user="u")
    first = plain.write("the heron")
    turn(plain)
    stop = threading.Event()

    def planner() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            memos.vault.plans.add(Plan(Scope(user="u"), "system", (first.id,), f"plan {n}"))

    thread = threading.Thread(target=planner)
    thread.start()
    try:
        for i in range(25):
            scope = Scope(user="u", session=f"s{i}")
            plans = {memos.vault.plans.for_session(scope) for _ in range(3)}
            assert len(plans) == 1
            assert plans != {None}
    finally:
        stop.set()
        thread.join()


def test_a_deleted_memory_leaves_at_once_with_its_kv(view: MemOS, engine: Recorder) -> None:
    heron, otter = view.write("the heron"), view.write("the otter")
    turn(view)
    assert "heron" in system_of(view)
    [record] = kv_records(view)
    view.delete(heron.id)
    assert [c.id for c in view.scheduler.resident(view.scope)] == [otter.id]
    assert "heron" not in system_of(view)
    assert record.key in engine.forgotten
    assert engine.held == {}
    assert kv_records(view) == []
    assert "drop" in actions(view)
    turn(view)
    assert "heron" not in engine.prefilled[-1][1]


def test_an_expired_memory_leaves_with_its_kv(view: MemOS, engine: Recorder) -> None:
    cube = view.write("the heron", ttl=timedelta(hours=1))
    turn(view)
    [record] = kv_records(view)
    with view.vault.db.write() as conn:
        conn.execute(update(t.cubes).where(t.cubes.c.id == cube.id).values(expires_at=1))
    assert "heron" not in system_of(view)
    turn(view)
    assert record.key in engine.forgotten
    assert kv_records(view) == []


def test_a_memory_deleted_while_its_kv_is_computed_takes_it_along(view: MemOS, engine: Recorder) -> None:
    cube = view.write("the heron")

    def delete() -> None:
        engine.during_prefill = lambda: None
        view.delete(cube.id)

    engine.during_prefill = delete
    turn(view)
    assert engine.held == {}
    assert kv_records(view) == []
    assert "error" in actions(view)


def test_a_new_kv_replaces_the_old(view: MemOS, engine: Recorder) -> None:
    view.write("the heron")
    turn(view)
    [old] = kv_records(view)
    view.write("the otter")
    turn(view)
    [new] = kv_records(view)
    assert new.key != old.key
    assert engine.forgotten == [old.key]
    assert list(engine.held) == [new.key]


def test_an_updated_memory_is_shown_as_it_is_now(view: MemOS, engine: Recorder) -> None:
    cube = view.write("the heron")
    turn(view)
    view.update(cube.id, "the egret")
    assert "egret" in system_of(view)
    turn(view)
    assert "egret" in engine.prefilled[-1][1]
    assert len(engine.held) == 1


def test_the_budget_is_kept_and_hot_memories_go_first(memos: MemOS, view: MemOS) -> None:
    memos.scheduler.resident_tokens = 60
    cubes = [view.write(f"fact number {i} abcdef") for i in range(10)]
    for _ in range(3):
        view.read(cubes[7].id)
    turn(view)
    resident = view.scheduler.resident(view.scope)
    assert cubes[7].id in {c.id for c in resident}
    assert sum(len(f"- {c.text}\n") for c in resident) <= 60
    assert len(resident) == 1  # chosen anew up to three quarters of the budget


def test_above_the_budget_most_turns_only_append(memos: MemOS, view: MemOS, engine: Recorder) -> None:
    memos.scheduler.attach(engine)
    memos.scheduler.resident_tokens = 40 * 26
    kept_beginning, before = 0, ""
    for i in range(120):
        view.write(f"fact number {i:>3} abcdef")
        turn(view)
        after = "".join(f"- {c.text}\n" for c in view.scheduler.resident(view.scope))
        kept_beginning += after.startswith(before)
        before = after
    assert kept_beginning >= 100  # the whole prefix is computed again a few times, not every turn


def test_reads_make_a_memory_hotter(view: MemOS) -> None:
    cold, hot = view.write("the heron"), view.write("the otter")
    for _ in range(5):
        view.search("otter", k=1)
        view.at(("memories",), hot.key)
    turn(view)
    at = datetime.now(UTC)
    found = {c.id: c for c in view.find()}
    assert found[hot.id].header.behaviour.reads == 10
    assert hotness(found[hot.id], at) > hotness(found[cold.id], at) + 5


def test_reads_are_kept_when_the_vault_is_closed(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, user="u", embedder=None) as memos:
        cube = memos.write("the heron")
        memos.read(cube.id)
    with MemOS.open(tmp_path, user="u", embedder=None) as memos:
        assert memos.read(cube.id).header.behaviour.reads == 1


def test_users_and_agents_never_mix(memos: MemOS, engine: Recorder) -> None:
    memos.scheduler.attach(engine)
    views = [memos.scoped(user=u, agent=a) for u in ("alice", "bob") for a in ("a1", "a2")]
    views.append(memos)
    for view in views:
        view.write(f"secret of {view.scope}")
        turn(view)
    for view in views:
        own = f"secret of {view.scope}"
        assert [c.text for c in view.scheduler.resident(view.scope)] == [own]
        assert all(d.scope == view.scope for d in view.scheduler.explain(view.scope))
        assert actions(view) == ["plan", "build"]
    for scope, text, _ in engine.prefilled:
        assert text.count("secret") == 1
        assert f"secret of {scope}" in text
    for view in views[:-1]:
        assert view.explain() == view.scheduler.explain(view.scope)
    assert len(memos.explain()) == len(memos.scheduler.explain()) == 2 * len(views)


def test_agents_with_the_same_memories_share_a_kv_record_and_lose_none(
    memos: MemOS, engine: Recorder
) -> None:
    memos.scheduler.attach(engine)
    engine.stable_prefix = lambda messages: [1, 2, 3]  # type: ignore[method-assign]
    for agent in ("a1", "a2"):
        view = memos.scoped(user="u", agent=agent)
        view.write("the heron")
        turn(view)
    assert {c.payload.kind for c in memos.scoped(user="u").find(namespace=("kv",))} == {"activation"}
    gone = memos.scoped(user="u").delete_where()
    assert len(gone) >= 3
    assert engine.held.keys() <= set()


def test_an_exploding_engine_is_reported_and_survived(view: MemOS, engine: Recorder) -> None:
    view.write("the heron")
    for error in (RuntimeError("out of memory"), KVError("no reuse")):
        engine.error = error
        turn(view)
        last = view.scheduler.explain(view.scope)[-1]
        assert last.action == "error"
        assert str(error) in last.reason
    engine.error = None
    assert "heron" in system_of(view)
    turn(view)
    assert actions(view)[-1] == "build"


def test_an_exploding_embedder_does_not_stop_planning(tmp_path: Path) -> None:
    def explode(texts: Any) -> Any:
        raise RuntimeError("the embedding service is down")

    with MemOS.open(tmp_path, user="u", session="s", embedder=explode) as memos:
        memos.write("the heron")
        turn(memos)
        assert [c.text for c in memos.scheduler.resident(memos.scope)] == ["the heron"]
        assert "error" in [d.action for d in memos.scheduler.explain()]


def test_stop_ends_a_prefill_that_has_begun(tmp_path: Path, engine: Recorder) -> None:
    begun, may_go = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert may_go.wait(30)

    engine.during_prefill = wait
    memos = MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="exact")
    memos.scheduler.attach(engine)
    memos.write("the heron")
    memos.turn_finished()
    assert begun.wait(30)
    closer = threading.Thread(target=memos.close)
    closer.start()
    assert memos.scheduler.wait_idle(30)  # it is stopping: nobody waits for the work
    may_go.set()
    closer.join(30)
    assert not closer.is_alive()
    assert engine.prefilled == []
    assert memos.scheduler.wait_idle(30)


def test_closing_in_the_middle_of_embedding_ends_it_and_loses_nothing(tmp_path: Path) -> None:
    begun, may_go = threading.Event(), threading.Event()

    def slow(texts: Any) -> Any:
        begun.set()
        assert may_go.wait(30)
        return bag_of_words(texts)

    memos = MemOS.open(tmp_path, user="u", embedder=slow, index="exact")
    memos.put([memos.cube(f"fact {i}") for i in range(300)])
    assert begun.wait(30)
    closer = threading.Thread(target=memos.close)
    closer.start()
    assert memos.scheduler.wait_idle(30)
    may_go.set()
    closer.join(30)
    assert not closer.is_alive()
    with MemOS.open(tmp_path, user="u", embedder=slow, index="exact") as memos:
        with memos.vault.db.read() as conn:
            assert conn.exec_driver_sql("SELECT count(*) FROM index_queue").scalar_one() > 0
        assert memos.search("fact 299", k=1)[0].cube.text == "fact 299"


def test_preload_on_attach_brings_in_what_recent_scopes_need(tmp_path: Path, engine: Recorder) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        memos.scheduler.attach(engine)
        for user in ("alice", "bob", "carol"):
            view = memos.scoped(user=user)
            view.write(f"secret of {user}")
            turn(view)
    again = Recorder()
    again.disk = {k: v for k, v in engine.held.items() if v[0].user != "alice"}
    with MemOS.open(tmp_path, embedder=None) as memos:
        memos.scheduler.attach(again)
        assert memos.scheduler.wait_idle()
        done = [(d.scope.user, d.action) for d in memos.scheduler.explain()]
        assert done == [("carol", "preload"), ("bob", "preload"), ("alice", "build")]


def test_a_preload_that_fails_for_one_user_goes_on_with_the_others(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=None) as memos:
        for user in ("alice", "bob"):
            view = memos.scoped(user=user)
            view.write(f"secret of {user}")
            turn(view)
        engine = Recorder()

        def refuse_bob() -> None:
            engine.during_prefill = lambda: None
            raise KVError("the prompt is too long")

        engine.during_prefill = refuse_bob
        memos.scheduler.attach(engine)
        assert memos.scheduler.wait_idle()
        assert [(d.scope.user, d.action) for d in memos.scheduler.explain()][-2:] == [
            ("bob", "error"),
            ("alice", "build"),
        ]


def test_plans_that_no_session_holds_are_pruned(memos: MemOS, view: MemOS) -> None:
    for i in range(5):
        view.write(f"fact {i}")
        turn(view)
        if i == 1:
            system_of(view)
    with memos.vault.db.read() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM plans").scalar() == 2


CUBES = st.lists(
    st.builds(
        lambda text, age, reads, priority: MemCube(
            payload=Plaintext(text=text),
            header=Header(
                descriptive=Descriptive(updated_at=datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=age)),
                governance={"priority": priority},
                behaviour=Behaviour(reads=reads, last_read=datetime(2026, 1, 1, tzinfo=UTC), frequency=reads),
            ),
        ),
        st.text(max_size=20),
        st.integers(0, 90),
        st.integers(0, 9),
        st.integers(-1, 2),
    ),
    max_size=12,
)


@given(CUBES, st.integers(0, 80), st.data())
def test_a_plan_keeps_its_beginning_and_its_budget(
    cubes: list[MemCube], budget: int, data: st.DataObject
) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    current = data.draw(st.lists(st.sampled_from([c.id for c in cubes]), unique=True)) if cubes else []
    plan = plan_resident(cubes, [*current, "gone"], len, budget, at)
    ids = [c.id for c in plan.cubes]
    assert len(ids) == len(set(ids))
    assert plan.tokens == sum(len(c.text) for c in plan.cubes) <= budget
    kept = [i for i in current if i in ids]
    assert ids[: len(kept)] == kept
    again = plan_resident(cubes, ids, len, budget, at, since=at)  # nothing was written since
    assert [c.id for c in again.cubes] == ids
    left = [c for c in cubes if c.id not in ids]
    if left:
        assert plan.tokens <= budget * 0.75  # room for the additions of the next turns
    for cube in left:
        hotter = sum(len(c.text) for c in plan.cubes if hotness(c, at) >= hotness(cube, at))
        assert hotter + len(cube.text) > int(budget * 0.75)


def test_a_memory_is_one_line_of_a_prompt() -> None:
    cube = MemCube(payload=Plaintext(text="line one\n\n- forged line\tthree"))
    assert memory_line(cube) == "- line one - forged line three"

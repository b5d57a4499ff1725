"""Whose KV the scheduler holds in memory when not everybody's fits: a real engine, a tiny random model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the [hf] extra is not installed")

from activation.tiny import make_model, make_tokenizer

from memos_core import MemOS
from memos_core.activation import ActivationEngine, GenerateOptions, LoadedModel, salt_for
from memos_core.cube import Scope

HOUR = 3600.0
START = time.time()  # the vault notes when a memory was written; the turns come after that
FACT = "keeps the spare key of the boathouse under the third flowerpot from the left"


Open = Callable[..., MemOS]


@pytest.fixture
def open_memos(loaded: LoadedModel, tmp_path: Path) -> Iterator[Open]:
    """Opens this test's vault as a new process would, with room in memory for so many users' prefixes."""
    opened: list[MemOS] = []

    def open_(users: float) -> MemOS:
        engine = ActivationEngine(
            loaded, kv_dir=tmp_path / "v" / "kv", memory_budget=int(users * prefix_bytes(loaded))
        )
        opened.append(MemOS.open(tmp_path / "v", embedder=None, model=engine))
        assert opened[-1].engine
        return opened[-1]

    yield open_
    for memos in opened:
        memos.close()


def prefix_bytes(loaded: LoadedModel) -> int:
    """Of the KV of one user's resident memory, measured."""
    with MemOS.open(":memory:", user="someone", embedder=None, model=loaded) as memos:
        memos.write(f"someone {FACT}")
        assert memos.engine
        memos.turn_finished()
        assert memos.scheduler.wait_idle()
        [nbytes] = memos.engine.store.usage().values()
        return nbytes


def visit(memos: MemOS, user: str, at: float = 0.0, turns: int = 2) -> None:
    """A session of this user at this time, in hours: some turns, a minute apart."""
    view = memos.scoped(user=user, session=f"{at}")
    if not memos.scoped(user=user).find():
        view.write(f"{user} {FACT}")
    for n in range(turns):
        memos.scheduler.clock = lambda n=n: START + at * HOUR + 60 * n  # type: ignore[misc]
        view.turn_finished()
        assert memos.scheduler.wait_idle()


def look(memos: MemOS, at: float) -> None:
    """Let the scheduler look at its plan at this time, in hours."""
    memos.scheduler.clock = lambda: START + at * HOUR
    memos.scheduler.attach(memos.engine)
    assert memos.scheduler.wait_idle()


def in_memory(memos: MemOS) -> set[str]:
    usage = memos.engine.store.usage()
    return {u for u in ("alice", "bob", "carol") if salt_for(Scope(user=u)) in usage}


def test_who_is_expected_is_loaded_before_they_come(open_memos: Open) -> None:
    memos = open_memos(1.5)  # room for one
    for day in range(12):
        visit(memos, "alice", 24 * day + 9)
        if day in (3, 11):
            visit(memos, "bob", 24 * day + 20)
    assert in_memory(memos) == {"bob"}  # the session may go on
    assert memos.engine.store.stats["memory_bytes"] <= memos.engine.store.memory_budget
    look(memos, 24 * 12 + 8.9)
    assert in_memory(memos) == {"alice"}
    last = memos.scheduler.explain(Scope(user="alice"))[-1]
    assert last.action == "preload"
    assert "chance of a use within 4 hours" in last.reason
    gone = memos.scheduler.explain(Scope(user="bob"))[-1]
    assert gone.action == "drop"
    assert "others are worth more" in gone.reason


def test_a_request_that_needs_room_evicts_who_is_not_expected(open_memos: Open) -> None:
    memos = open_memos(2.5)  # room for two
    for day in range(12):
        visit(memos, "alice", 24 * day + 9)
    visit(memos, "bob", 24 * 6 + 20)
    visit(memos, "bob", 24 * 11 + 20)
    look(memos, 24 * 12 + 8.9)
    assert in_memory(memos) == {"alice", "bob"}
    memos.engine.prefill(
        memos.engine.encode([{"role": "user", "content": f"carol {FACT}"}]), Scope(user="carol")
    )
    memos.engine.prefill(
        memos.engine.encode([{"role": "user", "content": f"carol {FACT} " * 3}]), Scope(user="carol")
    )
    assert in_memory(memos) == {"alice", "carol"}  # in the order of use, alice would go: bob was here later


def test_a_new_process_knows_the_turns_of_former_ones(open_memos: Open, loaded: LoadedModel) -> None:
    memos = open_memos(10)
    for n in range(12):
        memos.scoped(user="alice", session=f"s{n}").write(f"alice met number {n}")
    for user in ("alice", "bob", "carol"):
        visit(memos, user)
    assert in_memory(memos) == {"alice", "bob", "carol"}
    size = memos.engine.store.usage()[salt_for(Scope(user="alice"))]
    memos.close()
    again = open_memos(1.1 * size / prefix_bytes(loaded))  # room for alice, or for the two who came later
    assert again.scheduler.wait_idle()
    assert in_memory(again) == {"alice"}
    [decision] = again.scheduler.explain(Scope(user="alice"))
    assert decision.action == "preload"
    assert decision.reason.endswith("its KV was on disk")


def test_where_there_is_room_for_all_all_are_in_memory(open_memos: Open) -> None:
    memos = open_memos(10)
    for user in ("alice", "bob", "carol"):
        visit(memos, user)
    assert in_memory(memos) == {"alice", "bob", "carol"}
    memos.close()
    again = open_memos(10)
    assert again.scheduler.wait_idle()
    assert in_memory(again) == {"alice", "bob", "carol"}


def test_conversations_leave_before_the_memory_they_begin_with(open_memos: Open) -> None:
    memos = open_memos(3.5)  # room for three, or for two with a conversation
    for day in range(5):
        visit(memos, "alice", 24 * day + 9)
        visit(memos, "bob", 24 * day + 10)
        visit(memos, "carol", 24 * day + 11)
    view = memos.scoped(user="alice", session="s")
    prompt = view.prompt([{"role": "user", "content": "Where is the key? " * 12}], k=0)
    memos.engine.generate(prompt.messages, view.scope, GenerateOptions(max_new_tokens=2))
    talk = memos.engine.store.usage()[salt_for(Scope(user="alice"))]
    look(memos, 24 * 5 + 8.9)
    assert in_memory(memos) == {"alice", "bob", "carol"}
    assert memos.engine.store.usage()[salt_for(Scope(user="alice"))] < talk
    drops = [d for d in memos.scheduler.explain(Scope(user="alice")) if d.action == "drop"]
    assert [d.reason.split(":")[0] for d in drops] == ["conversations"]


def test_a_budget_that_is_lowered_is_kept_at_once_and_with_the_next_turn(open_memos: Open) -> None:
    memos = open_memos(10)
    for user in ("alice", "bob", "carol"):
        visit(memos, user)
    store = memos.engine.store
    store.memory_budget = int(1.5 * min(store.usage().values()))
    assert store.stats["memory_bytes"] <= store.memory_budget
    assert in_memory(memos) == {"carol"}
    visit(memos, "carol", 1.0)
    assert store.stats["memory_bytes"] <= store.memory_budget
    assert in_memory(memos) == {"carol"}


def test_a_vault_without_files_is_planned_for_too(loaded: LoadedModel) -> None:
    with MemOS.open(":memory:", embedder=None, model=loaded) as memos:
        assert memos.engine
        visit(memos, "alice")
        assert in_memory(memos) == {"alice"}
        assert [d.action for d in memos.scheduler.explain()] == ["plan", "build"]


def talk(memos: MemOS, user: str, session: str, text: str, agent: str | None = None) -> int:
    """A request of this user; returns how many tokens of its prompt were computed."""
    view = memos.scoped(user=user, agent=agent, session=session)
    prompt = view.prompt([{"role": "user", "content": text}], k=0)
    _, usage = memos.engine.generate(prompt.messages, view.scope, GenerateOptions(max_new_tokens=2))
    return usage.prompt_tokens - usage.cached_tokens


def test_agents_of_one_user_do_not_push_each_other_out(open_memos: Open) -> None:
    memos = open_memos(100)
    for agent in ("cook", "coder"):
        view = memos.scoped(user="alice", agent=agent)
        view.write(f"{agent} {FACT}")
        view.turn_finished()
    assert memos.scheduler.wait_idle()
    text = "Where is the key? " * 12
    talk(memos, "alice", "live", text, "coder")
    memos.engine.store.memory_budget = memos.engine.store.stats["memory_bytes"] + 1
    for _ in range(3):
        memos.scoped(user="alice", agent="coder", session="live").turn_finished()
        assert memos.scheduler.wait_idle()
        assert talk(memos, "alice", "live", text, "coder") == 1
    assert not {d.action for d in memos.scheduler.explain(Scope(user="alice", agent="cook"))} & {
        "drop",
        "error",
    }


def test_who_has_no_resident_memory_is_kept_for_their_next_turn(open_memos: Open) -> None:
    memos = open_memos(100)
    visit(memos, "old")
    text = "Tell me about boats. " * 10
    for n in range(3):
        memos.scheduler.clock = lambda n=n: START + 24 * HOUR * 30 + 60 * n  # type: ignore[misc]
        talk(memos, "live", "l", text)
        memos.scoped(user="live", session="l").turn_finished()
        assert memos.scheduler.wait_idle()
    memos.engine.store.memory_budget = memos.engine.store.stats["memory_bytes"] - 1
    assert talk(memos, "live", "l", text) == 1
    assert salt_for(Scope(user="old")) not in memos.engine.store.usage() or in_part(memos, "old")


def in_part(memos: MemOS, user: str) -> bool:
    """Whether not all of a user's resident memory is in memory."""
    plan = memos.vault.plans.current(Scope(user=user))
    assert plan
    return talk(memos, user, "new", "?") > 20


def test_the_older_of_two_conversations_leaves_first(open_memos: Open) -> None:
    memos = open_memos(100)
    visit(memos, "alice")
    texts = {name: f"{name} asks where the key is. " * 8 for name in ("first", "second", "third")}
    for name, text in texts.items():
        talk(memos, "alice", name, text)
        memos.scoped(user="alice", session=name).turn_finished()
        assert memos.scheduler.wait_idle()
    memos.engine.store.memory_budget = memos.engine.store.stats["memory_bytes"] - 1
    assert talk(memos, "alice", "third", texts["third"]) == 1
    assert talk(memos, "alice", "second", texts["second"]) == 1
    assert talk(memos, "alice", "first", texts["first"]) > 1


def test_many_users_of_one_moment_are_all_weighed(open_memos: Open) -> None:
    memos = open_memos(1000)
    for n in range(140):  # more than are weighed
        view = memos.scoped(user=f"u{n}", session="s")
        view.write("likes tea")
        view.turn_finished()
    assert memos.scheduler.wait_idle()
    held = memos.engine.store.usage()
    assert {n for n in range(140) if salt_for(Scope(user=f"u{n}")) in held} >= set(range(140 - 128, 140))


def test_without_room_in_memory_a_prefix_is_computed_once_for_the_disk(open_memos: Open) -> None:
    memos = open_memos(0)
    for _ in range(3):
        visit(memos, "alice")
    assert memos.engine.store.stats["memory_bytes"] == 0
    assert [d.action for d in memos.scheduler.explain(Scope(user="alice"))] == ["plan", "build"]
    [file] = memos.engine.store.scan()
    assert talk(memos, "alice", "s", "Where is the key?") < 20 < file.n_tokens


def test_without_any_room_nothing_is_computed(loaded: LoadedModel) -> None:
    engine = ActivationEngine(loaded, memory_budget=0)
    with MemOS.open(":memory:", embedder=None, model=engine) as memos:
        assert memos.engine is engine
        visit(memos, "alice")
        assert [d.action for d in memos.scheduler.explain()] == ["plan"]


def test_what_fits_in_part_is_held_in_part(loaded: LoadedModel) -> None:
    engine = ActivationEngine(loaded, memory_budget=int(3.5 * prefix_bytes(loaded)))
    with MemOS.open(":memory:", embedder=None, model=engine) as memos:
        assert memos.engine is engine
        view = memos.scoped(user="alice", session="s")
        for n in range(8):
            view.write(f"Number {n}: {FACT}")
        for _ in range(2):
            view.turn_finished()
            assert memos.scheduler.wait_idle()
        assert 0.9 * engine.store.memory_budget < engine.store.stats["memory_bytes"]
        assert [d.action for d in view.explain()] == ["plan", "build"]
        assert "as far as there is room" in view.explain()[-1].reason


def test_a_model_whose_kv_cannot_be_reused_is_said_once() -> None:
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), family="Mistral", sliding_window=512)
    engine = ActivationEngine(LoadedModel(model, tokenizer, "tiny"))
    with MemOS.open(":memory:", embedder=None, model=engine) as memos:
        assert memos.engine is engine
        for _ in range(3):
            visit(memos, "alice")
        assert [d.action for d in memos.scheduler.explain()].count("error") == 1

"""What the conformance suite does not ask of a saver."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import ormsgpack
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT
from pydantic import BaseModel
from sqlalchemy import func, select, update
from support import findings

from langgraph.checkpoint.memos import MemOSSaver
from memos_core.cube import Scope
from memos_core.errors import InvalidArgument, MemOSError, VaultError
from memos_core.memos import MemOS
from memos_core.vault import tables as t
from memos_core.vault.checkpoints import CheckpointTable

Make = Callable[..., Checkpoint]
TABLES = (t.checkpoints, t.checkpoint_chunks, t.checkpoint_writes)


@dataclass
class Mine:
    name: str


def thread(thread_id: Any = "1", **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **more}}


def rows(memos: MemOS) -> list[int]:
    with memos.vault.db.read() as conn:
        return [conn.execute(select(func.count()).select_from(table)).scalar_one() for table in TABLES]


def store(saver: MemOSSaver, config: Any, checkpoint: Checkpoint, **metadata: Any) -> Any:
    versions = checkpoint["channel_versions"]
    return saver.put(config, checkpoint, {"source": "loop", "step": 1, "parents": {}, **metadata}, versions)  # type: ignore[typeddict-item]


def reopened(saver: MemOSSaver) -> MemOSSaver:
    """One that remembers nothing."""
    saver.memos.vault.checkpoints = CheckpointTable(saver.memos.vault.db)
    return MemOSSaver(saver.memos)


# -- writes ---------------------------------------------------------------------------------------------


def test_writes_come_in_the_order_of_path_task_and_index(saver: MemOSSaver, make: Make) -> None:
    config = store(saver, thread(), make())
    saver.put_writes(config, [("c", "third"), ("c", "fourth")], "a-task", "~2")
    saver.put_writes(config, [("c", "second")], "z-task", "~1")
    saver.put_writes(config, [("c", "first")], "m-task", "~1")
    saver.put_writes(config, [("c", "zeroth")], "zz-task")
    found = saver.get_tuple(config)
    assert found is not None
    assert [w[2] for w in found.pending_writes or ()] == ["zeroth", "first", "second", "third", "fourth"]
    assert [t.pending_writes for t in saver.list(config)] == [found.pending_writes]


def test_special_writes_replace_and_regular_ones_stay(saver: MemOSSaver, make: Make) -> None:
    config = store(saver, thread(), make())
    saver.put_writes(config, [("c", "first"), (ERROR, "old")], "task")
    saver.put_writes(config, [("c", "second"), (ERROR, "new"), (INTERRUPT, "why")], "task")
    saver.put_writes(config, [], "task")
    found = saver.get_tuple(config)
    assert found is not None
    assert {w[1]: w[2] for w in found.pending_writes or ()} == {"c": "first", ERROR: "new", INTERRUPT: "why"}


def test_writes_may_come_before_their_checkpoint(saver: MemOSSaver, make: Make) -> None:
    checkpoint = make()
    saver.put_writes(thread(checkpoint_id=checkpoint["id"]), [("c", 1)], "task")
    found = saver.get_tuple(store(saver, thread(), checkpoint))
    assert found is not None
    assert found.pending_writes == [("task", "c", 1)]


# -- what is stored -------------------------------------------------------------------------------------


def test_everything_survives_a_round_trip(saver: MemOSSaver, make: Make) -> None:
    checkpoint = make(a=[1, {"b": None}], none=None, raw=b"\x00\xff", text="ä")
    checkpoint["updated_channels"] = ["a", "text"]
    checkpoint["versions_seen"] = {"node": {"a": "1"}}
    checkpoint["unheard_of"] = {"x": 1}  # type: ignore[typeddict-unknown-key]
    config = thread(run_name="n", __hidden="h", thread_ts="x")
    config["metadata"] = {"langgraph_step": 3, "mine": 1.5, "source": "never", "big": {"left": "out"}}
    stored = store(saver, config, checkpoint, counters_since_delta_snapshot={"a": (1, 2)}, odd={"y": [None]})
    found = saver.get_tuple(stored)
    assert found is not None
    assert found.checkpoint == checkpoint
    assert found.config == stored
    assert found.parent_config is None
    assert found.metadata == {
        "source": "loop",
        "step": 1,
        "parents": {},
        "counters_since_delta_snapshot": {"a": [1, 2]},
        "odd": {"y": [None]},
        "mine": 1.5,
        "run_name": "n",
        "thread_ts": "x",
    }
    assert next(saver.list(thread())) == found


def test_a_value_that_did_not_change_is_stored_once(saver: MemOSSaver, make: Make) -> None:
    config = thread()
    for step in range(5):
        checkpoint = make({"long": "1", "step": str(step)}, long="x" * 1000, step=step)
        new: ChannelVersions = {"step": str(step)} if step else checkpoint["channel_versions"]
        config = saver.put(config, checkpoint, {"source": "loop"}, new)
    assert rows(saver.memos) == [5, 1, 0]
    values = [found.checkpoint["channel_values"] for found in saver.list(thread())]
    assert values == [{"long": "x" * 1000, "step": step} for step in (4, 3, 2, 1, 0)]


def test_values_come_back_even_where_new_versions_leave_them_out(saver: MemOSSaver, make: Make) -> None:
    config = saver.put(thread(), make({}, a=1, b=[2]), {"source": "loop"}, {})
    assert saver.get_tuple(config).checkpoint["channel_values"] == {"a": 1, "b": [2]}  # type: ignore[union-attr]


def test_branches_that_count_alike_keep_their_own_values(saver: MemOSSaver, make: Make) -> None:
    root = store(saver, thread(), make(a="root"))
    left = store(saver, root, make({"a": "2"}, a="left"))
    right = store(saver, root, make({"a": "2"}, a="right"))
    child = saver.put(right, make({"a": "2"}, a="right"), {"source": "loop"}, {})
    gone = saver.put(right, make({"a": "3"}), {"source": "loop"}, {"a": "3"})
    found = [saver.get_tuple(c).checkpoint["channel_values"] for c in (root, left, right, child, gone)]  # type: ignore[union-attr]
    assert found == [{"a": "root"}, {"a": "left"}, {"a": "right"}, {"a": "right"}, {}]


def test_deleting_leaves_nothing_behind(saver: MemOSSaver, make: Make) -> None:
    for thread_id in ("1", "2"):
        config = store(saver, thread(thread_id), make(a="a" * 200), run_id="run-1")
        store(
            saver, {"configurable": {**config["configurable"], "checkpoint_ns": "sub:1"}}, make(a="b" * 200)
        )
        saver.put_writes(config, [("c", "c" * 200)], "task")
    assert rows(saver.memos) == [4, 6, 2]
    saver.delete_thread("1")
    assert rows(saver.memos) == [2, 3, 1]
    child = store(
        saver,
        thread("2", checkpoint_id=config["configurable"]["checkpoint_id"]),
        make({"a": "2"}, a="d" * 200),
    )
    saver.delete_for_runs(["run-1", "run-2"])
    assert rows(saver.memos) == [2, 2, 0]
    found = saver.get_tuple(child)
    assert found is not None
    assert found.parent_config is None
    assert found.checkpoint["channel_values"] == {"a": "d" * 200}
    saver.delete_thread("2")
    saver.delete_thread("2")
    assert rows(saver.memos) == [0, 0, 0]
    assert findings(saver.memos) == []


def test_a_thread_is_not_copied_over_another(saver: MemOSSaver, make: Make) -> None:
    store(saver, thread("1"), make(a=1))
    store(saver, thread("2"), make(a=2))
    with pytest.raises(InvalidArgument, match=r"target_thread_id.*'2'"):
        saver.copy_thread("1", "2")
    assert saver.get_tuple(thread("2")).checkpoint["channel_values"] == {"a": 2}  # type: ignore[union-attr]
    with pytest.raises(InvalidArgument, match=r"strategy"):
        saver.prune(["1"], strategy="everything")


# -- listing --------------------------------------------------------------------------------------------


def test_metadata_filters_are_exact(saver: MemOSSaver, make: Make) -> None:
    run = uuid.UUID(int=7)
    metadata: list[dict[str, Any]] = [
        {"n": 1, "flag": True},
        {"n": 2, "flag": 1, "nested": {"a": 1, "b": [1, True]}},
        {"n": 3, "flag": False, "k'; DROP TABLE checkpoints; --": "v", "run_id": str(run), "gone": None},
    ]
    for entry in metadata:
        store(saver, thread(), make(), **entry)

    def found(**wanted: Any) -> list[int]:
        return [found.metadata["n"] for found in saver.list(thread(), filter=wanted)]  # type: ignore[typeddict-item]

    assert found(flag=True) == [1]
    assert found(flag=1) == [2]
    assert found(flag=1.0) == [2]
    assert found(nested={"b": [1, True], "a": 1}) == [2]
    assert found(nested={"a": 1}) == []
    assert found(nested={"b": [1, 1], "a": 1}) == []
    assert found(**{"k'; DROP TABLE checkpoints; --": "v"}) == [3]
    assert found(run_id=run) == [3]
    assert found(gone=None) == [3, 2, 1]
    assert found(source="loop", n=2) == [2]
    assert found(nothing="x") == []
    with pytest.raises(InvalidArgument, match=r"filter"):
        found(n={1: {2}}, m=[float("nan"), {(1, 2): 3}])


def test_listing_pages_through_everything_once(saver: MemOSSaver, make: Make) -> None:
    stored = []
    for step in range(150):
        for thread_id in ("1", "2"):
            checkpoint = make(n=step)
            checkpoint["id"] = f"{step:08}"  # the same id in both threads
            stored.append((checkpoint["id"], thread_id))
            store(saver, thread(thread_id), checkpoint, even=step % 2 == 0)
    listed = [(f.checkpoint["id"], f.config["configurable"]["thread_id"]) for f in saver.list(None)]
    assert listed == sorted(stored, key=lambda x: (-int(x[0]), x[1]))
    mine = [f.checkpoint["channel_values"]["n"] for f in saver.list(thread("1"), filter={"even": True})]
    assert mine == list(range(148, -1, -2))
    before = thread(checkpoint_id=f"{100:08}")
    some = saver.list(thread("2"), filter={"even": True}, before=before, limit=40)
    assert [f.checkpoint["channel_values"]["n"] for f in some] == list(range(98, 18, -2))
    assert [f.checkpoint["id"] for f in saver.list(thread("1"), limit=70)] == [
        f"{n:08}" for n in range(149, 79, -1)
    ]
    assert [f.checkpoint["id"] for f in saver.list(before)] == [f"{100:08}"]
    assert list(saver.list(thread("1"), limit=0)) == []


def test_a_page_may_end_between_equal_ids(saver: MemOSSaver, make: Make) -> None:
    lanes = [("1", ""), ("1", "sub:1"), ("1", "sub:2"), ("2", ""), ("2", "sub:1")]
    for n in range(30):
        for thread_id, ns in lanes:
            store(saver, thread(thread_id, checkpoint_ns=ns), {**make(), "id": f"{n:08}"})
    configs = [found.config["configurable"] for found in saver.list(None)]
    listed = [(c["checkpoint_id"], c["thread_id"], c["checkpoint_ns"]) for c in configs]
    assert listed == [(f"{n:08}", *lane) for n in range(29, -1, -1) for lane in lanes]


def test_other_calls_work_while_a_listing_is_open(make: Make) -> None:
    with MemOSSaver.from_conn_string(":memory:") as saver:  # one connection
        for n in range(100):
            store(saver, thread(), make(n=n))
        listing = saver.list(thread())
        newest = next(listing)
        store(saver, newest.config, make(n=100))
        assert saver.get_tuple(thread()).checkpoint["channel_values"] == {"n": 100}  # type: ignore[union-attr]
        saver.put_writes(newest.config, [("c", 1)], "task")
        assert [found.checkpoint["channel_values"]["n"] for found in listing] == list(range(98, -1, -1))


# -- addresses and versions -----------------------------------------------------------------------------


@pytest.mark.parametrize("thread_id", [42, uuid.UUID(int=5), "with space", "ü"])
def test_thread_ids_of_any_kind(saver: MemOSSaver, make: Make, thread_id: Any) -> None:
    stored = store(saver, thread(thread_id), make(a=1))
    assert stored["configurable"]["thread_id"] == thread_id
    assert saver.get_tuple({"configurable": {"thread_id": thread_id}}) is not None
    assert saver.get_tuple(thread(str(thread_id))) is not None
    assert saver.get(stored) is not None
    saver.delete_thread(thread_id)
    assert saver.get_tuple(stored) is None


NO_THREAD: list[Any] = [None, " ", "a\x00b", "\ud800"]


@pytest.mark.parametrize("config", [{}, {"configurable": {}}, *map(thread, NO_THREAD)])
def test_a_config_without_thread_is_one_clear_error(saver: MemOSSaver, make: Make, config: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: saver.get_tuple(config),
        lambda: store(saver, config, make(a=1)),
        lambda: saver.put_writes(config, [("c", 1)], "task"),
    ]
    if config:
        calls.append(lambda: list(saver.list(config)))
    for call in calls:
        with pytest.raises(InvalidArgument, match=r"thread_id"):
            call()
    assert rows(saver.memos) == [0, 0, 0]


def test_other_wrong_arguments(saver: MemOSSaver) -> None:
    with pytest.raises(InvalidArgument, match=r"checkpoint_id"):
        saver.put_writes(thread(), [("c", 1)], "task")
    with pytest.raises(InvalidArgument, match=r"from_conn_string"):
        MemOSSaver("vault.db")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"allowed_msgpack_modules"):
        MemOSSaver(saver.memos, serde=saver.serde, allowed_msgpack_modules=[Mine])


def test_versions_have_the_official_format(saver: MemOSSaver) -> None:
    first = saver.get_next_version(None, None)
    assert re.fullmatch(r"0{31}1\.0\.\d+(e-\d+)?", first)
    versions = [first]
    for _ in range(12):
        versions.append(saver.get_next_version(versions[-1], None))
    assert versions == sorted(versions)
    assert saver.get_next_version(first, None) != saver.get_next_version(first, None)
    assert saver.get_next_version(3, None).startswith("0" * 31 + "4.")  # type: ignore[arg-type]


def test_no_random_uuid_is_drawn(saver: MemOSSaver, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> uuid.UUID:
        raise AssertionError("uuid4 was called")

    monkeypatch.setattr(uuid, "uuid4", refuse)
    config = store(saver, thread(), make(a=1))
    saver.put_writes(config, [("c", 1)], "task")
    assert saver.get_tuple(config) is not None
    saver.copy_thread("1", "2")
    saver.prune(["1", "2"])
    assert saver.memos.scheduler.wait_idle()
    assert [d for d in saver.memos.scheduler.explain() if d.action == "error"] == []


# -- bytes ----------------------------------------------------------------------------------------------


def test_a_value_that_cannot_be_stored_is_named(saver: MemOSSaver, make: Make) -> None:
    with pytest.raises(InvalidArgument, match=r"channel 'bad'.*object"):
        store(saver, thread(), make(good=1, bad=object()))
    with pytest.raises(InvalidArgument, match=r"channel 'big'"):
        store(saver, thread(), make(big=2**70))
    with pytest.raises(InvalidArgument, match=r"channel 'c'"):
        saver.put_writes(thread(checkpoint_id="x"), [("ok", 1), ("c", lambda: None)], "task")
    with pytest.raises(InvalidArgument, match=r"metadata 'odd'"):
        store(saver, thread(), make(good=1), odd={1, 2})
    assert rows(saver.memos) == [0, 0, 0]


class Point(BaseModel):
    x: int


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    a: int
    b: int


def test_data_classes_that_are_loaded_come_back_as_they_were(saver: MemOSSaver, make: Make) -> None:
    values = {"m": Mine("x"), "p": Point(x=1), "c": Colour.RED, "t": [Pair(1, 2)]}
    assert saver.get_tuple(store(saver, thread(), make(**values))).checkpoint["channel_values"] == values  # type: ignore[union-attr]


def test_what_is_stored_imports_and_calls_nothing(saver: MemOSSaver, make: Make, tmp_path: Path) -> None:
    (tmp_path / "unheard_of.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Data:\n    x: int\n"
    )
    touched = tmp_path / "touched"
    bad = [
        ormsgpack.Ext(1, ormsgpack.packb(("os", "system", (f"touch {touched}",)))),
        ormsgpack.Ext(1, ormsgpack.packb(("subprocess", "Popen", (["touch", str(touched)],)))),
        ormsgpack.Ext(2, ormsgpack.packb(("unheard_of", "Data", {"x": 1}))),
        ormsgpack.Ext(3, ormsgpack.packb(("pathlib", "Path", str(touched), "touch"))),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        data = ormsgpack.packb(bad, option=ormsgpack.OPT_NON_STR_KEYS)
        found = saver.serde.loads_typed(("msgpack", data))
    assert found[2] == {"x": 1}
    assert "unheard_of" not in sys.modules
    assert not touched.exists()


def test_a_list_of_types_is_all_that_is_rebuilt(memos: MemOS, make: Make) -> None:
    strict, open_ = MemOSSaver(memos, allowed_msgpack_modules=[Point]), MemOSSaver(memos)
    config = store(strict, thread(), make(a=Mine("x")))
    assert strict.get_tuple(config).checkpoint["channel_values"] == {"a": {"name": "x"}}  # type: ignore[union-attr]
    assert open_.get_tuple(config).checkpoint["channel_values"] == {"a": Mine("x")}  # type: ignore[union-attr]
    allowed = strict.with_allowlist([(Mine.__module__, "Mine")])
    assert isinstance(allowed, MemOSSaver)
    assert open_.with_allowlist([("decimal", "Decimal")]).get_tuple(config) == open_.get_tuple(config)
    assert allowed.get_tuple(config).checkpoint["channel_values"] == {"a": Mine("x")}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("table", "change", "names"),
    [
        (t.checkpoint_chunks, {"data": b"\xc1"}, "channel 'a'"),
        (t.checkpoint_chunks, {"hash": b"another"}, "channel 'a'"),
        (t.checkpoints, {"refs": b"\xc1"}, "checkpoint"),
        (t.checkpoints, {"checkpoint_ns": "", "parent_id": "another"}, "checkpoint"),
        (t.checkpoints, {"checkpoint": b"\xc1"}, "checkpoint"),
        (t.checkpoints, {"type": "bytes"}, "checkpoint"),
        (t.checkpoints, {"metadata": "{"}, "metadata"),
        (t.checkpoint_writes, {"value": b"\xc1"}, "channel 'c'"),
        (t.checkpoint_writes, {"channel": "d"}, "channel 'd'"),
    ],
)
def test_a_damaged_row_is_one_clear_error(
    saver: MemOSSaver, make: Make, table: Any, change: Any, names: str
) -> None:
    config = store(saver, thread(), make(a="a" * 200))
    saver.put_writes(config, [("c", 1)], "task")
    with saver.memos.vault.db.write() as conn:
        conn.execute(update(table).values(**change))
    saver = reopened(saver)
    with pytest.raises(VaultError, match=names):
        saver.get_tuple(config)
    with pytest.raises(MemOSError, match=names):
        list(saver.list(config))


# -- the scheduler --------------------------------------------------------------------------------------


@pytest.fixture
def turns(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> list[Scope]:
    """The scopes whose turns the scheduler was told of."""
    told: list[Scope] = []
    monkeypatch.setattr(memos.scheduler, "turn", lambda scope, system=None: told.append(scope))
    return told


def test_the_scheduler_hears_when_a_turn_moves_on(memos: MemOS, make: Make, turns: list[Scope]) -> None:
    saver = MemOSSaver(memos)
    store(saver, thread("1", user_id="ada"), make(), source="input")
    store(saver, thread("1", user_id="ada", checkpoint_ns="sub:1"), make(), source="loop")
    store(saver, thread("1", user_id="ada"), make(), source="fork")
    assert turns == []
    store(saver, thread("1", user_id="ada"), make(), source="loop")
    store(saver, thread(2, user_id=7), make(), source="update")
    store(saver, thread("3"), make(), source="loop")
    assert turns == [
        Scope(user="ada", session="1"),
        Scope(user="7", session="2"),
        Scope(session="3"),
    ]


def test_the_views_own_user_counts_first(memos: MemOS, make: Make, turns: list[Scope]) -> None:
    store(MemOSSaver(memos.scoped(user="ada", agent="bot")), thread("1", user_id="eve"), make())
    store(MemOSSaver(memos.all_users()), thread("2"), make())
    store(MemOSSaver(memos.all_users()), thread("3", user_id="*"), make())
    store(MemOSSaver(memos), thread("4", user_id=""), make())
    store(MemOSSaver(memos.scoped(session="s")), thread("5", user_id="bob"), make())
    assert turns == [
        Scope(user="ada", agent="bot", session="1"),
        Scope(session="4"),
        Scope(user="bob", session="s"),
    ]


def test_a_user_that_cannot_be_is_refused_before_anything_is_stored(memos: MemOS, make: Make) -> None:
    with pytest.raises(InvalidArgument, match=r"user_id"):
        store(MemOSSaver(memos), thread("1", user_id="a\x00"), make(a=1))
    assert rows(memos) == [0, 0, 0]


def test_a_saver_of_one_user_sees_only_that_users_threads(
    memos: MemOS, make: Callable[..., Checkpoint]
) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    savers = {user: MemOSSaver(memos.scoped(user=user)) for user in ("alice", "bob")}
    for user, saver in savers.items():
        saver.put(config, make(said=user), {}, {"said": "1"})
    operator = MemOSSaver(memos)
    assert operator.get_tuple(config) is None
    savers["bob"].delete_thread("t")
    found = savers["alice"].get_tuple(config)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"said": "alice"}
    assert list(savers["bob"].list(None)) == []

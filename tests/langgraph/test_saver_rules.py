"""What the base class asks of a saver and the conformance suite does not notice: each rule is a check that our saver
passes, and that a saver which breaks the rule fails."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, _DeltaSnapshot
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from sqlalchemy import text

from langgraph.checkpoint.memos import MemOSSaver

Config = dict[str, Any]


def thread(thread_id: Any = "1", **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **more}}


def checkpoint(id_: str, **values: Any) -> Checkpoint:
    return {
        "v": 4,
        "id": id_,
        "ts": "2026-11-22T12:00:00+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, "1"),
        "versions_seen": {},
        "updated_channels": sorted(values),
    }


def put(saver: MemOSSaver, config: Any, id_: str, metadata: Any = None, **values: Any) -> Any:
    made = checkpoint(id_, **values)
    return saver.put(config, made, {"source": "loop", **(metadata or {})}, made["channel_versions"])


def pending(saver: MemOSSaver, config: Any) -> list[Any]:
    found = saver.get_tuple(config)
    assert found is not None
    return list(found.pending_writes or ())


# -- the rules ------------------------------------------------------------------------------------------


def writes_come_by_path_task_and_index(saver: MemOSSaver) -> None:
    config = put(saver, thread(), "1")
    saver.put_writes(config, [("c", 3), ("c", 4)], "a", "~2")
    saver.put_writes(config, [("c", 2)], "z", "~1")
    saver.put_writes(config, [("c", 1)], "m", "~1")
    assert [w[2] for w in pending(saver, config)] == [1, 2, 3, 4]


def special_writes_replace(saver: MemOSSaver) -> None:
    config = put(saver, thread(), "1")
    for value in ("old", "new"):
        saver.put_writes(config, [(ERROR, value), (INTERRUPT, value * 100)], "task")
    assert {w[1]: w[2] for w in pending(saver, config)} == {ERROR: "new", INTERRUPT: "new" * 100}


def regular_writes_stay(saver: MemOSSaver) -> None:
    config = put(saver, thread(), "1")
    for value in ("first", "second"):
        saver.put_writes(config, [("c", value)], "task")
    assert pending(saver, config) == [("task", "c", "first")]


def metadata_of_the_config_is_merged(saver: MemOSSaver) -> None:
    config = thread(run_name="n", __hidden="h")
    config["metadata"] = {"mine": 1.5, "source": "never", "langgraph_step": 3, "nested": {"left": "out"}}
    found = saver.get_tuple(put(saver, config, "1", {"step": 1}))
    assert found is not None
    assert found.metadata == {"source": "loop", "step": 1, "mine": 1.5, "run_name": "n"}


def parents_are_walked_by_their_id(saver: MemOSSaver) -> None:
    """The branch that was continued has the lower ids."""
    root = put(saver, thread(), "5", log=["root"])
    saver.put_writes(root, [("log", "from the root")], "task")
    left, right = put(saver, root, "2"), put(saver, root, "6")
    saver.put_writes(left, [("log", "left")], "task")
    saver.put_writes(right, [("log", "right")], "task")
    end = put(saver, left, "1")
    found = saver.get_delta_channel_history(config=end, channels=["log"])["log"]
    assert [w[2] for w in found["writes"]] == ["from the root", "left"]
    assert found["seed"] == ["root"]
    assert saver.get_tuple(end).parent_config == left  # type: ignore[union-attr]


def everything_survives_a_round_trip(saver: MemOSSaver) -> None:
    made = checkpoint("1", log=_DeltaSnapshot(["a", "b"]), text="ä")
    made["unheard_of"] = {"x": 1}  # type: ignore[typeddict-unknown-key]
    odd: Any = {"source": "loop", "counters_since_delta_snapshot": {"log": [1, 2]}, "odd": {"y": [None]}}
    config = saver.put(thread(), made, odd, made["channel_versions"])
    for found in (saver.get_tuple(config), next(saver.list(thread()))):
        assert found is not None
        assert found.checkpoint == made
        assert found.metadata == odd


def versions_have_the_official_format(saver: MemOSSaver) -> None:
    versions = [saver.get_next_version(None, None)]
    for _ in range(12):
        versions.append(saver.get_next_version(versions[-1], None))
    assert all(re.fullmatch(r"\d{32}\.0+\.\d+(e-\d+)?", version) for version in versions)
    assert versions == sorted(versions)
    assert saver.get_next_version(versions[0], None) != saver.get_next_version(versions[0], None)


def extend(values: list[str], updates: list[list[str]]) -> list[str]:
    return [*values, *(item for update in updates for item in update)]


class Delta(TypedDict):
    log: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=4)]
    turn: int


def pruning_keeps_delta_channels(saver: MemOSSaver) -> None:
    builder = StateGraph(Delta).add_node("step", lambda s: {"log": [f"step {s['turn']}"]})
    graph = builder.add_edge(START, "step").compile(checkpointer=saver)
    for turn in range(6):
        graph.invoke({"log": [f"turn {turn}"], "turn": turn}, thread())
        before = graph.get_state(thread()).values
        saver.prune(["1"])
        assert graph.get_state(thread()).values == before
        assert len(before["log"]) == 2 * (turn + 1)


class Name(TypedDict):
    name: str


def pruning_keeps_an_interrupted_run(saver: MemOSSaver) -> None:
    builder = StateGraph(Name).add_node("ask", lambda _: {"name": interrupt("name?")})
    builder.add_node("beside", lambda _: {})
    graph = builder.add_edge(START, "ask").add_edge(START, "beside").compile(checkpointer=saver)
    graph.invoke({"name": ""}, thread())
    before = graph.get_state(thread()).tasks
    saver.prune(["1"])
    assert len(list(saver.list(thread()))) == 1
    assert graph.get_state(thread()).tasks == before
    assert graph.invoke(Command(resume="Ada"), thread())["name"] == "Ada"


def thread_ids_of_any_kind_are_their_text(saver: MemOSSaver) -> None:
    for id_ in (42, uuid.UUID(int=5)):
        stored = put(saver, thread(id_), "1", a=1)
        assert stored["configurable"]["thread_id"] == id_
        assert saver.get_tuple(thread(str(id_))) is not None
        assert [f.checkpoint["id"] for f in saver.list(thread(id_))] == ["1"]
        saver.delete_thread(id_)  # type: ignore[arg-type]
        assert saver.get_tuple(stored) is None


def a_listing_may_be_interleaved(saver: MemOSSaver) -> None:
    for n in range(40):
        put(saver, thread(), f"{n:02}", n=n)
    seen = []
    for found in saver.list(thread()):
        seen.append(found.checkpoint["id"])
        put(saver, found.config, f"9{len(seen):02}", n=len(seen))
        saver.put_writes(found.config, [("c", 1)], "task")
        assert saver.get_tuple(found.config) is not None
    assert seen == [f"{n:02}" for n in range(39, -1, -1)]


def no_random_uuid_is_drawn(saver: MemOSSaver) -> None:
    def refuse() -> uuid.UUID:
        raise AssertionError("uuid4 was called")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uuid, "uuid4", refuse)
        config = put(saver, thread(), "1", a="a" * 500)
        saver.put_writes(config, [("c", "c" * 500)], "task")
        saver.copy_thread("1", "2")
        saver.prune(["1", "2"])
        assert saver.get_tuple(config) is not None


# -- savers that break them ---------------------------------------------------------------------------------


class ByTask(MemOSSaver):
    """Orders writes by task."""

    def get_tuple(self, config: Any) -> Any:
        found = super().get_tuple(config)
        return found and found._replace(pending_writes=sorted(found.pending_writes or (), key=lambda w: w[0]))


class KeepsSpecial(MemOSSaver):
    """Keeps the first of special writes too."""

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        there = {w[1] for w in pending(self, config)}
        super().put_writes(config, [w for w in writes if w[0] not in there], task_id, task_path)


class Replaces(MemOSSaver):
    """Replaces every write."""

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        with self.memos.vault.db.write() as conn:
            conn.execute(text("DELETE FROM checkpoint_writes"))
        super().put_writes(config, writes, task_id, task_path)


class OwnMetadataOnly(MemOSSaver):
    """Leaves out the metadata of the config."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        known = ("thread_id", "checkpoint_ns", "checkpoint_id")
        bare = {"configurable": {k: v for k, v in config["configurable"].items() if k in known}}
        return super().put(bare, checkpoint, metadata, new_versions)


class WalksByOrder(MemOSSaver):
    """Takes the next lower id for the parent."""

    def get_tuple(self, config: Any) -> Any:
        found = super().get_tuple(config)
        if found is None or found.parent_config is None:
            return found
        before = next(self.list(thread(), before=found.config, limit=1), None)
        return found._replace(parent_config=before.config if before else None)


class KnownKeysOnly(MemOSSaver):
    """Stores the metadata it knows."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        known = {k: v for k, v in metadata.items() if k in ("source", "step", "parents", "run_id")}
        return super().put(config, checkpoint, known, new_versions)


class PlainVersions(MemOSSaver):
    """Counts without the random part."""

    def get_next_version(self, current: Any, channel: Any) -> str:
        return f"{int(str(current or '0').split('.')[0]) + 1:032}"


class PrunesAllButOne(MemOSSaver):
    """Prunes without looking at delta channels."""

    def prune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        for id_ in thread_ids:
            bones = self._table.bones(self._tenant, id_)
            self._table.delete([(b.lane, b.id) for b in bones[1:]])


class PrunesWrites(MemOSSaver):
    """Prunes pending writes with the rest."""

    def prune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        super().prune(thread_ids, strategy=strategy)
        with self.memos.vault.db.write() as conn:
            conn.execute(text("DELETE FROM checkpoint_writes"))


class ReprIds(MemOSSaver):
    """Tells 42 from "42"."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        id_ = config["configurable"]["thread_id"]
        odd = thread(f"{type(id_).__name__}:{id_}")
        super().put(odd, checkpoint, metadata, new_versions)
        return thread(id_, checkpoint_id=checkpoint["id"])


class ListsLive(MemOSSaver):
    """Looks again for the newest after each."""

    def list(self, config: Any, **options: Any) -> Iterator[Any]:
        seen: set[str] = set()
        while more := [f for f in super().list(config, **options) if f.checkpoint["id"] not in seen]:
            seen.add(more[0].checkpoint["id"])
            yield more[0]
            if len(seen) > 60:
                return


class DrawsUuid(MemOSSaver):
    """Draws random ids."""

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        uuid.uuid4()
        super().copy_thread(source_thread_id, target_thread_id)


RULES: dict[Callable[[MemOSSaver], None], type[MemOSSaver]] = {
    writes_come_by_path_task_and_index: ByTask,
    special_writes_replace: KeepsSpecial,
    regular_writes_stay: Replaces,
    metadata_of_the_config_is_merged: OwnMetadataOnly,
    parents_are_walked_by_their_id: WalksByOrder,
    everything_survives_a_round_trip: KnownKeysOnly,
    versions_have_the_official_format: PlainVersions,
    pruning_keeps_delta_channels: PrunesAllButOne,
    pruning_keeps_an_interrupted_run: PrunesWrites,
    thread_ids_of_any_kind_are_their_text: ReprIds,
    a_listing_may_be_interleaved: ListsLive,
    no_random_uuid_is_drawn: DrawsUuid,
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_our_saver_keeps_the_rule(vault: Path, rule: Callable[[MemOSSaver], None]) -> None:
    with MemOSSaver.from_conn_string(vault) as saver:
        rule(saver)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_our_saver_keeps_the_rule_in_memory(rule: Callable[[MemOSSaver], None]) -> None:
    with MemOSSaver.from_conn_string(":memory:", encryption=b"k" * 16) as saver:  # one connection
        rule(saver)


@pytest.mark.parametrize(("rule", "broken"), RULES.items(), ids=lambda x: x.__name__)
def test_a_saver_that_breaks_the_rule_is_noticed(
    vault: Path, rule: Callable[[MemOSSaver], None], broken: type[MemOSSaver]
) -> None:
    with broken.from_conn_string(vault) as saver, pytest.raises(AssertionError):
        rule(saver)

"""What checkpoints take on the disk: each message once, a step what it changed, and nothing after it is deleted."""

from __future__ import annotations

import gc
import random
import string
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.base import Checkpoint
from langgraph.graph import START, MessagesState, StateGraph
from sqlalchemy import func, select
from support import findings

from langgraph.checkpoint.memos import MemOSSaver
from memos_core.memos import MemOS
from memos_core.vault import tables as t

Make = Callable[..., Checkpoint]
WORDS = random.Random(5)


def thread(thread_id: str = "1", **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **more}}


def said(size: int) -> str:
    return "".join(WORDS.choices(string.ascii_lowercase, k=size))


def chat(saver: MemOSSaver) -> Any:
    builder = StateGraph(MessagesState).add_node("answer", lambda _: {"messages": [AIMessage(said(800))]})
    return builder.add_edge(START, "answer").compile(checkpointer=saver)


def texts(graph: Any, thread_id: str = "1") -> list[str]:
    return [m.content for m in graph.get_state(thread(thread_id)).values["messages"]]


def chunks(memos: MemOS) -> int:
    with memos.vault.db.read() as conn:
        return conn.execute(select(func.count()).select_from(t.checkpoint_chunks)).scalar_one()


def stored_bytes(memos: MemOS) -> int:
    """Of all contents, without what the database needs around them."""
    with memos.vault.db.read() as conn:
        return sum(
            len(value) for table in (t.checkpoints, t.checkpoint_chunks, t.checkpoint_writes)
            for row in conn.execute(select(table)) for value in row if isinstance(value, str | bytes)
        )  # fmt: skip


def test_the_text_of_each_message_is_in_the_files_once(vault: Path) -> None:
    with MemOSSaver.from_conn_string(vault) as saver:
        graph = chat(saver)
        for _ in range(12):
            graph.invoke({"messages": [HumanMessage(said(200))]}, thread())
        every = texts(graph)
        assert len(every) == 24
    content = b"".join(path.read_bytes() for path in vault.glob("vault.db*"))
    assert [content.count(text.encode()) for text in every] == [1] * 24


def test_a_step_takes_what_it_changed(memos: MemOS) -> None:
    saver = MemOSSaver(memos)
    graph = chat(saver)
    sizes = []
    for _ in range(60):
        graph.invoke({"messages": [HumanMessage(said(200))]}, thread())
        sizes.append(stored_bytes(memos))
    turns = [after - before for before, after in pairwise(sizes)]
    early, late = sum(turns[15:25]) / 10, sum(turns[-10:]) / 10
    assert late <= 1.5 * early, (early, late)
    assert findings(memos) == []


@pytest.mark.parametrize("encryption", [False, b"k" * 32], ids=["plain", "encrypted"])
def test_nothing_that_nobody_refers_to_is_left(vault: Path, encryption: bytes | bool) -> None:
    with MemOSSaver.from_conn_string(vault, encryption=encryption) as saver:
        graph = chat(saver)
        config = thread()
        for turn in range(10):
            config["metadata"] = {"run_id": f"run-{turn}"}
            graph.invoke({"messages": [HumanMessage(said(200), id=f"h{turn}")]}, config)
        full, kept = chunks(saver.memos), texts(graph)
        saver.copy_thread("1", "2")
        assert chunks(saver.memos) == 2 * full
        saver.prune(["1"])
        pruned = chunks(saver.memos) - full
        assert pruned < full
        assert texts(graph) == texts(graph, "2") == kept
        saver.prune(["1"])
        assert chunks(saver.memos) == full + pruned
        graph.update_state(thread(), {"messages": [RemoveMessage(f"h{turn}") for turn in range(10)]})
        saver.prune(["1"])
        assert chunks(saver.memos) - full < pruned
        assert texts(graph) == kept[1::2]
        saver.delete_for_runs([f"run-{turn}" for turn in range(10)])
        saver.delete_thread("1")
        assert chunks(saver.memos) == 0
        assert findings(saver.memos) == []
        graph.invoke({"messages": [HumanMessage("anew")]}, thread("2"))
        assert len(texts(graph, "2")) == 2


def test_runs_that_are_deleted_leave_the_others_whole(saver: MemOSSaver) -> None:
    graph = chat(saver)
    for turn in range(6):
        config = {**thread(), "metadata": {"run_id": f"run-{turn}"}}
        graph.invoke({"messages": [HumanMessage(said(200))]}, config)
    kept = texts(graph)
    saver.delete_for_runs([f"run-{turn}" for turn in range(5)])
    assert len(list(saver.list(thread()))) == 3
    assert texts(graph) == kept
    assert findings(saver.memos) == []


def test_what_is_put_again_leaves_nothing_of_before(saver: MemOSSaver, make: Make) -> None:
    first = make(a=said(5000))
    config = saver.put(thread(), first, {"source": "loop"}, {"a": "1"})
    before = chunks(saver.memos)
    for _ in range(3):
        other = {**first, "channel_values": {"a": said(5000)}}
        saver.put(thread(), other, {"source": "loop"}, {"a": "1"})  # type: ignore[arg-type]
        saver.put_writes(config, [("__error__", said(3000))], "task")
    assert chunks(saver.memos) <= before + 20
    assert findings(saver.memos) == []


def test_another_saver_may_delete_what_this_one_has_seen(vault: Path) -> None:
    """It must not believe that what it stored before is still there."""
    with MemOSSaver.from_conn_string(vault) as mine, MemOSSaver.from_conn_string(vault) as other:
        graph = chat(mine)
        messages: list[BaseMessage] = [HumanMessage(said(500), id=str(n)) for n in range(30)]
        graph.update_state(thread(), {"messages": messages})
        for delete in (lambda: other.delete_thread("1"), lambda: other.prune(["1"], strategy="delete")):
            delete()
            assert graph.get_state(thread()).values == {}
            graph.update_state(thread(), {"messages": messages})
            assert texts(graph) == [m.content for m in messages]
        graph.update_state(thread(), {"messages": [RemoveMessage("__remove_all__")]})
        other.prune(["1"])
        graph.update_state(thread(), {"messages": messages})
        with MemOSSaver.from_conn_string(vault) as third:
            assert texts(chat(third)) == [m.content for m in messages]
            assert findings(third.memos) == []


# -- what is handed out is the caller's ---------------------------------------------------------------------


def rich() -> list[BaseMessage]:
    return [
        HumanMessage(
            [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "x"}}], id="1"
        ),
        AIMessage(
            "",
            id="2",
            tool_calls=[{"name": "find", "args": {"where": {"city": ["Paris", 1, True, None]}}, "id": "c"}],
            additional_kwargs={"deep": {"list": [{"a": 1}]}},
            response_metadata={"tokens": [1, 2.5]},
            usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        ),
        ToolMessage("found", tool_call_id="c", artifact={"rows": [[1, 2], {"x": (3, 4)}]}, id="3"),
        HumanMessage("hello", id="4", name="ada", more="extra"),  # type: ignore[call-arg]
    ]


def spoil(messages: list[BaseMessage]) -> None:
    """Change everything that can be changed in place."""
    messages[0].content[1]["image_url"]["url"] = "spoilt"  # type: ignore[index]
    ai, tool = messages[1], messages[2]
    assert isinstance(ai, AIMessage)
    assert isinstance(tool, ToolMessage)
    ai.tool_calls[0]["args"]["where"]["city"].append("spoilt")
    ai.additional_kwargs["deep"]["list"][0]["a"] = "spoilt"
    ai.response_metadata["tokens"].clear()
    tool.artifact["rows"][1]["x"] = "spoilt"
    messages[3].additional_kwargs["x"] = "spoilt"
    messages[3].content = "spoilt"
    messages[3].spoilt = 1  # type: ignore[attr-defined]
    messages.append(HumanMessage("spoilt"))


def test_what_is_handed_out_shares_nothing(saver: MemOSSaver, make: Make) -> None:
    for step in range(3):
        config = saver.put(thread(), make({"messages": "1", "n": str(step)}, messages=rich(), n=step), {}, {})
    saver.put_writes(config, [("messages", rich())], "task")
    fresh = MemOSSaver(saver.memos)

    def every() -> list[list[BaseMessage]]:
        found = [f for _ in range(2) for f in fresh.list(thread())]
        found += [f for _ in range(3) if (f := fresh.get_tuple(thread())) is not None]
        values = [f.checkpoint["channel_values"]["messages"] for f in found]
        return values + [w[2] for f in found for w in f.pending_writes or ()]

    expected = saver.serde.loads_typed(saver.serde.dumps_typed(rich()))
    for _ in range(3):
        some = every()
        assert some == [expected] * len(some)
        dumps = [[m.model_dump() for m in messages] for messages in some]
        assert dumps == [[m.model_dump() for m in expected]] * len(some)
        assert all(
            m.model_fields_set == e.model_fields_set for ms in some for m, e in zip(ms, expected, strict=True)
        )
        for messages in some:
            spoil(messages)


def test_a_message_that_was_changed_in_place_is_stored_as_it_is_now(saver: MemOSSaver, make: Make) -> None:
    messages = rich()
    first = saver.put(thread(), make(messages=messages), {}, {"messages": "1"})
    before = saver.serde.loads_typed(saver.serde.dumps_typed(messages))
    spoil(messages)
    second = saver.put(thread(), make({"messages": "2"}, messages=messages), {}, {"messages": "2"})
    after = saver.serde.loads_typed(saver.serde.dumps_typed(messages))
    assert saver.get_tuple(first).checkpoint["channel_values"]["messages"] == before  # type: ignore[union-attr]
    assert saver.get_tuple(second).checkpoint["channel_values"]["messages"] == after  # type: ignore[union-attr]
    assert before != after


@pytest.mark.parametrize(
    "one", [1, 1.0, True, None, "1", [1], {"a": 1}, {1: "a"}, b"1", (1,), {"a": {"b": (1, 2)}}]
)
def test_messages_that_are_equal_but_not_alike_are_told_apart(
    saver: MemOSSaver, make: Make, one: Any
) -> None:
    for other in (1, 1.0, True, [1], (1,), b"1"):
        for value in (one, other):
            messages = [HumanMessage("x", id="1", additional_kwargs={"v": value}), AIMessage("y" * 200)]
            config = saver.put(thread(), make(messages=messages), {}, {"messages": "1"})
            for found in (saver.get_tuple(config), next(saver.list(thread()))):
                stored = found.checkpoint["channel_values"]["messages"]  # type: ignore[union-attr]
                expected = saver.serde.loads_typed(saver.serde.dumps_typed(messages))
                assert repr(stored) == repr(expected)


def in_memory(text: str) -> list[object]:
    """What this process keeps that has a text in it."""
    gc.collect()
    raw = text.encode()

    def holds(part: object) -> bool:
        if part is text or part is raw:
            return False
        return (isinstance(part, str) and text in part) or (isinstance(part, bytes) and raw in part)

    return [holder for holder in gc.get_objects() if any(map(holds, gc.get_referents(holder)))]


@pytest.mark.parametrize("encryption", [False, b"k" * 32], ids=["plain", "encrypted"])
def test_what_is_erased_is_not_kept_in_memory_either(vault: Path, encryption: bytes | bool) -> None:
    secret = said(30)
    with MemOSSaver.from_conn_string(vault, encryption=encryption) as saver:
        config: Any = {"configurable": {"thread_id": "1", "user_id": "ada"}}
        graph = chat(saver)
        graph.invoke({"messages": [HumanMessage(f"It is {secret}, {said(300)}")]}, config)
        assert secret in texts(graph)[0]
        assert in_memory(secret)
        saver.memos.scoped(user="ada").erase()
        assert graph.get_state(config).values == {}
        assert in_memory(secret) == []

"""MemOSSaver under real graphs."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langgraph.checkpoint.memos import AsyncMemOSSaver, MemOSSaver


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


def extend(values: list[str], updates: list[list[str]]) -> list[str]:
    return [*values, *(item for update in updates for item in update)]


class Delta(TypedDict):
    log: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=4)]
    turn: int


def ask(state: Log) -> dict[str, Any]:
    return {"log": [f"answer: {interrupt('name?')}"]}


def greet(state: Log) -> dict[str, Any]:
    return {"log": ["greeted"]}


def asking(checkpointer: Any) -> Any:
    builder = StateGraph(Log)
    builder.add_node("greet", greet)
    builder.add_node("ask", ask)
    builder.add_edge(START, "greet")
    builder.add_edge("greet", "ask")
    builder.add_edge("ask", END)
    return builder.compile(checkpointer=checkpointer)


def chatting(checkpointer: Any) -> Any:
    def reply(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"you said {state['messages'][-1].content}")]}

    return (
        StateGraph(MessagesState).add_node("reply", reply).add_edge(START, "reply").add_edge("reply", END)
    ).compile(checkpointer=checkpointer)


def thread(thread_id: Any) -> Any:
    return {"configurable": {"thread_id": thread_id}}


def test_an_interrupted_run_resumes_after_reopening(vault: Path) -> None:
    with MemOSSaver.from_conn_string(vault) as saver:
        stopped = asking(saver).invoke({"log": ["start"]}, thread("1"))
        assert stopped["__interrupt__"][0].value == "name?"
        saver.setup()
        saver.setup()
    with MemOSSaver.from_conn_string(vault) as saver:
        graph = asking(saver)
        assert graph.get_state(thread("1")).next == ("ask",)
        assert graph.get_state(thread("1")).tasks[0].interrupts[0].value == "name?"
        done = graph.invoke(Command(resume="Ada"), thread("1"))
        assert done["log"] == ["start", "greeted", "answer: Ada"]
        assert graph.get_state(thread("1")).next == ()


async def test_an_interrupted_run_resumes_async(vault: Path) -> None:
    async with AsyncMemOSSaver.from_conn_string(vault) as saver:
        await saver.setup()
        graph = asking(saver)
        await graph.ainvoke({"log": ["start"]}, thread("1"))
        assert (await graph.aget_state(thread("1"))).next == ("ask",)
        done = await graph.ainvoke(Command(resume="Ada"), thread("1"))
        assert done["log"] == ["start", "greeted", "answer: Ada"]
        steps = [s.metadata["step"] async for s in graph.aget_state_history(thread("1"))]
        assert steps == [2, 1, 0, -1]
        # The same object serves sync callers.
        assert [s.metadata["step"] for s in graph.get_state_history(thread("1"))] == steps


def test_threads_do_not_see_one_another(saver: MemOSSaver) -> None:
    graph = chatting(saver)
    graph.invoke({"messages": [HumanMessage("red")]}, thread("a"))
    graph.invoke({"messages": [HumanMessage("blue")]}, thread("b"))
    graph.invoke({"messages": [HumanMessage("green")]}, thread("a"))
    said = {t: [m.content for m in graph.get_state(thread(t)).values["messages"]] for t in "ab"}
    assert said == {"a": ["red", "you said red", "green", "you said green"], "b": ["blue", "you said blue"]}
    saver.delete_thread("a")
    assert graph.get_state(thread("a")).values == {}
    assert len(graph.get_state(thread("b")).values["messages"]) == 2


def test_tenants_do_not_see_one_another(vault: Path) -> None:
    with (
        MemOSSaver.from_conn_string(vault, tenant="acme") as acme,
        MemOSSaver.from_conn_string(vault, tenant="other") as other,
    ):
        chatting(acme).invoke({"messages": [HumanMessage("red")]}, thread("1"))
        assert other.get_tuple(thread("1")) is None
        assert list(other.list(None)) == []
        other.delete_thread("1")
        other.prune(["1"], strategy="delete")
        assert acme.get_tuple(thread("1")) is not None


def test_the_past_can_be_forked(saver: MemOSSaver) -> None:
    graph = chatting(saver)
    graph.invoke({"messages": [HumanMessage("red")]}, thread("1"))
    graph.invoke({"messages": [HumanMessage("green")]}, thread("1"))
    first = next(
        s for s in graph.get_state_history(thread("1")) if len(s.values["messages"]) == 2 and not s.next
    )
    forked = graph.update_state(first.config, {"messages": [HumanMessage("blue")]}, as_node=START)
    assert saver.get_tuple(forked).parent_config == first.config  # type: ignore[union-attr]
    said = [m.content for m in graph.invoke(None, forked)["messages"]]
    assert said == ["red", "you said red", "blue", "you said blue"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_subgraphs_and_durability(saver: MemOSSaver, durability: Any) -> None:
    inner = asking(None)

    def note(state: Log) -> dict[str, Any]:
        return {"log": ["after"]}

    outer = StateGraph(Log).add_node("inner", inner).add_node("note", note)
    graph = outer.add_edge(START, "inner").add_edge("inner", "note").compile(checkpointer=saver)
    graph.invoke({"log": ["start"]}, thread("1"), durability=durability)
    nested = {t.config["configurable"]["checkpoint_ns"] for t in saver.list(thread("1"))}
    assert len(nested) == 2
    assert "" in nested
    done = graph.invoke(Command(resume="Ada"), thread("1"), durability=durability)
    assert done["log"][-2:] == ["answer: Ada", "after"]


def test_a_delta_channel_survives_pruning(saver: MemOSSaver) -> None:
    def step(state: Delta) -> dict[str, Any]:
        return {"log": [f"step {state['turn']}"]}

    graph = StateGraph(Delta).add_node("step", step).add_edge(START, "step").compile(checkpointer=saver)
    for turn in range(7):
        graph.invoke({"log": [f"turn {turn}"], "turn": turn}, thread("1"))
        before = graph.get_state(thread("1")).values
        assert len(before["log"]) == 2 * (turn + 1)
        saver.prune(["1"])
        assert graph.get_state(thread("1")).values == before
    assert len(list(saver.list(thread("1")))) < 7  # of 21, as snapshots come every fourth update
    saver.copy_thread("1", "2")
    assert graph.get_state(thread("2")).values == before
    saver.prune(["1"], strategy="delete_all")
    assert saver.get_tuple(thread("1")) is None


def test_pruning_keeps_an_interrupt(saver: MemOSSaver) -> None:
    graph = asking(saver)
    graph.invoke({"log": ["start"]}, thread("1"))
    saver.prune(["1"])
    assert len(list(saver.list(thread("1")))) == 1
    assert graph.get_state(thread("1")).tasks[0].interrupts[0].value == "name?"
    assert graph.invoke(Command(resume="Ada"), thread("1"))["log"][-1] == "answer: Ada"

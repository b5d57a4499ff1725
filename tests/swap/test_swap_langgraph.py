"""Small LangGraph programs, each run with LangGraph's own checkpointer or store and then with only the import and the
constructor changed. What they show to their user must be the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import InvalidNamespaceError
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send, interrupt
from support import DIMS, bag_of_words

from langgraph.checkpoint.memos import AsyncMemOSSaver, MemOSSaver
from langgraph.store.memos import MemOSStore
from memos_core import MemOS


class Model(BaseChatModel):
    """Answers with the number of messages it sees; calls the tool it has for every "?"."""

    tools: list[Any] = []  # noqa: RUF012 - a field of a pydantic model

    @property
    def _llm_type(self) -> str:
        return "counting"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.model_copy(update={"tools": list(tools)})

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        asks = self.tools and messages[-1].type == "human" and "?" in messages[-1].text
        calls = [ToolCall(name=self.tools[0].name, args={}, id=f"c{len(messages)}")] if asks else []
        message = AIMessage(f"{len(messages)} messages", tool_calls=calls, id=f"r{len(messages)}")
        return ChatResult(generations=[ChatGeneration(message=message)])


class Total(TypedDict):
    total: Annotated[int, operator.add]
    note: str


def on(thread: str, **more: Any) -> Any:
    return {"configurable": {"thread_id": thread, **more}}


def texts(state: Any) -> list[str]:
    return [message.text for message in state["messages"]]


# -- programs with a checkpointer ----------------------------------------------------------------------------


def a_chat_that_goes_on(saver: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda state: {"messages": [Model().invoke(state["messages"])]})
    builder.add_edge(START, "answer")
    graph = builder.compile(checkpointer=saver)
    for text in ("Hello", "Still there"):
        graph.invoke({"messages": [HumanMessage(text)]}, on("one"))
    graph.invoke({"messages": [HumanMessage("Hi")]}, on("two"))
    return [texts(graph.get_state(on(thread)).values) for thread in ("one", "two")]


async def an_agent_with_a_tool(saver: Any) -> Any:
    @tool
    def clock() -> str:
        """The time."""
        return "noon"

    agent = create_agent(Model(), [clock], checkpointer=saver)
    for text in ("What time is it?", "Thanks"):
        state = await agent.ainvoke({"messages": [HumanMessage(text)]}, on("one"))
    return texts(state), [m.type for m in state["messages"]]


def a_human_who_is_asked(saver: Any) -> Any:
    def propose(state: Total) -> Any:
        return {"note": f"approved: {interrupt('Shall I?')}", "total": 1}

    builder = StateGraph(Total)
    builder.add_node("propose", propose)
    builder.add_edge(START, "propose")
    graph = builder.compile(checkpointer=saver)
    stopped = graph.invoke({"total": 1}, on("one"))
    waiting = graph.get_state(on("one")).next
    return (
        [i.value for i in stopped["__interrupt__"]],
        waiting,
        graph.invoke(Command(resume="yes"), on("one")),
    )


def going_back_in_time(saver: Any) -> Any:
    builder = StateGraph(Total)
    for name in ("one", "two", "three"):
        builder.add_node(name, lambda state, name=name: {"total": 1, "note": name})  # type: ignore[misc]
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", "three")
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"total": 0}, on("one"))
    history = list(graph.get_state_history(on("one")))
    middle = next(s for s in history if s.next == ("three",))
    forked = graph.update_state(middle.config, {"note": "changed", "total": 10})
    return (
        [(s.next, s.values.get("total"), s.metadata["step"] if s.metadata else None) for s in history],
        graph.invoke(None, forked),
        len(list(graph.get_state_history(on("one")))),
    )


def a_node_that_fails_once(saver: Any) -> Any:
    tried: list[str] = []

    def first(state: Total) -> Any:
        tried.append("first")
        return {"total": 1}

    def second(state: Total) -> Any:
        tried.append("second")
        if tried.count("second") == 1:
            raise RuntimeError("down")
        return {"total": 10}

    builder = StateGraph(Total)
    builder.add_node("first", first)
    builder.add_node("second", second)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    graph = builder.compile(checkpointer=saver)
    with pytest.raises(RuntimeError, match="down"):
        graph.invoke({"total": 0}, on("one"))
    kept = graph.get_state(on("one"))
    return kept.values, kept.next, graph.invoke(None, on("one")), tried  # what was done is not done again


def many_at_once(saver: Any) -> Any:
    builder = StateGraph(Total)
    builder.add_node("work", lambda state: {"total": len(state["note"])})
    builder.add_conditional_edges(
        START, lambda _: [Send("work", {"note": n * "x"}) for n in (1, 2, 3)], ["work"]
    )
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"total": 0}, on("one"))
    return graph.invoke({"total": 100}, on("one"))


def a_graph_in_a_graph(saver: Any) -> Any:
    inner = StateGraph(Total)
    inner.add_node("ask", lambda _: {"note": interrupt("Name?"), "total": 5})
    inner.add_edge(START, "ask")
    outer = StateGraph(Total)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    outer.add_edge("inner", END)
    graph = outer.compile(checkpointer=saver)
    graph.invoke({"total": 1}, on("one"))
    waiting = graph.get_state(on("one"), subgraphs=True)
    inside: Any = waiting.tasks[0].state
    return inside.next, graph.invoke(Command(resume="Maya"), on("one"))


def a_workflow_in_functions(saver: Any) -> Any:
    @task
    def double(n: int) -> int:
        return 2 * n

    @entrypoint(checkpointer=saver)
    def add(n: int, *, previous: Any = None) -> Any:
        total = double(n).result() + (previous or 0)
        return entrypoint.final(value=total, save=total)

    return [add.invoke(n, on("one")) for n in (1, 2, 3)] + [add.invoke(1, on("two"))]


async def a_thread_that_is_deleted(saver: Any) -> Any:
    builder = StateGraph(Total)
    builder.add_node("add", lambda state: {"total": 1})
    builder.add_edge(START, "add")
    graph = builder.compile(checkpointer=saver)
    for _ in range(2):
        await graph.ainvoke({"total": 1}, on("one"))
    before = (await graph.aget_state(on("one"))).values
    await saver.adelete_thread("one")
    return before, (await graph.aget_state(on("one"))).values, [c async for c in saver.alist(on("one"))]


# -- programs with a store -----------------------------------------------------------------------------------


class Context(TypedDict):
    user_id: str


def a_node_that_remembers_its_user(store: Any) -> Any:
    def answer(state: MessagesState, runtime: Runtime[Context]) -> Any:
        assert runtime.store is not None
        place = ("memories", runtime.context["user_id"])
        known = [item.value["text"] for item in runtime.store.search(place)]
        runtime.store.put(place, f"m{len(known)}", {"text": state["messages"][-1].text})
        return {"messages": [AIMessage(f"I know {sorted(known)}")]}

    builder = StateGraph(MessagesState, context_schema=Context)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = builder.compile(store=store)
    said = [("maya", "I sail"), ("maya", "I sing"), ("bob", "I cook"), ("maya", "Well")]
    return [
        texts(graph.invoke({"messages": [HumanMessage(text)]}, context={"user_id": user}))[-1]
        for user, text in said
    ]


def finding_by_meaning(store: Any) -> Any:
    for key, text in (("1", "I love red boats"), ("2", "My car is blue"), ("3", "Tea at five")):
        store.put(("maya",), key, {"text": text, "kind": "note" if key != "3" else "habit"})
    return (
        [item.key for item in store.search(("maya",), query="red boats", limit=1)],
        [item.key for item in store.search(("maya",), query="a blue car", filter={"kind": "note"}, limit=1)],
        sorted(item.key for item in store.search(("maya",), filter={"kind": {"$ne": "note"}})),
        store.search(("bob",), query="red boats"),
    )


async def items_by_address(store: Any) -> Any:
    await store.aput(("a", "b"), "k", {"n": 1})
    await store.aput(("a", "b"), "k", {"n": 2, "deep": {"list": [1, None, "x"]}})
    await store.aput(("a", "c"), "other", {"n": 3})
    found = await store.aget(("a", "b"), "k")
    names = await store.alist_namespaces(prefix=("a",))
    await store.adelete(("a", "b"), "k")
    try:
        store.put((), "k", {})
        refused = None
    except InvalidNamespaceError as err:
        refused = type(err).__name__
    return found.value, sorted(names), await store.aget(("a", "b"), "k"), refused


def an_agents_tool_that_stores(store: Any) -> Any:
    @tool
    def note(runtime: ToolRuntime) -> str:
        """Takes a note."""
        assert runtime.store is not None
        runtime.store.put(("notes",), "last", {"asked": runtime.state["messages"][0].text})
        return "noted"

    agent = create_agent(Model(), [note], store=store)
    state = agent.invoke({"messages": [HumanMessage("Where is it?")]})
    return texts(state), store.get(("notes",), "last").value


# -- what is swapped -----------------------------------------------------------------------------------------


class Swap(NamedTuple):
    """A program, and what it is given before and after."""

    program: Callable[[Any], Any]
    before: Callable[[], Any]
    after: Callable[[MemOS], Any]


SWAPS = [
    *(
        Swap(program, InMemorySaver, MemOSSaver)
        for program in (
            a_chat_that_goes_on,
            an_agent_with_a_tool,
            a_human_who_is_asked,
            going_back_in_time,
            a_node_that_fails_once,
            many_at_once,
            a_graph_in_a_graph,
            a_workflow_in_functions,
            a_thread_that_is_deleted,
        )
    ),
    Swap(an_agent_with_a_tool, InMemorySaver, AsyncMemOSSaver),
    *(
        Swap(program, lambda: InMemoryStore(index={"embed": bag_of_words, "dims": DIMS}), MemOSStore)
        for program in (
            a_node_that_remembers_its_user,
            finding_by_meaning,
            items_by_address,
            an_agents_tool_that_stores,
        )
    ),
]


@pytest.mark.parametrize("swap", SWAPS, ids=lambda swap: swap.program.__name__)
async def test_a_program_does_the_same_after_the_swap(memos: MemOS, swap: Swap) -> None:
    results = []
    for given in (swap.before(), swap.after(memos)):
        result = swap.program(given)
        results.append(await result if hasattr(result, "__await__") else result)
    before, after = results
    assert after == before
